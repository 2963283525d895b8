"""Real housekeeping processes: killed at each step, and two at once."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from shared.broker import HOUSEKEEPING_QUEUE, WEBHOOKS_TASK
from shared.failpoints import VARIABLE, Failpoint
from tests.support.waiting import eventually
from tests.support.worker_process import running_worker


if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.webhook_receiver import Receiver
    from tests.support.worker_process import WorkerUnderTest
    from tests.workers.webhooks.conftest import Place

OPTIONS = ("-Q", HOUSEKEEPING_QUEUE, "-c", "2")


def environment(place: Place, **further: str) -> dict[str, str]:
    keys = place.settings.webhook_keys
    assert keys is not None
    return {
        "CVMSTOP_WEBHOOK_KEYS": keys.get_secret_value(),
        "CVMSTOP_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "CVMSTOP_WEBHOOK_ALLOW_HTTP": "true",
        **further,
    }


def tick(worker: WorkerUnderTest) -> None:
    worker.app.send_task(WEBHOOKS_TASK, queue=HOUSEKEEPING_QUEUE)


@pytest.mark.parametrize(
    ("step", "heard"),
    [
        (Failpoint.WEBHOOKS_WRITTEN, 0),
        (Failpoint.WEBHOOK_CLAIMED, 0),
        (Failpoint.WEBHOOK_SENT, 1),
    ],
)
def test_killed_on_the_way(
    place: Place, valkey: str, receiver: Receiver, tmp_path: Path, step: Failpoint, heard: int
) -> None:
    _, secret = place.endpoint(place.member, receiver.url)
    _, stops = place.accept(place.member, "ours", "ours", "ours")
    place.end(*stops)
    (tmp_path / step).write_text("kill")
    log = tmp_path / "worker.log"
    armed = environment(place, **{VARIABLE: str(tmp_path)})
    with running_worker(place.settings, valkey, log, *OPTIONS, **armed) as worker:
        tick(worker)
        assert eventually(worker.process.poll) == -signal.SIGKILL
    assert len(place.rows()) == 4
    assert len(receiver.received) >= heard
    with running_worker(place.settings, valkey, log, *OPTIONS, **environment(place)) as another:
        place.pass_time("31 seconds")  # the dead one's leases

        def is_done() -> bool:
            tick(another)
            return all(row.state == "delivered" for row in place.rows())

        eventually(is_done)
    assert set(receiver.ids()) == {row.event_id for row in place.rows()}
    assert all(each.is_signed_with(secret) for each in receiver.received)
    if not heard:
        assert len(receiver.received) == 4
    by_id = {each.body["id"]: each.raw for each in receiver.received}
    assert all(by_id[each.body["id"]] == each.raw for each in receiver.received)


def test_two_processes_tell_each_event_once(
    place: Place, valkey: str, receiver: Receiver, tmp_path: Path
) -> None:
    place.endpoint(place.member, receiver.url)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                running_worker(
                    place.settings,
                    valkey,
                    tmp_path / f"{number}.log",
                    *(*OPTIONS, "-n", f"housekeeping-{number}@{os.getpid()}"),
                    **environment(place),
                )
            )
            for number in range(2)
        ]
        for _ in range(4):
            _, stops = place.accept(place.member, *["ours"] * 10)
            for stop in stops:
                place.end(stop)
                for worker in workers:
                    tick(worker)

        def is_done() -> bool:
            for worker in workers:
                tick(worker)
            states = [row.state for row in place.rows()]
            return len(states) == 44 and set(states) == {"delivered"}

        eventually(is_done)
    assert len(receiver.ids()) == len(set(receiver.ids())) == 44
    assert receiver.kinds().count("batch.finished") == 4


def test_told_to_end_it_ends_what_it_sends(
    place: Place, valkey: str, receiver: Receiver, tmp_path: Path
) -> None:
    place.endpoint(place.member, receiver.url)
    _, stops = place.accept(place.member, "ours")
    place.end(*stops)
    receiver.held.clear()
    log = tmp_path / "worker.log"
    with running_worker(place.settings, valkey, log, *OPTIONS, **environment(place)) as worker:
        tick(worker)
        eventually(lambda: len(receiver.received) == 2)
        worker.process.terminate()
        worker.wait_for_log("Warm shutdown")
        receiver.held.set()
        assert worker.process.wait(30) == 0
        assert "Traceback" not in worker.log
    assert {row.state for row in place.rows()} == {"delivered"}
    assert "in-the-url" not in worker.log
