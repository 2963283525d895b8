"""Completion, in a real bash; what zsh and fish would run is asked for as they do."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cli.main import COMMANDS


if TYPE_CHECKING:
    from pathlib import Path

COMPLETE = """
source <(cvmstop completion bash)
read -ra registered <<<"$(complete -p cvmstop)"
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
"${{registered[-2]}}" cvmstop
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
"""What bash does for a TAB: it calls the function that was registered for the command."""


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Give an environment with an installed `cvmstop`."""
    program = tmp_path / "cvmstop"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cli "$@"\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def run_bash(environment: dict[str, str], script: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, "--norc", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def completed(installed: dict[str, str], *words: str) -> set[str]:
    done = run_bash(installed, COMPLETE.format(words=shlex.join(["cvmstop", *words])))
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), set(COMMANDS)),
        (("sto",), {"stop"}),
        (("batches", ""), {"list", "show", "retry", "cancel"}),
        (("failures", "li"), {"list"}),
        (("stop", "--w"), {"--wait", "--workspace"}),
        (("stop", "cvm_1", "--wait", "--js"), {"--json"}),
        (("completion", ""), {"bash", "zsh", "fish"}),
    ],
)
def test_bash(installed: dict[str, str], words: tuple[str, ...], expected: set[str]) -> None:
    assert completed(installed, *words) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_others(installed: dict[str, str], shell: str) -> None:
    """Their scripts call the command with variables; that is answered."""
    script = run_bash(installed, f"cvmstop completion {shell}").stdout
    assert f"_CVMSTOP_COMPLETE=complete_{shell}" in script
    asked = {
        "_CVMSTOP_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "cvmstop batches li",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    answer = run_bash({**installed, **asked}, "cvmstop")
    assert "list" in answer.stdout
    assert "show" not in answer.stdout


def test_another_shell(installed: dict[str, str]) -> None:
    done = run_bash(installed, "cvmstop completion tcsh")
    assert done.returncode == 2
    assert "bash" in done.stderr
