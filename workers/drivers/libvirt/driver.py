"""Driver for hosts that libvirt manages, by libvirt-python.

Facts of libvirt's QEMU driver are from libvirt `src/qemu/qemu_driver.c` and `qemu_process.c`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from shared.models.errors import ErrorCode
from shared.models.states import PowerState
from workers.drivers.authorization import secret_texts
from workers.drivers.errors import (
    FinalHostError,
    HostError,
)
from workers.drivers.libvirt import failures
from workers.drivers.libvirt.bounded_calls import BoundedCalls, NoDomainError
from workers.drivers.libvirt.connections import LibvirtConnections
from workers.drivers.libvirt.library import load_library
from workers.drivers.libvirt.states import (
    NAMES,
    has_migrated,
    is_set_to_restart,
    power_state_of,
)
from workers.drivers.libvirt.uri import LibvirtUri
from workers.drivers.protocol import HostVersion, HostVm
from workers.drivers.transcript import Transcriber


if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.models.hosts import HostConnection, HostCredentials
    from workers.drivers.libvirt.calls import Call
    from workers.drivers.protocol import CallBounds

Value = TypeVar("Value")

SECOND_LOOK = 2.0
"""Seconds after which a domain that was brought down is looked at again. Ours: who starts domains
again on libvirt's event does it within moments."""

STATE_STATS = ("state.state", "state.reason")
"""Names of what `virDomainGetState` gives, among a domain's statistics."""

MOST_LISTS_GIVEN_UP = 2
"""Lists that were given up and hang still; with so many none is asked for.

A list waits for every domain, also for one that the daemon is stuck with: that must not use up what
stops of the others have.
"""

CLOSE_PATIENCE = 1.0
"""Seconds that closing waits for a daemon."""


class LibvirtDriver:
    """One host, as libvirt sees it.

    Parameters
    ----------
    connection
        Its URI, and a user name and password for SASL if it wants them.
    connect_timeout
        Longest wait for a connection, in seconds.
    query_timeout
        Longest wait for the answer to a question, in seconds.
    stop_timeout
        Longest wait for the answer to a destroy, in seconds. QEMU gets 10 s to end itself and,
        after SIGKILL, 30 s more (`virProcessKillPainfullyDelay`).
    restart_guard
        Seconds after which a domain that libvirt is set to start again is looked at again.

    Raises
    ------
    FinalHostError
        `bad_host_configuration`: the URI or the credentials cannot be used, or libvirt-python is
        not installed.
    """

    def __init__(
        self,
        connection: HostConnection,
        *,
        connect_timeout: float,
        query_timeout: float,
        stop_timeout: float,
        restart_guard: float,
    ) -> None:
        try:
            self._uri = LibvirtUri.parse(connection.address)
            _check_credentials(connection.credentials)
        except ValueError as error:
            msg = f"host {connection.name}: {error}"
            raise FinalHostError(ErrorCode.BAD_HOST_CONFIGURATION, msg) from None
        self._library = load_library()
        self._credentials = connection.credentials
        self._connections = LibvirtConnections(self._library, self._connect)
        transcriber = Transcriber(secret_texts(connection.credentials, None))
        self._calls = BoundedCalls(
            connection.name,
            self._uri.text,
            self._library,
            self._connections,
            transcriber,
            connect_timeout=connect_timeout,
        )
        self._lists = BoundedCalls(
            connection.name,
            self._uri.text,
            self._library,
            self._connections,
            transcriber,
            connect_timeout=connect_timeout,
            most_given_up=MOST_LISTS_GIVEN_UP,
        )
        self._query_timeout = query_timeout
        self._stop_timeout = stop_timeout
        self._restart_guard = restart_guard

    @property
    def hanging_calls(self) -> int:
        """How many calls were given up and hang still."""
        return self._calls.hanging + self._lists.hanging

    def power_state(self, vm_uuid: str, bounds: CallBounds) -> PowerState:
        """Ask what state a domain is in; `ABSENT` for one that the host does not know."""
        request = {"uuid": _uuid(vm_uuid)}

        def work(connection: Any, _call: Call) -> tuple[int, int, bool]:
            domain = connection.lookupByUUIDString(request["uuid"])
            number, reason = domain.state()
            return number, reason, domain.ID() != -1

        def show(answer: tuple[int, int, bool]) -> str:
            name = NAMES.get(answer[0], str(answer[0]))
            return json.dumps({"state": name, "reason": answer[1]})

        try:
            number, reason, is_active = self._ask("virDomainGetState", request, work, show, bounds)
        except NoDomainError:
            return PowerState.ABSENT
        if has_migrated(number, reason):
            msg = f"at {self._uri.text}: the domain has migrated to another host, and may run there"
            raise FinalHostError(ErrorCode.MIGRATED_AWAY, msg)
        return power_state_of(number, is_active=is_active)

    def force_stop(self, vm_uuid: str, bounds: CallBounds) -> None:
        """Have a domain's process killed. One that is off already, or gone, is no error.

        Sent once: if the answer does not come, whether it was carried out is unknown, and the
        caller reads the state.
        """
        request = {"uuid": _uuid(vm_uuid)}

        def work(connection: Any, call: Call) -> str:
            domain = connection.lookupByUUIDString(request["uuid"])
            call.about_to_send()
            try:
                # Without flags: SIGTERM, and SIGKILL for a QEMU that does not end. With
                # VIR_DOMAIN_DESTROY_GRACEFUL there is no SIGKILL. Not shutdown, which asks the
                # guest; not undefine, which forgets the domain.
                domain.destroy()
            except self._library.error as error:
                plain = self._library.plain(error)
                if plain.code == failures.Code.OPERATION_INVALID and not domain.isActive():
                    return plain.message  # "domain is not running"
                raise
            return "null"

        try:
            self._calls.make(
                "virDomainDestroy", request, work, str, bounds, timeout=self._stop_timeout
            )
        except NoDomainError:
            return

    def seconds_of_doubt(self, vm_uuid: str, bounds: CallBounds) -> float:
        """Say when a domain that was just brought down is to be looked at again.

        Destroying runs none of the domain's `on_…` actions, and QEMU's driver starts a domain that
        is off only by `autostart`, when the daemon first starts. A restart that was under way, and
        other clients, are what is looked for.
        """
        request = {"uuid": _uuid(vm_uuid)}

        def work(connection: Any, _call: Call) -> bool:
            domain = connection.lookupByUUIDString(request["uuid"])
            if domain.isPersistent() and domain.autostart():
                return True
            return is_set_to_restart(domain.XMLDesc())

        try:
            restarts = self._ask("virDomainGetXMLDesc", request, work, _show_restarts, bounds)
        except NoDomainError:
            return SECOND_LOOK
        except HostError:
            return max(SECOND_LOOK, self._restart_guard)  # nothing is known: the longer doubt
        return max(SECOND_LOOK, self._restart_guard) if restarts else SECOND_LOOK

    def list_vms(self, bounds: CallBounds) -> list[HostVm]:
        """List every domain of the host, those that are off too, in one call.

        Without those that have migrated away: whether they run, this host does not know.
        """

        def work(connection: Any, _call: Call) -> list[tuple[str, str, int, bool]]:
            try:
                stats = connection.getAllDomainStats(self._library.module.VIR_DOMAIN_STATS_STATE)
            except self._library.error as error:
                if self._library.plain(error).code != failures.Code.NO_SUPPORT:
                    raise
                # ESX and others: one question for each domain
                domains = connection.listAllDomains()
                stats = [
                    (domain, dict(zip(STATE_STATS, domain.state(), strict=True)))
                    for domain in domains
                ]
            return [
                (domain.UUIDString(), domain.name(), values["state.state"], domain.ID() != -1)
                for domain, values in stats
                if not has_migrated(values["state.state"], values.get("state.reason", 0))
            ]

        def show(domains: list[tuple[str, str, int, bool]]) -> str:
            return f"{len(domains)} domains"

        found = self._lists.make(
            "virConnectGetAllDomainStats", {}, work, show, bounds, timeout=self._query_timeout
        )
        return [
            HostVm(vm_uuid=uuid, name=name, power_state=power_state_of(number, is_active=active))
            for uuid, name, number, active in found
        ]

    def ping(self, bounds: CallBounds) -> HostVersion:
        """Check the address and who we are, without touching any domain."""

        def work(connection: Any, _call: Call) -> HostVersion:
            return HostVersion(
                version=f"libvirt {_version(connection.getLibVersion())}",
                revision=f"{connection.getType()} {_version(connection.getVersion())}",
            )

        def show(version: HostVersion) -> str:
            return f"{version.version}, {version.revision}"

        return self._ask("virConnectGetLibVersion", {}, work, show, bounds)

    def close(self) -> None:
        """Close kept connections; those in use when their call ends."""
        self._connections.close(CLOSE_PATIENCE)

    def _connect(self) -> Any:
        password = self._credentials.password
        return self._library.open(
            self._uri,
            self._credentials.username,
            password.get_secret_value() if password else None,
        )

    def _ask(
        self,
        method: str,
        request: dict[str, str],
        work: Callable[[Any, Call], Value],
        show: Callable[[Value], str],
        bounds: CallBounds,
    ) -> Value:
        return self._calls.make(method, request, work, show, bounds, timeout=self._query_timeout)


def _check_credentials(credentials: HostCredentials) -> None:
    if credentials.token is not None:
        msg = "libvirt knows no tokens; give a user name and password (SASL), or none"
        raise ValueError(msg)
    if credentials.ca_pem or credentials.client_cert_pem or credentials.client_key_pem:
        msg = (
            "libvirt reads certificates from files on the worker's machine: name their directory"
            " in the address, qemu+tls://host/system?pkipath=/path"
        )
        raise ValueError(msg)


def _uuid(vm_uuid: str) -> str:
    """Give a domain's UUID in libvirt's form."""
    try:
        return str(UUID(vm_uuid))
    except ValueError:
        msg = "the CVM's vm_uuid is no UUID; no domain of libvirt's can have it"
        raise FinalHostError(ErrorCode.BAD_VM_ID, msg) from None


def _version(number: int) -> str:
    """Read a version as libvirt gives it: 1,000,000 * major + 1,000 * minor + release."""
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def _show_restarts(restarts: bool) -> str:  # noqa: FBT001 - the answer itself
    return json.dumps({"starts again": restarts})
