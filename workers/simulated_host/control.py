"""The control endpoint, `/simulator/…`: look at a host and change it while it runs.

It is no part of dstack-vmm, asks for no credentials, and no fault touches it.

| Request | Does |
|---|---|
| `GET /simulator/state` | behaviour, VMs, how many StopVm are and were under way at once |
| `GET /simulator/log` | every pRPC request, in the order in which they came |
| `PATCH /simulator/host` | changes fields of `HostBehaviour` |
| `POST /simulator/vms` | adds a VM (`VmSpec`) |
| `PATCH /simulator/vms/{id}` | changes a VM (`VmPatch`) |
| `PATCH /simulator/vms` | changes all of them alike |
| `POST /simulator/reset-log` | empties the log in memory, and the highest number of StopVm |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from workers.simulated_host.behaviour import VmPatch, VmSpec


if TYPE_CHECKING:
    from starlette.requests import Request

    from workers.simulated_host.host import Host, Resident

PREFIX = "/simulator/"
"""Paths that belong to the control endpoint."""

_FIELDS: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])


def build_control(host: Host) -> Starlette:
    """Build the control endpoint's ASGI application."""
    app = Starlette(
        routes=[
            Route("/simulator/state", _state, methods=["GET"]),
            Route("/simulator/log", _log, methods=["GET"]),
            Route("/simulator/host", _change_host, methods=["PATCH"]),
            Route("/simulator/vms", _add_vm, methods=["POST"]),
            Route("/simulator/vms", _change_vms, methods=["PATCH"]),
            Route("/simulator/vms/{vm_id}", _change_vm, methods=["PATCH"]),
            Route("/simulator/reset-log", _reset_log, methods=["POST"]),
        ],
        exception_handlers={ValidationError: _say_what_is_wrong},
    )
    app.state.host = host
    return app


def describe(resident: Resident) -> dict[str, object]:
    """Describe a VM as the control endpoint shows it. The VM takes no notice of this look."""
    vm = resident.vm
    return {
        "id": resident.id,
        "name": resident.name,
        "status": vm.status().value,
        "started": vm.started,
        "process": vm.process,
        "stop_requests": resident.stop_requests,
        "kills": vm.kills,
        "behaviour": resident.behaviour.model_dump(mode="json", exclude_unset=True),
    }


def _host(request: Request) -> Host:
    return cast("Host", request.app.state.host)


async def _state(request: Request) -> JSONResponse:
    host = _host(request)
    return JSONResponse(
        {
            "uptime": round(host.journal.uptime, 6),
            "requests": host.journal.count,
            "stop_vm": {"current": host.stop_gauge.current, "max": host.stop_gauge.max},
            "behaviour": host.behaviour.model_dump(mode="json"),
            "vms": [describe(resident) for resident in host.residents()],
        }
    )


async def _log(request: Request) -> JSONResponse:
    return JSONResponse([entry.as_json() for entry in _host(request).journal])


async def _change_host(request: Request) -> JSONResponse:
    host = _host(request)
    host.change(_FIELDS.validate_json(await request.body()))
    return JSONResponse(host.behaviour.model_dump(mode="json"))


async def _add_vm(request: Request) -> JSONResponse:
    spec = VmSpec.model_validate_json(await request.body())
    try:
        resident = _host(request).add(spec)
    except ValueError as error:
        return JSONResponse({"detail": str(error)}, status_code=409)
    return JSONResponse(describe(resident), status_code=201)


async def _change_vm(request: Request) -> JSONResponse:
    host = _host(request)
    resident = host.find(request.path_params["vm_id"])
    if resident is None:
        return JSONResponse({"detail": "there is no VM with this id"}, status_code=404)
    host.change_vm(resident, VmPatch.model_validate_json(await request.body()))
    return JSONResponse(describe(resident))


async def _change_vms(request: Request) -> JSONResponse:
    host = _host(request)
    patch = VmPatch.model_validate_json(await request.body())
    for resident in host.residents():
        host.change_vm(resident, patch)
    return JSONResponse(None)


async def _reset_log(request: Request) -> JSONResponse:
    host = _host(request)
    host.journal.clear()
    host.stop_gauge.max = host.stop_gauge.current
    return JSONResponse(None)


async def _say_what_is_wrong(_request: Request, error: Exception) -> JSONResponse:
    problems = cast("ValidationError", error).errors(
        include_url=False, include_context=False, include_input=False
    )
    return JSONResponse({"detail": problems}, status_code=422)
