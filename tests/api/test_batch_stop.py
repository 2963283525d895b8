"""The endpoint's contract, case by case, over real HTTP."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from redis import Redis
from sqlalchemy import func, select

from shared.broker import STOP_TASK, STOPS_QUEUE
from shared.database import transaction
from shared.models.states import OPEN_STATES
from shared.tables import Cvm, StopBatch, StopTask
from tests.support.statements import statements_seen


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.api.conftest import World

PATH = "/api/v1/cvms/batch-stop"


def stop(client: httpx.Client, ids: list[str], **kwargs: Any) -> httpx.Response:
    """POST a batch; whatever the answer, I1 holds in it."""
    answer = client.post(PATH, json={"cvm_ids": ids}, **kwargs)
    if answer.status_code == 200:
        body = answer.json()
        assert set(body) == {"total", "stopped", "skipped", "errors"}
        assert body["total"] == body["stopped"] + body["skipped"] + len(body["errors"])
    return answer


def open_tasks(engine: Engine) -> list[StopTask]:
    with transaction(engine) as session:
        tasks = list(session.scalars(select(StopTask).where(StopTask.state.in_(OPEN_STATES))))
        session.expunge_all()
        return tasks


class TestCounting:
    def test_every_kind_of_id(self, client: httpx.Client, world: World) -> None:
        unknown, foreign = "cvm_nowhere", world.theirs[0]
        ids = [world.ours[0], world.busy, world.without_vm, world.rented, unknown, foreign]
        answer = stop(client, [*ids, world.ours[0], world.ours[1]])
        assert answer.status_code == 200
        assert answer.json() == {
            "total": 8,
            "stopped": 2,
            "skipped": 4,
            "errors": [
                {"cvm_id": unknown, "error": "CVM not found"},
                {"cvm_id": foreign, "error": "CVM not found"},
            ],
        }

    def test_an_empty_list_is_all_zeros(self, client: httpx.Client) -> None:
        answer = stop(client, [])
        assert answer.json() == {"total": 0, "stopped": 0, "skipped": 0, "errors": []}
        assert answer.headers["x-batch-id"]

    def test_a_repeated_id_is_skipped(self, client: httpx.Client, world: World) -> None:
        answer = stop(client, [world.ours[0]] * 50)
        assert answer.json() == {"total": 50, "stopped": 1, "skipped": 49, "errors": []}

    def test_repeats_of_what_cannot_be_stopped(self, client: httpx.Client, world: World) -> None:
        answer = stop(client, [world.busy, world.busy, "cvm_nowhere", "cvm_nowhere"])
        body = answer.json()
        assert (body["stopped"], body["skipped"], len(body["errors"])) == (0, 2, 2)

    def test_fifty_are_taken(self, client: httpx.Client, world: World, clean: Engine) -> None:
        assert stop(client, world.ours[:50]).json()["stopped"] == 50
        assert len(open_tasks(clean)) == 50

    def test_a_second_request_skips_what_is_in_progress(
        self, client: httpx.Client, world: World
    ) -> None:
        stop(client, world.ours[:3])
        assert stop(client, world.ours[:4]).json()["skipped"] == 3

    def test_errors_keep_the_order(self, client: httpx.Client) -> None:
        unknown = [f"cvm_{number}" for number in (3, 1, 2)]
        errors = stop(client, unknown).json()["errors"]
        assert [error["cvm_id"] for error in errors] == unknown


class TestWhatIsWrittenDown:
    def test_rows(self, client: httpx.Client, world: World, clean: Engine) -> None:
        answer = stop(client, world.ours[:2], headers={"X-Request-ID": "from-afar"})
        assert answer.headers["x-request-id"] == "from-afar"
        assert answer.headers["location"] == f"/api/v1/batches/{answer.headers['x-batch-id']}"
        tasks = open_tasks(clean)
        assert {str(task.batch_id) for task in tasks} == {answer.headers["x-batch-id"]}
        assert {task.request_id for task in tasks} == {"from-afar"}
        assert {task.state for task in tasks} == {"scheduled"}
        with transaction(clean) as session:
            in_progress = session.scalars(select(Cvm.hash_id).where(Cvm.in_progress))
            assert set(in_progress) == {*world.ours[:2], world.busy}

    def test_one_json_message_for_each_stop(
        self, client: httpx.Client, world: World, clean: Engine, valkey: str
    ) -> None:
        stop(client, world.ours[:3])
        with Redis.from_url(valkey) as broker:
            messages = [json.loads(raw) for raw in broker.lrange(STOPS_QUEUE, 0, -1)]
        assert {message["content-type"] for message in messages} == {"application/json"}
        assert {message["headers"]["task"] for message in messages} == {STOP_TASK}
        sent = {message["headers"]["id"] for message in messages}
        assert sent == {str(task.id) for task in open_tasks(clean)}

    def test_an_answer_is_kept_with_the_batch(
        self, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        stop(client, [world.ours[0], "cvm_nowhere"])
        with transaction(clean) as session:
            batch = session.scalars(select(StopBatch)).one()
            assert (batch.total, batch.stopped, batch.skipped) == (2, 1, 0)
            assert batch.errors == [{"cvm_id": "cvm_nowhere", "error": "CVM not found"}]

    def test_a_strange_request_id_is_not_taken_over(self, client: httpx.Client) -> None:
        answer = stop(client, [], headers={"X-Request-ID": "two words"})
        assert answer.headers["x-request-id"] != "two words"


class TestRefusals:
    def test_51_ids(self, client: httpx.Client, world: World, clean: Engine) -> None:
        answer = stop(client, world.ours[:51])
        assert answer.status_code == 400
        assert "at most 50" in answer.json()["detail"]
        assert open_tasks(clean) == []

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="no body"),
            pytest.param(b"{", id="invalid JSON"),
            pytest.param(b'{"cvm_ids": []} junk', id="junk behind the JSON"),
            pytest.param(b"[]", id="a list"),
            pytest.param(b"null", id="null"),
            pytest.param(b"{}", id="missing field"),
            pytest.param(b'{"cvm_ids": null}', id="null ids"),
            pytest.param(b'{"cvm_ids": "cvm_1"}', id="a string"),
            pytest.param(b'{"cvm_ids": {"a": 1}}', id="an object"),
            pytest.param(b'{"cvm_ids": [1]}', id="a number among the ids"),
            pytest.param(b'{"cvm_ids": [null]}', id="null among the ids"),
            pytest.param(b'{"cvm_ids": [["cvm_1"]]}', id="nested ids"),
            pytest.param(b'{"cvm_ids": [], "force": true}', id="unknown field"),
            pytest.param(b'{"cvm_ids": ["cvm_\\u0000"]}', id="NUL in an id"),
            pytest.param(b'{"cvm_ids": ["\\ud800"]}', id="lone surrogate in an id"),
            pytest.param(b'{"cvm_ids": ["\xff"]}', id="no UTF-8"),
            pytest.param(b'{"cvm_ids": [], "\\ud800": 1}', id="lone surrogate in a field's name"),
            pytest.param(b'{"cvm_ids": [NaN]}', id="NaN"),
            pytest.param(b'{"cvm_ids": [' + b"1" * 5_000 + b"]}", id="a huge number"),
            pytest.param(b'{"cvm_ids": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", id="deep nesting"),
        ],
    )
    def test_malformed_bodies(self, client: httpx.Client, content: bytes) -> None:
        answer = client.post(PATH, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        for problem in answer.json()["detail"]:
            assert set(problem) == {"loc", "msg", "type"}

    @pytest.mark.parametrize(
        "content_type", ["text/plain", "application/x-www-form-urlencoded", ""]
    )
    def test_wrong_content_type(self, client: httpx.Client, content_type: str) -> None:
        headers = {"Content-Type": content_type} if content_type else {}
        answer = client.post(PATH, content=b'{"cvm_ids": []}', headers=headers)
        assert answer.status_code == 422
        assert "Content-Type: application/json" in answer.json()["detail"][0]["msg"]

    def test_content_type_with_a_charset(self, client: httpx.Client) -> None:
        headers = {"Content-Type": "Application/JSON; charset=utf-8"}
        assert client.post(PATH, content=b'{"cvm_ids": []}', headers=headers).status_code == 200

    def test_a_misspelt_dry_run_stops_nothing(
        self, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        answer = stop(client, world.ours[:1], params={"dryrun": "true"})
        assert answer.status_code == 422
        assert "known are: dry_run" in answer.json()["detail"][0]["msg"]
        assert open_tasks(clean) == []

    def test_a_body_over_the_limit(self, client: httpx.Client) -> None:
        assert stop(client, ["x" * 70_000]).status_code == 413

    def test_a_body_over_the_limit_that_does_not_say_so(self, client: httpx.Client) -> None:
        chunks = iter([b'{"cvm_ids": ["', *[b"x" * 1_000] * 70, b'"]}'])
        headers = {"Content-Type": "application/json"}
        assert client.post(PATH, content=chunks, headers=headers).status_code == 413

    def test_other_methods(self, client: httpx.Client) -> None:
        assert client.get(PATH).status_code == 405


class TestAuthentication:
    BODIES = (b'{"cvm_ids": []}', b"{", b'{"cvm_ids": ["' + b"x" * 70_000 + b'"]}')

    @pytest.mark.parametrize("body", BODIES, ids=["valid", "malformed", "too large"])
    @pytest.mark.parametrize(
        "kind", ["none", "empty", "unknown", "revoked_key", "expired_key", "orphan_key"]
    )
    def test_no_valid_key(
        self, anonymous: httpx.Client, world: World, kind: str, body: bytes
    ) -> None:
        made_up = {"empty": "", "unknown": "cvmstop_nonsense"}
        api_key = made_up[kind] if kind in made_up else str(getattr(world, kind, ""))
        headers = {"Content-Type": "application/json"}
        if kind != "none":
            headers["X-API-Key"] = api_key
        answer = anonymous.post(PATH, content=body, headers=headers)
        assert answer.status_code == 401
        assert answer.json() == {
            "detail": "a valid API key is required, in X-API-Key or as Authorization: Bearer",
            "error": "authentication_required",
        }

    def test_a_bearer_key(self, anonymous: httpx.Client, world: World) -> None:
        headers = {"Authorization": f"bearer {world.member_key}"}
        assert stop(anonymous, [], headers=headers).status_code == 200

    def test_basic_is_no_key(self, anonymous: httpx.Client, world: World) -> None:
        headers = {"Authorization": f"Basic {world.member_key}"}
        assert stop(anonymous, [], headers=headers).status_code == 401


class TestWorkspaces:
    def test_foreign_and_unknown_ids_cannot_be_told_apart(
        self, client: httpx.Client, world: World
    ) -> None:
        foreign, unknown = stop(client, [world.theirs[0]]), stop(client, ["cvm_nowhere"])
        assert foreign.json()["errors"][0]["error"] == unknown.json()["errors"][0]["error"]
        assert set(foreign.headers) == set(unknown.headers)

    def test_nor_by_the_number_of_queries(self, client: httpx.Client, world: World) -> None:
        counts = []
        for cvm_id in (world.theirs[0], "cvm_nowhere"):
            with statements_seen() as statements:
                stop(client, [cvm_id])
            counts.append(statements)
        assert counts[0]
        assert counts[0] == counts[1]

    def test_an_admin_reaches_both(self, admin: httpx.Client, world: World, clean: Engine) -> None:
        assert stop(admin, [world.ours[0], world.theirs[0]]).json()["stopped"] == 2
        assert len({task.workspace_id for task in open_tasks(clean)}) == 2


class TestIdempotency:
    def test_a_replay_gives_the_stored_answer(
        self, client: httpx.Client, world: World, clean: Engine, valkey: str
    ) -> None:
        headers = {"Idempotency-Key": "once"}
        ids = [world.ours[0], world.busy, "cvm_nowhere"]
        first, second = stop(client, ids, headers=headers), stop(client, ids, headers=headers)
        assert first.json() == second.json()
        assert first.headers["x-batch-id"] == second.headers["x-batch-id"]
        assert len(open_tasks(clean)) == 1
        with Redis.from_url(valkey) as broker:
            assert broker.llen(STOPS_QUEUE) == 1

    def test_another_body_is_refused(self, client: httpx.Client, world: World) -> None:
        headers = {"Idempotency-Key": "once"}
        stop(client, world.ours[:1], headers=headers)
        answer = stop(client, world.ours[:2], headers=headers)
        assert answer.status_code == 422
        assert "new key" in answer.json()["detail"]

    def test_a_key_is_its_callers_own(
        self, client: httpx.Client, admin: httpx.Client, world: World
    ) -> None:
        headers = {"Idempotency-Key": "once"}
        stop(client, world.ours[:1], headers=headers)
        assert stop(admin, world.ours[1:2], headers=headers).json()["stopped"] == 1

    def test_the_same_key_at_the_same_moment(
        self, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        answers: list[httpx.Response] = []

        def post() -> None:
            answers.append(stop(client, world.ours[:50], headers={"Idempotency-Key": "race"}))

        threads = [threading.Thread(target=post) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.json()["stopped"] for answer in answers] == [50] * 6
        assert len({answer.headers["x-batch-id"] for answer in answers}) == 1
        assert len(open_tasks(clean)) == 50

    @pytest.mark.parametrize("key", ["", "x" * 256])
    def test_a_key_of_a_wrong_length(self, client: httpx.Client, key: str) -> None:
        assert stop(client, [], headers={"Idempotency-Key": key}).status_code == 422


class TestDryRun:
    def test_same_answer_and_nothing_written(
        self, client: httpx.Client, world: World, clean: Engine, valkey: str
    ) -> None:
        ids = [world.ours[0], world.ours[0], world.busy, "cvm_nowhere"]
        dry = stop(client, ids, params={"dry_run": "true"})
        assert "x-batch-id" not in dry.headers
        assert open_tasks(clean) == []
        with transaction(clean) as session:
            assert session.scalar(select(func.count()).select_from(StopBatch)) == 0
        with Redis.from_url(valkey) as broker:
            assert broker.llen(STOPS_QUEUE) == 0
        assert dry.json() == stop(client, ids).json()

    def test_too_many_is_told(self, client: httpx.Client, world: World) -> None:
        answer = stop(client, world.ours[:51], params={"dry_run": "true"})
        assert answer.status_code == 400


class TestConcurrency:
    def test_two_requests_for_the_same_cvms(
        self, client: httpx.Client, admin: httpx.Client, world: World, clean: Engine
    ) -> None:
        """Opposite orders would deadlock if rows were locked in the order of the request."""
        for _ in range(20):
            ids = world.ours[:50]
            orders = [(client, ids), (admin, list(reversed(ids)))]
            stopped: list[int] = []
            barrier = threading.Barrier(len(orders))

            def post(
                caller: httpx.Client,
                wanted: list[str],
                start: threading.Barrier = barrier,
                counts: list[int] = stopped,
            ) -> None:
                start.wait()
                counts.append(stop(caller, wanted).json()["stopped"])

            threads = [threading.Thread(target=post, args=order) for order in orders]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(stopped) == 50
            tasks = open_tasks(clean)
            assert len({task.cvm_id for task in tasks}) == len(tasks) == 50
            _close_all(clean)


def _close_all(engine: Engine) -> None:
    """End every open stop, as a worker would."""
    with transaction(engine) as session:
        for task in session.scalars(select(StopTask).where(StopTask.state.in_(OPEN_STATES))):
            task.state, task.finished_at = "succeeded", func.now()
        for cvm in session.scalars(select(Cvm).where(Cvm.gpu_rental_order.is_(None))):
            cvm.in_progress = False
