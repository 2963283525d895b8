"""`VmInfo`, as GetInfo and Status give it (`vmm/rpc/proto/vmm_rpc.proto`)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from workers.simulated_host.host import Resident


def vm_info(resident: Resident, now: float, *, brief: bool) -> dict[str, object]:
    """Describe a VM to a client.

    Parameters
    ----------
    resident
        The VM.
    now
        Seconds of the host's clock.
    brief
        Leave the configuration out (null).
    """
    vm = resident.vm
    status = vm.look()
    return {
        "id": resident.id,
        "name": resident.name,
        "status": status.value,
        "uptime": elapsed(vm.launched_at, now),
        "app_url": None,
        "app_id": _app_id(resident.id),
        "instance_id": None,
        "configuration": None if brief else _configuration(resident),
        "exited_at": elapsed(vm.exited_at, now),
        "boot_progress": "done" if vm.process else "",
        "boot_error": "",
        "shutdown_progress": "",
        "image_version": "0.5.4",
        "events": [],
        "interfaces": [],
    }


def elapsed(since: float | None, now: float) -> str:
    """Word a duration as dstack-vmm does: `1h 5m 3s`, or `never` without a beginning."""
    if since is None:
        return "never"
    seconds = int(now - since)
    parts = []
    for unit, length in (("day", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        amount, seconds = divmod(seconds, length)
        if amount:
            parts.append(f"{amount}{unit}{'s' if unit == 'day' and amount > 1 else ''}")
    return " ".join(parts) or "0s"


def _app_id(vm_id: str) -> str:
    return hashlib.sha256(vm_id.encode()).hexdigest()[:40]


def _configuration(resident: Resident) -> dict[str, object]:
    """Give the fields of `VmConfiguration` that clients of this project look at."""
    return {
        "name": resident.name,
        "image": "dstack-0.5.4",
        "compose_file": "{}",
        "vcpu": 1,
        "memory": 2048,
        "disk_size": 20,
        "ports": [],
        "app_id": _app_id(resident.id),
        "gpus": None,
        "stopped": not resident.vm.started,
    }
