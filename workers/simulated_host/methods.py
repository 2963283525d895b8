"""The pRPC methods of a simulated host. Texts and fields are dstack-vmm's (`vmm/src/app.rs`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.simulated_host.behaviour import VM_ID_PATTERN
from workers.simulated_host.requests import Arguments, IdArguments, StatusArguments
from workers.simulated_host.vm import RefusedError
from workers.simulated_host.vm_info import vm_info


if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.simulated_host.host import Host, Resident


class RpcError(Exception):
    """The method says no. The text goes out as a 400."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a method did."""

    payload: object = None
    """JSON of the answer; `None` for the empty message."""
    killed: bool = False
    """Whether it killed a process."""
    reported: str | None = None
    """Status of the one VM that was asked for, or `absent`."""
    blocks: float = 0.0
    """Seconds until the answer goes out."""


def carry_out(host: Host, method: str, arguments: Arguments) -> Outcome:
    """Do what a request asks for.

    Raises
    ------
    RpcError
        As dstack-vmm words it.
    """
    match arguments:
        case StatusArguments():
            return _status(host, arguments)
        case IdArguments():
            return _ON_ONE_VM[method](host, arguments.id)
        case _:
            return Outcome(payload=_ABOUT_THE_HOST[method](host))


def _status(host: Host, asked: StatusArguments) -> Outcome:
    """List VMs. Ids that are not there are left out; page or size 0 gives everything."""
    found = [
        resident
        for resident in host.residents()
        if (not asked.ids or resident.id in asked.ids)
        and (asked.keyword in resident.name or asked.keyword in resident.id)
    ]
    total = len(found)
    if asked.page and asked.page_size:
        begin = (asked.page - 1) * asked.page_size
        found = found[begin : begin + asked.page_size]
    vms = [vm_info(resident, host.clock(), brief=asked.brief) for resident in found]
    return Outcome(payload={"vms": vms, "port_mapping_enabled": False, "total": total})


def _get_info(host: Host, vm_id: str) -> Outcome:
    resident = host.find(vm_id)
    if resident is None:
        return Outcome(payload={"found": False, "info": None}, reported="absent")
    info = vm_info(resident, host.clock(), brief=False)
    return Outcome(payload={"found": True, "info": info}, reported=str(info["status"]))


def _stop(host: Host, vm_id: str) -> Outcome:
    """Kill. For an unknown VM the text's tail is made up: only its beginning is known."""
    if not host.behaviour.is_before_0_6 and re.fullmatch(VM_ID_PATTERN, vm_id) is None:
        msg = "Failed to stop VM: invalid VM id"
        raise RpcError(msg)
    resident = host.find(vm_id)
    if resident is None:
        msg = (
            "Failed to stop VM: Failed to set started: failed to write state: "
            "No such file or directory (os error 2)"
        )
        raise RpcError(msg)
    resident.stop_requests += 1
    kills = resident.vm.kills
    try:
        blocks = resident.vm.stop(refuse_unlaunched=host.behaviour.is_before_0_6)
    except RefusedError as error:
        msg = f"Failed to stop VM: {error}"
        raise RpcError(msg) from error
    return Outcome(killed=resident.vm.kills > kills, blocks=blocks)


def _start(host: Host, vm_id: str) -> Outcome:
    try:
        _required(host, vm_id, "Failed to start VM: VM not found").vm.start()
    except RefusedError as error:
        msg = f"Failed to start VM: {error}"
        raise RpcError(msg) from error
    return Outcome()


def _shut_down(host: Host, vm_id: str) -> Outcome:
    try:
        _required(host, vm_id, "vm not found").vm.shut_down()
    except RefusedError as error:
        raise RpcError(str(error)) from error
    return Outcome()


def _remove(host: Host, vm_id: str) -> Outcome:
    vm = _required(host, vm_id, "Failed to remove VM: VM not found").vm
    kills = vm.kills
    vm.remove()
    return Outcome(killed=vm.kills > kills)


def _required(host: Host, vm_id: str, text: str) -> Resident:
    resident = host.find(vm_id)
    if resident is None:
        raise RpcError(text)
    return resident


def _version(host: Host) -> object:
    return {"version": host.behaviour.version, "rev": host.behaviour.revision}


def _list_gpus(_host: Host) -> object:
    return {"gpus": [], "allow_attach_all": False}


def _get_meta(host: Host) -> object:
    return {
        "kms": {"url": "", "urls": []},
        "gateway": {"url": "", "base_domain": "", "port": 0, "agent_port": 0, "urls": []},
        "resources": {
            "max_cvm_number": max(100, len(host.residents())),
            "max_allocable_vcpu": 64,
            "max_allocable_memory_in_mb": 262_144,
        },
        "networking": {"supported_modes": ["user"], "default_mode": "user", "default_bridge": ""},
    }


_ON_ONE_VM: dict[str, Callable[[Host, str], Outcome]] = {
    "GetInfo": _get_info,
    "StopVm": _stop,
    "StartVm": _start,
    "ShutdownVm": _shut_down,
    "RemoveVm": _remove,
}

_ABOUT_THE_HOST: dict[str, Callable[[Host], object]] = {
    "Version": _version,
    "ListGpus": _list_gpus,
    "GetMeta": _get_meta,
}
