"""Looks the pinned set up among known vulnerabilities, and says so when that could not be done.

Exit status: 0 nothing is known, 1 something is, 3 some or all could not be looked up. (pip-audit
ends with 0 when it was told nothing about any package, and with 1 also when there is no network.)
"""  # noqa: INP001 - a program, in no package

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]

FOUND = 1
"""Exit status: there are known vulnerabilities."""

NOT_KNOWN = 3
"""Exit status: some packages could not be looked up."""


def main() -> int:
    """Run pip-audit, tell what it found, and give the exit status."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("pip-audit"),
            "--disable-pip",
            "--require-hashes",
            "--progress-spinner=off",
            "--format=json",
            f"--requirement={ROOT / 'requirements.txt'}",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        _tell(f"not done, the index's vulnerability data cannot be reached: {reason[:200]}")
        return NOT_KNOWN
    known = [
        f"{package['name']} {package['version']}: {vulnerability['id']},"
        f" fixed in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in packages
        for vulnerability in package.get("vulns", ())
    ]
    looked_up = sum("skip_reason" not in package for package in packages)
    if not looked_up:
        _tell("not done, nothing was checked: the index has no vulnerability data of any package")
        return NOT_KNOWN
    for line in known:
        _tell(line)
    _tell(
        f"{looked_up} of {len(packages)} packages could be looked up in the index's vulnerability"
        f" data, {len(known)} known vulnerabilities"
    )
    if known:
        return FOUND
    return 0 if packages and looked_up == len(packages) else NOT_KNOWN


def _tell(line: str) -> None:
    sys.stdout.write(f"audit: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
