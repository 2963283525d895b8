"""The simulated VM hosts of the cluster, and the CVMs on them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

import httpx

from shared.models.inventory import CvmRecord


if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.system.faults.part import Part

CAP = 16
"""Stops at once on each host."""

WORKSPACES = ("acme", "globex")
"""CVMs are dealt out to both in turn; the member is one of the first."""

WELL: dict[str, Any] = {
    "dead": False,
    "faults": [],
    "never_stops": False,
    "comebacks": 0,
    "undone_stops": 0,
    "blocking_stop_seconds": 0,
    "latency": 0.005,
    "stop_seconds": 0.1,
}
"""How a host behaves that nothing is wrong with."""


@dataclass(kw_only=True)
class Machine:
    """One VM host: its process, and a handle to look at it and change it while it runs."""

    part: Part
    url: str
    """Where it listens itself; workers may be told another address, with a proxy in between."""
    journal: Path
    """Its own log of what it was asked, a JSON line each."""
    token: str = field(repr=False)

    @property
    def name(self) -> str:
        return self.part.name

    def behave(self, **behaviour: Any) -> None:
        """Change how it behaves (`HostBehaviour`)."""
        self._control("PATCH", "host", behaviour)

    def start_vms(self) -> None:
        """Make every VM run, as if somebody had started it."""
        self._control("PATCH", "vms", {"status": "running"})

    def reset_gauge(self) -> None:
        """Forget how many force stops were under way at once."""
        self._control("POST", "reset-log", None)

    def state(self) -> dict[str, Any]:
        """Ask for VMs and counters."""
        found: dict[str, Any] = self._control("GET", "state", None)
        return found

    def _control(self, method: str, path: str, body: Any) -> Any:
        # Its certificate may be expired on purpose.
        url = f"{self.url}/simulator/{path}"
        answer = httpx.request(method, url, json=body, verify=False, timeout=30)  # noqa: S501
        answer.raise_for_status()
        return answer.json()


def cvm_records(count: int, hosts: Sequence[str]) -> list[CvmRecord]:
    """Make CVMs, dealt out to workspaces and hosts."""
    return [
        CvmRecord(
            line=number + 1,
            hash_id=f"cvm_{number:08d}",
            name=f"cvm {number}",
            workspace=WORKSPACES[number % len(WORKSPACES)],
            host=hosts[number // len(WORKSPACES) % len(hosts)],
            vm_uuid=str(uuid5(NAMESPACE_URL, f"faults:{number}")),
            status="running",
            gpu_rental_order=None,
            keeps_gpu_rental_order=False,
        )
        for number in range(count)
    ]


def write_vms(path: Path, records: Sequence[CvmRecord], host: str) -> None:
    """Write the file from which a host's process learns of its VMs."""
    vms = [{"id": each.vm_uuid, "name": each.name} for each in records if each.host == host]
    path.write_text("".join(f"{json.dumps(vm)}\n" for vm in vms))
