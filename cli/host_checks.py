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
from shared.storage.inventory import read_standings
from workers.drivers.errors import HostError
from workers.drivers.protocol import CallBounds
from workers.drivers.registry import Drivers


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.models.hosts import HostConnection
    from shared.models.turns import Exchange

AT_ONCE = 32
"""Hosts that are asked at once, so that silent ones hold nobody up."""

NO_ANSWER = {ErrorCode.HOST_UNREACHABLE, ErrorCode.HOST_TIMEOUT, ErrorCode.CONNECTION_LOST}
"""Errors after which it is not known who is at the address."""

Report = dict[str, Any]
"""What a host answered just now: `name`, `address`, `ok`, `reachable`, `authenticated`, `version`,
`revision`, `vms` (how many it lists), `error_code`, `error`; what could not be found out is None.

And how it stands with us: `cap`, `stops_open`, `breaker` (`closed`, `open` or `half_open`),
`last_error` (the last time that a stop did not reach it), `disabled`.
"""


def check_hosts(names: Sequence[str]) -> list[Report]:
    """Ask the named hosts (all when none is named) for their version and VMs, many at once.

    Raises
    ------
    CvmstopError
        No such host, or the settings or the database are not well.
    """
    settings = Settings.load()
    sealer = Sealer(settings.sealing_keys)
    reports: list[Report] = []
    connections: list[HostConnection] = []
    standings: dict[str, Mapping[Any, Any]] = {}
    with edge.session(settings) as session:
        hosts = require_hosts(session, names)
        found = read_standings(session, [host.id for host in hosts])
        for host in hosts:
            standings[host.name] = {
                key: value for key, value in found[host.id].items() if key != "id"
            }
            report = _unasked(host.name, host.address)
            try:
                connections.append(connection_of(host, sealer))
            except SealError as error:
                _note(report, ErrorCode.BAD_HOST_CONFIGURATION, str(error))
                reports.append(report)
    drivers = Drivers(settings)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        reports += pool.map(lambda connection: _check(drivers, connection, settings), connections)
    drivers.close()
    full = [{**report, **standings[report["name"]]} for report in reports]
    return sorted(full, key=lambda report: str(report["name"]))


def _check(drivers: Drivers, connection: HostConnection, settings: Settings) -> Report:
    """Ask one host: both requests end within the time of one connection and one query."""
    longest = settings.host_connect_timeout + settings.host_query_timeout
    bounds = CallBounds(deadline=time.monotonic() + longest, record=_forget)
    report = _unasked(connection.name, connection.address)
    try:
        driver = drivers.get(connection)
        version = driver.ping(bounds)
        report |= {"reachable": True, "authenticated": True}
        report |= {"version": version.version, "revision": version.revision}
        report["vms"] = len(driver.list_vms(bounds))
    except HostError as error:
        _note(report, error.code, error.message)
    except Exception as error:  # noqa: BLE001 - one host's fault must not cost the others' reports
        _note(report, ErrorCode.INTERNAL, f"a fault in cvmstop ({type(error).__name__}: {error})")
    else:
        report["ok"] = True
    return report


def _unasked(name: str, address: str) -> Report:
    found_out = ("reachable", "authenticated", "version", "revision", "vms", "error_code", "error")
    return {"name": name, "address": address, "ok": False, **dict.fromkeys(found_out)}


def _note(report: Report, code: ErrorCode, message: str) -> None:
    """Note why a host is not well; what it has answered before stays."""
    if code is not ErrorCode.BAD_HOST_CONFIGURATION and report["reachable"] is None:
        report["reachable"] = code not in NO_ANSWER
    if code is ErrorCode.CREDENTIALS_REFUSED:
        report["authenticated"] = False
    report |= {"error_code": str(code), "error": message}


def _forget(exchange: Exchange) -> None:
    """Take what was sent and answered; the report says enough."""
