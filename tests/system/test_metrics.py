"""Metrics and logs of real processes: what they add up to, and one request id through all."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from shared.broker import HOUSEKEEPING_QUEUE, STOPS_QUEUE
from shared.database import transaction
from tests.shared.conftest import Yard, yard
from tests.support.api_process import ApiProcess, api_process
from tests.support.ports import free_port
from tests.support.scraped import METRICS, TOKEN, Page, scrape
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace
from tests.support.simulated_host import SimulatedHost, simulated_host
from tests.support.waiting import eventually
from tests.support.worker_process import running_worker


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["yard"]

VMS = 24

QUICK = {
    **METRICS,
    "CVMSTOP_LOG_FORMAT": "json",
    "CVMSTOP_LOG_LEVEL": "DEBUG",
    "CVMSTOP_LOOK_INTERVAL": "0.02",
    "CVMSTOP_DISPATCH_INTERVAL": "0.1",
}
"""So little is waited for; the dispatcher runs its rounds by itself, as there is no beat."""


@dataclass(kw_only=True)
class Fleet:
    """An API, two workers and a dispatcher, each a process with metrics of its own."""

    api: ApiProcess
    key: str
    cvm_ids: list[str]
    hosts: dict[str, SimulatedHost]
    ports: list[int]
    yard: Yard
    logs: dict[str, Path] = field(default_factory=dict)

    def stop_all(self, request_id: str) -> str:
        """Stop every CVM, wait until all stops have ended, and give the batch's id."""
        answer = httpx.post(
            f"{self.api.url}/api/v1/cvms/batch-stop",
            json={"cvm_ids": self.cvm_ids},
            headers={"X-API-Key": self.key, "X-Request-ID": request_id},
        )
        assert answer.json()["stopped"] == len(self.cvm_ids), answer.text
        eventually(lambda: not self.open_stops(), timeout=60)
        return answer.headers["x-batch-id"]

    def rows(self, statement: str) -> list[Any]:
        """Give the values of a statement's only column."""
        with transaction(self.yard.engine) as session:
            return list(session.execute(text(statement)).scalars())

    def open_stops(self) -> int:
        return len(self.rows("SELECT id FROM stop_tasks WHERE finished_at IS NULL"))

    def workers(self) -> Page:
        """Add up what the workers and the dispatcher say."""
        return Page.sum(self.pages())

    def pages(self) -> list[Page]:
        return [scrape(f"http://127.0.0.1:{port}") for port in self.ports]

    def lines(self, process: str, **wanted: str) -> list[dict[str, Any]]:
        """Give the lines of a log that have these values."""
        text = self.logs[process].read_text()
        # Celery's banner and warnings are no log lines.
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if wanted.items() <= line.items()]


@contextmanager
def running_fleet(yard: Yard, broker: str, directory: Path) -> Iterator[Fleet]:
    """Run the processes, on a host that answers and one that refuses its credentials."""
    with ExitStack() as stack:
        hosts = {
            "well": stack.enter_context(simulated_host(vms=VMS)),
            "refusing": stack.enter_context(simulated_host(vms=4, token="wanted")),
        }
        with transaction(yard.engine) as session:
            workspace = make_workspace(session, "acme")
            _, key = make_caller(session, workspace)
            cvm_ids = []
            for name, host in hosts.items():
                row = make_host(session, name=name, address=host.url, cap=VMS)
                cvm_ids += [
                    make_cvm(session, workspace, row, vm_uuid=vm).hash_id for vm in host.vm_ids
                ]
        settings = yard.settings.model_copy(update={"broker_url": SecretStr(broker)})
        api = stack.enter_context(api_process(settings, directory, metrics_token=TOKEN))
        fleet = Fleet(api=api, key=key, cvm_ids=cvm_ids, hosts=hosts, ports=[], yard=yard)
        fleet.logs["api"] = api.log
        for name, options in {
            "worker-1": ("-Q", STOPS_QUEUE, "-c", "3"),
            "worker-2": ("-Q", STOPS_QUEUE, "-c", "3"),
            "dispatcher": ("-Q", HOUSEKEEPING_QUEUE, "-c", "2"),
        }.items():
            port = free_port()
            fleet.ports.append(port)
            fleet.logs[name] = directory / f"{name}.log"
            environment = {**QUICK, "CVMSTOP_METRICS_PORT": str(port)}
            log = fleet.logs[name]
            stack.enter_context(
                running_worker(settings, broker, log, *options, "-n", f"{name}@h", **environment)
            )
        yield fleet


@pytest.fixture
def fleet(yard: Yard, valkey: str, tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(yard, valkey, tmp_path) as made:
        yield made


def test_the_metrics_of_two_workers_add_up_and_do_not_grow(fleet: Fleet) -> None:
    fleet.stop_all("first")
    refused = 4
    both = fleet.workers()
    ends = "cvmstop_stops_total"
    assert both.total(ends, outcome="succeeded", host="well", error_code="") == VMS
    assert (
        both.total(ends, outcome="failed", host="refusing", error_code="credentials_refused")
        == refused
    )
    assert both.total(ends) == len(fleet.rows("SELECT id FROM stop_tasks")) == VMS + refused
    assert both.total("cvmstop_stop_duration_seconds_count", outcome="succeeded") == VMS
    assert both.total("cvmstop_stop_duration_seconds_count", outcome="failed") == refused
    assert both.total("cvmstop_turn_errors_total", host="refusing") == refused
    assert both.total("cvmstop_turn_duration_seconds_count") == len(
        fleet.rows("SELECT number FROM stop_attempts")
    )
    assert both.total("cvmstop_worker_slots") == 3 + 3 + 2
    shares = [page.total(ends) for page in fleet.pages()]
    assert all(share > 0 for share in shares[:2]), "one worker did everything"
    api = scrape(fleet.api.url)
    assert api.total("cvmstop_stops_accepted_total") == VMS + refused
    assert api.total("cvmstop_open_stops") == 0
    rounds = "cvmstop_dispatcher_last_round_timestamp_seconds"
    assert eventually(lambda: fleet.workers().total(rounds)) > 0

    names = both.series()
    for host in fleet.hosts.values():
        for vm_id in host.vm_ids:
            host.change_vm(vm_id, status="running")
    fleet.stop_all("second")
    after = fleet.workers()
    assert after.total(ends) == 2 * (VMS + refused)
    # Which of the workers got which host's stops differs; what there is of both together does not.
    assert after.series() == names


def test_one_request_id_from_the_post_to_the_host(fleet: Fleet) -> None:
    batch_id = fleet.stop_all("from-afar-7")
    known = {"request_id": "from-afar-7"}
    (request,) = fleet.lines("api", event="request", **known)
    assert (request["status"], request["batch_id"]) == (200, batch_id)
    for event, count in {"force stop": VMS, "turn ended": VMS + 4}.items():
        lines = [
            line
            for worker in ("worker-1", "worker-2")
            for line in fleet.lines(worker, event=event, **known)
        ]
        tasks = {line["stop_task_id"] for line in lines}
        assert len(tasks) == len(lines) == count, event
        assert all(line["host"] in fleet.hosts for line in lines)
    asked = [
        line
        for worker in ("worker-1", "worker-2")
        for line in fleet.lines(worker, event="host asked", **known)
    ]
    assert sum(line["request"].startswith("StopVm") for line in asked) == VMS
    assert {line["stop_task_id"] for line in asked} == set(
        fleet.rows("SELECT id::text FROM stop_tasks")
    )
    assert fleet.rows("SELECT DISTINCT request_id FROM stop_tasks") == ["from-afar-7"]
