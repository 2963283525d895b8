"""Prints the CVMs of the demo as JSON lines, for `cvmstop cvms import`."""  # noqa: INP001 - a program, in no package

from __future__ import annotations

import json
import sys

from workers.simulated_host.behaviour import generated_vms


HOSTS = ("simulated-host-1", "simulated-host-2", "simulated-host-3")
"""The simulated hosts; `docker-compose.yml` starts each with its name as `--vm-prefix`."""

VMS_PER_HOST = 20
"""`--vms` of each host in `docker-compose.yml`."""

WORKSPACES = ("acme", "globex")
"""Made by `demo-data.sh`. A host's VMs belong to them in turn."""


def main() -> None:
    """Print them all."""
    for place, host in enumerate(HOSTS):
        for number, vm in enumerate(generated_vms(host, VMS_PER_HOST)):
            cvm = {
                "id": f"cvm_demo{place * VMS_PER_HOST + number:03}",
                "name": vm.name,
                "workspace": WORKSPACES[number % len(WORKSPACES)],
                "host": host,
                "vm_uuid": vm.id,
                "status": "running",
            }
            sys.stdout.write(json.dumps(cvm) + "\n")


if __name__ == "__main__":
    main()
