"""Asking VM hosts how they are."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cli import edge
from shared.exceptions import SealError
from shared.models.errors import ErrorCode
from shared.sealing import Sealer
from shared.services.hosts import require_hosts
from shared.services.stops import connection_of
from shared.settings import Settings
from workers.drivers.errors import HostError
from workers.drivers.protocol import CallBounds
from workers.drivers.registry import Drivers


if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.models.hosts import HostConnection
    from shared.models.turns import Exchange

AT_ONCE = 32
"""Hosts that are asked at once, so that silent ones hold nobody up."""

NO_ANSWER = {ErrorCode.HOST_UNREACHABLE, ErrorCode.HOST_TIMEOUT, ErrorCode.CONNECTION_LOST}
"""Errors after which it is not known who is at the address."""

Report = dict[str, Any]
"""Fields: `name`, `address`, `ok`, `reachable`, `authenticated`, `version`, `revision`,
`error_code`, `error`. What could not be found out is None."""


def check_hosts(names: Sequence[str]) -> list[Report]:
    """Ask the named hosts (all when none is named) for their version, many at once.

    Raises
    ------
    CvmstopError
        No such host, or the settings or the database are not well.
    """
    settings = Settings.load()
    sealer = Sealer(settings.sealing_keys)
    reports: list[Report] = []
    connections: list[HostConnection] = []
    with edge.session(settings) as session:
        for host in require_hosts(session, names):
            try:
                connections.append(connection_of(host, sealer))
            except SealError as error:
                code = ErrorCode.BAD_HOST_CONFIGURATION
                reports.append(_failed(host.name, host.address, code, str(error)))
    drivers = Drivers(settings)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports += pool.map(lambda connection: _check(drivers, connection, settings), connections)
    drivers.close()
    return sorted(reports, key=lambda report: str(report["name"]))


def _check(drivers: Drivers, connection: HostConnection, settings: Settings) -> Report:
    longest = settings.host_connect_timeout + settings.host_query_timeout
    bounds = CallBounds(deadline=time.monotonic() + longest, record=_forget)
    try:
        version = drivers.get(connection).ping(bounds)
    except HostError as error:
        return _failed(connection.name, connection.address, error.code, error.message)
    return {
        "name": connection.name,
        "address": connection.address,
        "ok": True,
        "reachable": True,
        "authenticated": True,
        "version": version.version,
        "revision": version.revision,
        "error_code": None,
        "error": None,
    }


def _failed(name: str, address: str, code: ErrorCode, message: str) -> Report:
    reachable: bool | None = code not in NO_ANSWER
    if code is ErrorCode.BAD_HOST_CONFIGURATION:
        reachable = None  # It was not even tried.
    return {
        "name": name,
        "address": address,
        "ok": False,
        "reachable": reachable,
        "authenticated": False if code is ErrorCode.CREDENTIALS_REFUSED else None,
        "version": None,
        "revision": None,
        "error_code": str(code),
        "error": message,
    }


def _forget(exchange: Exchange) -> None:
    """Take what was sent and answered; the report says enough."""
