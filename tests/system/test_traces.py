"""Traces of real processes: one for a stop, whatever happens; and none that a stop waits for."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import text

from shared.broker import HOUSEKEEPING_QUEUE, STOPS_QUEUE
from shared.database import transaction
from shared.models.hosts import HostCredentials
from tests.shared.conftest import Yard, yard
from tests.support.api_process import api_process
from tests.support.collector import Collector, TakenSpan, running_collector
from tests.support.ports import free_port
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace
from tests.support.silent_server import silent_server
from tests.support.simulated_host import SimulatedHost, simulated_host
from tests.support.waiting import eventually
from tests.support.worker_process import WorkerUnderTest, running_worker


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["yard"]

QUICK = {
    "CVMSTOP_LOG_FORMAT": "json",
    "CVMSTOP_LOOK_INTERVAL": "0.02",
    "CVMSTOP_RETRY_BACKOFF": "0.05",
    "CVMSTOP_DISPATCH_INTERVAL": "0.1",
    "CVMSTOP_RESEND_AFTER": "0.2",
}
"""So little is waited for; the dispatcher runs its rounds by itself, as there is no beat."""

TOKEN = "a-hosts-token-that-nobody-sees"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
END_PATIENCE = 20.0
"""Seconds that a worker gets to end; the SDK alone would wait 30 for a collector that hangs."""


@pytest.fixture
def host() -> Iterator[SimulatedHost]:
    with simulated_host(vms=1, token=TOKEN) as made:
        yield made


class Ground:
    """A CVM that can be stopped, and what an API and a worker leave behind."""

    def __init__(self, yard: Yard, host: SimulatedHost, valkey: str, directory: Path) -> None:
        self.yard = yard
        self.valkey = valkey
        self.directory = directory
        with transaction(yard.engine) as session:
            workspace = make_workspace(session)
            row = make_host(
                session,
                address=host.url,
                credentials=HostCredentials(token=SecretStr(TOKEN)),
                sealing_keys=yard.settings.sealing_keys,
            )
            self.host = row.name
            self.cvm = make_cvm(session, workspace, row, vm_uuid=host.vm_ids[0]).hash_id
            _, self.key = make_caller(session, workspace)

    def stop(self, **headers: str) -> str:
        """Ask an API for the stop, end the API, and give the stop task's id."""
        settings = self.yard.settings.model_copy(update={"broker_url": SecretStr(self.valkey)})
        with api_process(settings, self.directory) as api:
            answer = httpx.post(
                f"{api.url}/api/v1/cvms/batch-stop",
                json={"cvm_ids": [self.cvm]},
                headers={"X-API-Key": self.key, "X-Request-ID": "from-afar", **headers},
            )
            assert answer.json().get("stopped") == 1, answer.text
            httpx.get(f"{api.url}/health/live").raise_for_status()
        (stop,) = self.rows("SELECT id FROM stop_tasks")
        return str(stop)

    @contextmanager
    def worker(self) -> Iterator[WorkerUnderTest]:
        """Run a worker that dispatches too."""
        queues = f"{STOPS_QUEUE},{HOUSEKEEPING_QUEUE}"
        log = self.directory / "worker.log"
        with running_worker(
            self.yard.settings, self.valkey, log, "-Q", queues, "-c", "4", **QUICK
        ) as worker:
            yield worker

    def end(self, worker: WorkerUnderTest) -> None:
        """Wait until the stop has succeeded, and have the worker end in an orderly way."""
        eventually(lambda: self.rows("SELECT state FROM stop_tasks") == ["succeeded"])
        worker.process.send_signal(signal.SIGTERM)
        worker.process.wait(END_PATIENCE)

    def rows(self, statement: str) -> list[Any]:
        with transaction(self.yard.engine) as session:
            return list(session.execute(text(statement)).scalars())


@pytest.fixture
def ground(
    yard: Yard,
    host: SimulatedHost,
    valkey: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ground:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    return Ground(yard, host, valkey, tmp_path)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with running_collector() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        yield made


def test_a_stop_is_one_trace(ground: Ground, host: SimulatedHost, collector: Collector) -> None:
    """Its message is lost, and its first turn fails: the dispatcher sends it again both times."""
    host.change(faults=[{"kind": "http", "status": 500, "methods": ["StopVm"], "count": 1}])
    stop = ground.stop(traceparent=f"00-{TRACE}-{CALLER}-01")
    with Redis.from_url(ground.valkey) as broker:
        broker.flushall()
    with ground.worker() as worker:
        ground.end(worker)
    spans = collector.of_trace(TRACE)
    assert len(spans) == len(collector.spans)  # there is no other trace, of health checks neither

    (request,) = of_kind(spans, "server")
    assert (request.name, request.parent_id) == ("POST /api/v1/cvms/batch-stop", CALLER)
    assert request.service == "cvmstop-api"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["cvmstop.request.id"] == "from-afar"
    (batch,) = ground.rows("SELECT batch_id FROM stop_tasks")
    assert request.attributes["cvmstop.batch.id"] == str(batch)

    (sent,) = of_kind(spans, "producer")
    assert (sent.name, sent.parent_id) == ("send stops", request.span_id)
    assert sent.attributes["messaging.batch.message_count"] == 1

    turns = [each for each in of_kind(spans, "consumer") if "cvmstop.attempt" in each.attributes]
    assert [turn.attributes["cvmstop.attempt"] for turn in turns] == [1, 2]
    for turn in turns:
        assert (turn.name, turn.parent_id) == ("process stops", request.span_id)
        assert turn.service == "cvmstop-worker"
        assert turn.attributes["cvmstop.stop_task.id"] == stop
        assert turn.attributes["cvmstop.cvm.id"] == ground.cvm
        assert turn.attributes["cvmstop.host.name"] == ground.host
    first, second = turns
    assert (first.is_error, first.error_type) == (True, "host_error")
    assert not second.is_error

    calls = of_kind(spans, "client")
    assert {call.parent_id for call in calls} == {first.span_id, second.span_id}
    (refused,) = (call for call in calls if call.is_error)
    assert (refused.name, refused.error_type) == ("StopVm", "500")
    assert refused.parent_id == first.span_id
    names = [call.name for call in calls if call.parent_id == second.span_id]
    assert names[:2] == ["GetInfo", "StopVm"]
    for call in calls:
        assert call.attributes["server.address"] == "127.0.0.1"
        assert host.url.endswith(f":{call.attributes['server.port']}")
        (turn,) = (turn for turn in turns if turn.span_id == call.parent_id)
        assert turn.began <= call.began <= call.ended <= turn.ended

    settled = of_kind(spans, "internal")
    assert [each.parent_id for each in settled] == [first.span_id, second.span_id]
    states = [each.attributes["cvmstop.stop_task.state"] for each in settled]
    assert states == ["scheduled", "succeeded"]

    for secret in (ground.key, TOKEN):
        assert secret.encode() not in collector.raw
    assert ids_of(ground.directory / "api.log", "request") == {(TRACE, request.span_id)}
    ended = ids_of(ground.directory / "worker.log", "turn ended")
    assert ended == {(TRACE, turn.span_id) for turn in turns}


def of_kind(spans: list[TakenSpan], kind: str) -> list[TakenSpan]:
    return sorted((span for span in spans if span.kind == kind), key=lambda span: span.began)


def ids_of(log: Path, event: str) -> set[tuple[str, str]]:
    """Give the trace and the span of each line with an event, of those that have any."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return {
        (line["trace_id"], line["span_id"])
        for line in lines
        if line["event"] == event and "trace_id" in line
    }


def test_what_is_no_traceparent_begins_a_trace(ground: Ground, collector: Collector) -> None:
    """And that is the one that the stop's row leads to."""
    ground.stop(traceparent="00-none-of-those-01")
    (request,) = of_kind(collector.spans, "server")
    assert request.parent_id == ""
    (kept,) = ground.rows("SELECT traceparent FROM stop_batches")
    assert kept.startswith(f"00-{request.trace_id}-{request.span_id}-")


def test_nobody_takes_the_spans(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and the stop is carried out."""
    nowhere = f"http://u:p4ss@127.0.0.1:{free_port()}/v1/traces?key=t0psecret"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", nowhere)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    ground.stop()
    with ground.worker() as worker:
        worker.wait_for_log("the collector does not take spans")
        ground.end(worker)
    log = worker.log
    assert log.count("the collector does not take spans") == 1
    assert "Connection refused" in log
    for unwanted in ("Traceback", "p4ss", "t0psecret", "opentelemetry"):
        assert unwanted not in log
        assert unwanted not in (ground.directory / "api.log").read_text()


def test_the_collector_hangs(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it, also not when the process ends."""
    with silent_server() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url.replace("redis", "http"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        ground.stop()
        with ground.worker() as worker:
            ground.end(worker)
        assert server.connections() >= 2
