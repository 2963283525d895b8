"""Driver for dstack-vmm v0.5.x and 0.6: its pRPC in the JSON form.

Wire facts are from dstack `vmm/rpc/proto/vmm_rpc.proto`, `vmm/src/main.rs`, `ra-rpc/src/lib.rs`
and `vmm/src/app/vm_info.rs`: an unknown VM is `found: false`, an empty answer is `null`, and
every error is a 400 with `{"error": "<text>"}` and no code.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from shared.models.errors import ErrorCode
from shared.models.naming import VM_UUID
from shared.models.states import PowerState
from shared.models.turns import Exchange
from workers.drivers.address import HostAddress
from workers.drivers.authorization import build_authorization, secret_texts
from workers.drivers.dstack_answers import InfoAnswer, Judge, StatusAnswer, VersionAnswer
from workers.drivers.errors import (
    FinalHostError,
    HostError,
    HostRefusedError,
    HostSilentError,
    OutcomeUnknownError,
    OutOfTimeError,
    StaleConnectionError,
)
from workers.drivers.protocol import HostVersion, HostVm
from workers.drivers.tls import build_ssl_context
from workers.drivers.transcript import Transcriber
from workers.drivers.transport import Answer, Transport


if TYPE_CHECKING:
    from shared.models.hosts import HostConnection
    from workers.drivers.protocol import CallBounds

AnswerT = TypeVar("AnswerT")

MAX_ANSWER = 1 << 20
"""Longest answer about one VM, in bytes. One VM takes a few KiB, its configuration included."""

MAX_LIST = 8 << 20
"""Longest list of VMs, in bytes: 1,000 VMs with 8 KiB each."""

INFO = TypeAdapter(InfoAnswer)
STATUS = TypeAdapter(StatusAnswer)
VERSION = TypeAdapter(VersionAnswer)
NOTHING: TypeAdapter[dict[str, Any] | None] = TypeAdapter(dict[str, Any] | None)
"""The empty answer is `null`; dstack's own clients take `{}` too."""


class DstackDriver:
    """One dstack-vmm.

    Parameters
    ----------
    connection
        Where it is, and what it wants to see.
    connect_timeout
        Longest wait for a connection, in seconds.
    query_timeout
        Longest wait for the whole answer to a question, in seconds.
    stop_timeout
        Longest wait for the whole answer to StopVm, in seconds. It blocks up to 15 s for a VM
        with a swtpm (dstack 0.6.0, `vm_launcher.rs`).

    Raises
    ------
    FinalHostError
        `bad_host_configuration`: the address or the credentials cannot be used.
    """

    def __init__(
        self,
        connection: HostConnection,
        *,
        connect_timeout: float,
        query_timeout: float,
        stop_timeout: float,
    ) -> None:
        credentials = connection.credentials
        try:
            address = HostAddress.parse(connection.address)
        except ValueError as error:
            msg = f"host {connection.name}: {error}"
            raise FinalHostError(ErrorCode.BAD_HOST_CONFIGURATION, msg) from None
        authorization = build_authorization(credentials)
        self._address = address.text
        self._transport = Transport(
            address,
            authorization=authorization,
            ssl_context=build_ssl_context(credentials) if address.scheme == "https" else None,
            connect_timeout=connect_timeout,
        )
        self._transcriber = Transcriber(secret_texts(credentials, authorization))
        self._judge = Judge(self._transcriber)
        self._query_timeout = query_timeout
        self._stop_timeout = stop_timeout

    def power_state(self, vm_uuid: str, bounds: CallBounds) -> PowerState:
        """Ask what state a VM is in; `ABSENT` for one that the host does not know."""
        _check_vm_id(vm_uuid)
        request = {"id": vm_uuid}
        answer = self._ask("GetInfo", request, INFO, bounds, MAX_ANSWER)
        if not answer.found:
            return PowerState.ABSENT
        if answer.info is None or answer.info.id != vm_uuid:
            # Taking one VM's state for another's could end a stop that has not happened.
            msg = f"GetInfo at {self._address}: the answer is not about the VM that was asked for"
            raise HostRefusedError(ErrorCode.BAD_ANSWER, msg)
        return answer.info.power_state

    def force_stop(self, vm_uuid: str, bounds: CallBounds) -> None:
        """Have a VM's process killed. Returning means *kill requested*, not *down*.

        Sent once: if the answer does not come, whether it was carried out is unknown, and the
        caller reads the state.
        """
        _check_vm_id(vm_uuid)
        # Force stop is StopVm. Not ShutdownVm, which asks the guest; not SvStop, after which the
        # VM is started again by itself; not RemoveVm, which deletes its disk.
        answer = self._call(
            "StopVm",
            {"id": vm_uuid},
            bounds,
            deadline=min(bounds.deadline, time.monotonic() + self._stop_timeout),
            max_bytes=MAX_ANSWER,
            is_question=False,
        )
        if answer.body.strip():
            self._judge.read(NOTHING, f"StopVm at {self._address}", answer)

    def seconds_of_doubt(self, vm_uuid: str, bounds: CallBounds) -> float:  # noqa: ARG002 - as in the protocol
        """Say that a stopped VM stays so: StopVm clears `started`, without which none restarts."""
        return 0.0

    def list_vms(self, bounds: CallBounds) -> list[HostVm]:
        """List every VM of the host. Without a page, Status gives all of them."""
        request = {"brief": True}
        answer = self._ask("Status", request, STATUS, bounds, MAX_LIST)
        return [
            HostVm(vm_uuid=vm.id, name=vm.name, power_state=vm.power_state) for vm in answer.vms
        ]

    def ping(self, bounds: CallBounds) -> HostVersion:
        """Check the address, TLS and the credentials, without touching any VM.

        v0.5.x asks for no credentials at `/prpc`, so that there wrong ones pass.
        """
        answer = self._ask("Version", {}, VERSION, bounds, MAX_ANSWER)
        return HostVersion(version=answer.version, revision=answer.rev)

    def close(self) -> None:
        """Close kept connections; those in use when their request ends."""
        self._transport.close()

    def _ask(
        self,
        method: str,
        request: dict[str, Any],
        kind: TypeAdapter[AnswerT],
        bounds: CallBounds,
        max_bytes: int,
    ) -> AnswerT:
        """Ask a question: something that changes nothing on the host, and may be repeated."""
        deadline = min(bounds.deadline, time.monotonic() + self._query_timeout)

        def call(*, fresh: bool) -> Answer:
            return self._call(
                method,
                request,
                bounds,
                deadline=deadline,
                max_bytes=max_bytes,
                is_question=True,
                fresh=fresh,
            )

        try:
            try:
                answer = call(fresh=False)
            except StaleConnectionError:
                answer = call(fresh=True)
        except OutcomeUnknownError as error:
            raise HostSilentError(error.code, error.message) from None
        return self._judge.read(kind, f"{method} at {self._address}", answer)

    def _call(
        self,
        method: str,
        request: dict[str, Any],
        bounds: CallBounds,
        *,
        deadline: float,
        max_bytes: int,
        is_question: bool,
        fresh: bool = False,
    ) -> Answer:
        """Send one request, write down what came of it, and give the answer if it is a 200."""
        content = json.dumps(request)
        started = time.monotonic()

        def record(answer: str, error: str | None) -> None:
            bounds.record(
                Exchange(
                    request=f"{method} {content}",
                    answer=answer,
                    seconds=time.monotonic() - started,
                    error=error,
                )
            )

        try:
            answer = self._transport.post(
                method, content.encode(), deadline=deadline, max_bytes=max_bytes, fresh=fresh
            )
        except OutOfTimeError:
            raise  # nothing was sent, so there is nothing to write down
        except HostError as error:
            record(error.message, error.code)
            raise
        record(
            f"{answer.status} {self._transcriber.show(answer.body)}".rstrip(),
            None if answer.status == 200 else str(answer.status),
        )
        self._judge.check(f"{method} at {self._address}", answer, is_question=is_question)
        return answer


def _check_vm_id(vm_uuid: str) -> None:
    # 0.6 refuses any other; v0.5.x does not check, and makes a path of it.
    if VM_UUID.fullmatch(vm_uuid) is None:
        msg = "the CVM's vm_uuid is not 1 to 64 letters, digits, '-' or '_'; no host can have it"
        raise FinalHostError(ErrorCode.BAD_VM_ID, msg)
