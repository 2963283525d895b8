"""Retrying and canceling stops, over HTTP, on real rows; nobody consumes the messages."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import event, func, select, update

from shared.database import driver_transaction, transaction
from shared.models.states import OPEN_STATES
from shared.services.hosts import set_disabled
from shared.services.stops import ClaimedStop, claim_stop
from shared.storage.operations import end_operation, lock_cvm, put_operation
from shared.storage.purging import delete_oldest
from shared.tables import Cvm, StopAttempt, StopBatch, StopTask, Workspace
from tests.support.seeds import make_caller, make_host


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World

NOWHERE = "00000000-0000-4000-8000-000000000000"


def stop(http: httpx.Client, *cvm_ids: str) -> dict[str, Any]:
    """Stop CVMs; give the batch with its tasks."""
    answer = http.post("/api/v1/cvms/batch-stop", json={"cvm_ids": cvm_ids})
    assert answer.status_code == 200
    return read(http, answer.headers["location"])


def read(http: httpx.Client, path: str) -> dict[str, Any]:
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def act(http: httpx.Client, path: str) -> dict[str, Any]:
    """Retry or cancel; give the answer, which must add up."""
    answer = http.post(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    if "retried" in found:
        assert found["total"] == found["retried"] + len(found["not_retried"])
        assert answer.headers.get("x-batch-id") == found["batch_id"]
    else:
        assert found["total"] == found["canceled"] + len(found["not_canceled"])
    return found


def reasons(answer: dict[str, Any]) -> dict[str, str]:
    refused = answer.get("not_retried", answer.get("not_canceled"))
    assert refused is not None
    assert all(each["detail"] for each in refused)
    return {each["cvm_id"]: each["reason"] for each in refused}


def end(engine: Engine, batch: dict[str, Any], state: str = "failed", *cvm_ids: str) -> None:
    """End stops of a batch as workers do: those of some CVMs, or all."""
    ids = [task["id"] for task in batch["tasks"] if not cvm_ids or task["cvm_id"] in cvm_ids]
    code = "host_error" if state == "failed" else None
    with transaction(engine) as session:
        session.execute(
            update(StopTask)
            .where(StopTask.id.in_(ids))
            .values(
                state=state,
                finished_at=func.now(),
                lease_expires_at=None,
                error_code=code,
                error_message=code,
            )
        )
        session.execute(
            update(Cvm)
            .where(Cvm.id.in_(select(StopTask.cvm_id).where(StopTask.id.in_(ids))))
            .values(in_progress=False)
        )


def set_cvm(engine: Engine, hash_id: str, **columns: Any) -> None:
    with transaction(engine) as session:
        session.execute(update(Cvm).where(Cvm.hash_id == hash_id).values(**columns))


def set_task(engine: Engine, batch: dict[str, Any], **columns: Any) -> None:
    """Set columns of a batch's only stop."""
    (task,) = batch["tasks"]
    with transaction(engine) as session:
        session.execute(update(StopTask).where(StopTask.id == task["id"]).values(**columns))


def claim(engine: Engine, settings: Settings, stop_task_id: UUID) -> object:
    with driver_transaction(engine) as connection:
        return claim_stop(connection, stop_task_id, worker="w@1", settings=settings)


def check_in_progress(engine: Engine) -> None:
    """Check I3: in progress exactly while a stop is open (of CVMs that were stopped)."""
    with transaction(engine) as session:
        rows = session.execute(
            select(
                Cvm.hash_id,
                Cvm.in_progress,
                func.count().filter(StopTask.state.in_(OPEN_STATES)),
            )
            .join(StopTask, StopTask.cvm_id == Cvm.id)
            .group_by(Cvm.id)
        )
        for hash_id, in_progress, count in rows:
            assert (hash_id, in_progress) == (hash_id, count == 1)


class TestRetry:
    def test_a_batch(self, client: httpx.Client, world: World, clean: Engine) -> None:
        """Its failed ones, and no others; what failed stays as it was."""
        first, second, third = world.ours[:3]
        before = stop(client, first, second, third)
        end(clean, before, "failed", first, second)
        end(clean, before, "succeeded", third)
        with transaction(clean) as session:
            rows = session.execute(select(StopTask.__table__)).all()
        answer = act(client, f"batches/{before['id']}/retry")
        assert (answer["total"], answer["retried"], answer["not_retried"]) == (2, 2, [])
        after = read(client, f"/api/v1/batches/{answer['batch_id']}")
        assert after["retry_of"] == before["id"]
        assert (after["total"], after["stopped"], after["skipped"]) == (2, 2, 0)
        old = {task["cvm_id"]: task["id"] for task in before["tasks"]}
        new = {task["cvm_id"]: task for task in after["tasks"]}
        assert new.keys() == {first, second}
        for cvm_id, task in new.items():
            assert (task["state"], task["retry_of"]) == ("scheduled", old[cvm_id])
            shown = read(client, f"/api/v1/stop-tasks/{old[cvm_id]}")
            assert (shown["state"], shown["retried_by"]) == ("failed", task["id"])
        with transaction(clean) as session:
            now = session.execute(select(StopTask.__table__)).all()
            assert set(rows) < set(now)
        check_in_progress(clean)

    def test_a_stop(
        self, client: httpx.Client, world: World, clean: Engine, settings: Settings
    ) -> None:
        """It is written as sent, and a worker can claim it."""
        before = stop(client, world.ours[0])
        end(clean, before)
        task = before["tasks"][0]["id"]
        answer = act(client, f"stop-tasks/{task}/retry")
        (new,) = read(client, f"/api/v1/batches/{answer['batch_id']}")["tasks"]
        assert new["retry_of"] == task
        assert new["request_id"] != before["request_id"]
        assert isinstance(claim(clean, settings, new["id"]), ClaimedStop)

    def test_again_and_again(self, client: httpx.Client, world: World, clean: Engine) -> None:
        """The first one names its newest retry, and each retry the one that it is of."""
        before = stop(client, world.ours[0])
        task = before["tasks"][0]["id"]
        end(clean, before)
        batch, newest = before, task
        for _ in range(2):
            answer = act(client, f"stop-tasks/{task}/retry")
            batch = read(client, f"/api/v1/batches/{answer['batch_id']}")
            newest = batch["tasks"][0]["id"]
            end(clean, batch)
        assert read(client, f"/api/v1/stop-tasks/{task}")["retried_by"] == newest
        again = act(client, f"batches/{batch['id']}/retry")
        assert again["retried"] == 1
        assert read(client, f"/api/v1/stop-tasks/{newest}")["retried_by"] is not None

    def test_what_is_in_the_way(self, client: httpx.Client, world: World, clean: Engine) -> None:
        ids = world.ours[:7]
        before = stop(client, *ids)
        end(clean, before)
        stop(client, ids[0])
        set_cvm(clean, ids[1], vm_uuid=None)
        set_cvm(clean, ids[2], gpu_rental_order="order-2")
        with transaction(clean) as session:
            globex = session.scalars(select(Workspace).where(Workspace.name == "globex")).one()
            disabled = make_host(session, name="node-9")
            set_disabled(session, ["node-9"], disabled=True)
            moved_to, host_id = globex.id, disabled.id
        set_cvm(clean, ids[3], workspace_id=moved_to, gpu_rental_order="nobody's business")
        set_cvm(clean, ids[4], vm_host_id=host_id)
        end(clean, stop(client, ids[5]), "succeeded")
        answer = act(client, f"batches/{before['id']}/retry")
        assert (answer["total"], answer["retried"]) == (7, 1)
        assert reasons(answer) == {
            ids[0]: "in_progress",
            ids[1]: "no_vm",
            ids[2]: "gpu_rental",
            ids[3]: "cvm_not_found",
            ids[4]: "host_disabled",
            ids[5]: "stopped_since",
        }
        batch = read(client, f"/api/v1/batches/{answer['batch_id']}")
        assert [task["cvm_id"] for task in batch["tasks"]] == [ids[6]]
        assert (batch["total"], batch["stopped"], batch["skipped"]) == (7, 1, 4)
        assert batch["errors"] == [
            {"cvm_id": ids[3], "error": "CVM not found"},
            {"cvm_id": ids[4], "error": "VM host is disabled"},
        ]

    def test_where_the_cvm_is_today(
        self, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        before = stop(client, world.ours[0])
        end(clean, before)
        with transaction(clean) as session:
            host = make_host(session, name="node-2").id
        uuid = "00000000-0000-4000-8000-00000000abcd"
        set_cvm(clean, world.ours[0], vm_host_id=host, vm_uuid=uuid)
        answer = act(client, f"batches/{before['id']}/retry")
        (task,) = read(client, f"/api/v1/batches/{answer['batch_id']}")["tasks"]
        assert (task["host"], task["vm_uuid"]) == ("node-2", uuid)
        assert before["tasks"][0]["host"] == "node-1"

    @pytest.mark.parametrize("state", ["scheduled", "succeeded"])
    def test_only_what_failed_or_was_canceled(
        self, client: httpx.Client, world: World, clean: Engine, state: str
    ) -> None:
        before = stop(client, world.ours[0])
        if state == "succeeded":
            end(clean, before, state)
        answer = act(client, f"stop-tasks/{before['tasks'][0]['id']}/retry")
        assert (answer["batch_id"], answer["retried"]) == (None, 0)
        assert reasons(answer) == {world.ours[0]: "not_failed"}
        assert act(client, f"batches/{before['id']}/retry")["total"] == 0
        with transaction(clean) as session:
            assert session.scalar(select(func.count()).select_from(StopBatch)) == 1

    def test_canceled(self, client: httpx.Client, world: World) -> None:
        """One by one: the batch's retry is for what failed."""
        before = stop(client, world.ours[0])
        act(client, f"batches/{before['id']}/cancel")
        assert act(client, f"batches/{before['id']}/retry")["total"] == 0
        assert act(client, f"stop-tasks/{before['tasks'][0]['id']}/retry")["retried"] == 1

    def test_many_at_once_are_one(self, client: httpx.Client, world: World, clean: Engine) -> None:
        before = stop(client, *world.ours[:20])
        end(clean, before)
        answers = at_once([client] * 8, [f"batches/{before['id']}/retry"] * 8)
        assert sum(answer["retried"] for answer in answers) == 20
        assert sum(answer["total"] for answer in answers) == 160
        check_in_progress(clean)

    def test_what_was_before_is_purged_first(
        self, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        """The retry stays, open, and leads to nothing that is gone."""
        before = stop(client, world.ours[0])
        end(clean, before)
        new = act(client, f"batches/{before['id']}/retry")["batch_id"]
        with clean.begin() as connection:
            purged = delete_oldest(connection, older_than=timedelta(0), limit=9, attempts=9)
        assert (purged.batches, purged.stops) == (1, 1)
        assert client.get(f"/api/v1/batches/{before['id']}").status_code == 404
        (task,) = read(client, f"/api/v1/batches/{new}")["tasks"]
        assert (task["state"], task["retry_of"]) == ("scheduled", None)

    def test_an_operation_of_others(
        self, client: httpx.Client, world: World, clean: Engine
    ) -> None:
        before = stop(client, world.ours[0])
        end(clean, before)
        with transaction(clean) as session:
            acme = session.scalars(select(Workspace).where(Workspace.name == "acme")).one()
            caller = make_caller(session, acme, admin=True)[0]
            cvm = lock_cvm(session, world.ours[0])
            assert cvm
            put_operation(session, cvm, caller, name="resize", expires_in=timedelta(minutes=1))
        path = f"batches/{before['id']}/retry"
        assert reasons(act(client, path)) == {world.ours[0]: "in_progress"}
        with transaction(clean) as session:
            cvm = lock_cvm(session, world.ours[0])
            assert cvm
            end_operation(session, cvm)
        assert act(client, path)["retried"] == 1


class TestCancel:
    def test_a_batch(
        self, client: httpx.Client, world: World, clean: Engine, settings: Settings
    ) -> None:
        """What waits is canceled at once; the rest is told with the reason."""
        waiting, claimed, ended = world.ours[:3]
        batch = stop(client, waiting, claimed, ended)
        tasks = {task["cvm_id"]: task["id"] for task in batch["tasks"]}
        assert isinstance(claim(clean, settings, tasks[claimed]), ClaimedStop)
        end(clean, batch, "succeeded", ended)
        answer = act(client, f"batches/{batch['id']}/cancel")
        assert (answer["total"], answer["canceled"]) == (2, 1)
        assert reasons(answer) == {claimed: "being_worked_on"}
        shown = read(client, f"/api/v1/batches/{batch['id']}")
        assert {name: count for name, count in shown["counts"].items() if count} == {
            "canceled": 1,
            "stopping": 1,
            "succeeded": 1,
        }
        check_in_progress(clean)
        assert not isinstance(claim(clean, settings, tasks[waiting]), ClaimedStop)
        listed = read(client, "/api/v1/stop-tasks?state=canceled")["items"]
        assert [task["id"] for task in listed] == [tasks[waiting]]
        assert listed[0]["finished_at"]
        assert act(client, f"batches/{batch['id']}/cancel")["total"] == 1

    @pytest.mark.parametrize(
        ("columns", "reason"),
        [
            ({"state": "confirming", "force_stopped_at": func.now()}, "force_stopped"),
            ({"state": "confirming"}, "being_worked_on"),
            ({"force_stopped_at": func.now(), "failures": 2}, "force_stopped"),
            ({"failures": 2, "attempt": 2, "error_code": "host_timeout"}, None),
        ],
    )
    def test_a_stop(
        self,
        client: httpx.Client,
        world: World,
        clean: Engine,
        columns: dict[str, Any],
        reason: str | None,
    ) -> None:
        batch = stop(client, world.ours[0])
        set_task(clean, batch, **columns)
        path = f"stop-tasks/{batch['tasks'][0]['id']}"
        answer = act(client, f"{path}/cancel")
        assert reasons(answer) == ({world.ours[0]: reason} if reason else {})
        assert answer["canceled"] == (reason is None)
        check_in_progress(clean)
        if reason is None:
            shown = read(client, f"/api/v1/{path}")
            assert (shown["state"], shown["error_code"]) == ("canceled", "host_timeout")
            assert reasons(act(client, f"{path}/cancel")) == {world.ours[0]: "ended"}

    def test_the_cvm_can_be_stopped_again(self, client: httpx.Client, world: World) -> None:
        batch = stop(client, world.ours[0])
        act(client, f"batches/{batch['id']}/cancel")
        assert stop(client, world.ours[0])["stopped"] == 1

    def test_among_workers_that_claim(
        self, client: httpx.Client, world: World, clean: Engine, settings: Settings
    ) -> None:
        """Each stop is canceled or claimed, never both, and nobody waits in a circle."""
        batch = stop(client, *world.ours[:30])
        tasks = [task["id"] for task in batch["tasks"]]
        claimed: list[object] = []

        def work() -> None:
            claimed.extend(claim(clean, settings, task) for task in tasks)

        worker = Thread(target=work)
        worker.start()
        paths = [f"batches/{batch['id']}/cancel", *(f"stop-tasks/{t}/cancel" for t in tasks[::-5])]
        answers = at_once([client] * len(paths), paths)
        worker.join()
        got = sum(isinstance(each, ClaimedStop) for each in claimed)
        assert got + sum(answer["canceled"] for answer in answers) == 30
        with transaction(clean) as session:
            states = Counter(session.scalars(select(StopTask.state)))
            assert session.scalar(select(func.count()).select_from(StopAttempt)) == got
        assert set(states) <= {"canceled", "stopping"}
        check_in_progress(clean)


@pytest.mark.parametrize("action", ["retry", "cancel"])
class TestWhoMay:
    def test_an_admins_batch_is_for_admins(
        self, client: httpx.Client, admin: httpx.Client, world: World, clean: Engine, action: str
    ) -> None:
        batch = stop(admin, world.ours[0])
        if action == "retry":
            end(clean, batch)
        task = batch["tasks"][0]["id"]
        assert client.post(f"/api/v1/batches/{batch['id']}/{action}").status_code == 404
        # The member sees the stop, since it is on its CVM.
        answer = client.post(f"/api/v1/stop-tasks/{task}/{action}")
        assert (answer.status_code, answer.json()["error"]) == (403, "admin_only")
        assert act(admin, f"stop-tasks/{task}/{action}")["total"] == 1

    def test_an_admin_may_act_on_all(
        self, client: httpx.Client, admin: httpx.Client, world: World, clean: Engine, action: str
    ) -> None:
        batch = stop(client, world.ours[0])
        if action == "retry":
            end(clean, batch)
        answer = act(admin, f"batches/{batch['id']}/{action}")
        assert answer.get("retried", answer.get("canceled")) == 1
        if action == "retry":
            # The new batch is the admin's; the member sees the stop, on its CVM.
            assert client.get(f"/api/v1/batches/{answer['batch_id']}").status_code == 404
            shown = read(client, f"/api/v1/stop-tasks/{batch['tasks'][0]['id']}")
            new = read(client, f"/api/v1/stop-tasks/{shown['retried_by']}")
            assert new["batch_id"] == answer["batch_id"]

    @pytest.mark.parametrize("thing", ["batches", "stop-tasks"])
    def test_foreign_and_unknown_take_the_same_queries(
        self,
        anonymous: httpx.Client,
        client: httpx.Client,
        world: World,
        engine_of_the_api: Engine,
        action: str,
        thing: str,
    ) -> None:
        batch = stop(client, world.ours[0])
        there = batch["id"] if thing == "batches" else batch["tasks"][0]["id"]
        counts = []
        for each in (there, NOWHERE):
            sent: list[str] = []

            def count(*arguments: Any, sent: list[str] = sent) -> None:
                sent.append(arguments[2])

            event.listen(engine_of_the_api, "before_cursor_execute", count)
            answer = anonymous.post(
                f"/api/v1/{thing}/{each}/{action}", headers={"X-API-Key": world.stranger_key}
            )
            event.remove(engine_of_the_api, "before_cursor_execute", count)
            assert answer.status_code == 404
            counts.append(sent)
        assert counts[0] == counts[1]
        assert counts[0]


def test_a_retry_in_another_workspace_is_not_told(
    client: httpx.Client, admin: httpx.Client, world: World, clean: Engine
) -> None:
    """The CVM was moved, and an admin tries again: neither workspace hears of the other."""
    before = stop(client, world.ours[0])
    end(clean, before)
    with transaction(clean) as session:
        globex = session.scalars(select(Workspace).where(Workspace.name == "globex")).one().id
    set_cvm(clean, world.ours[0], workspace_id=globex)
    answer = act(admin, f"batches/{before['id']}/retry")
    new = read(admin, f"/api/v1/batches/{answer['batch_id']}")["tasks"][0]
    assert new["retry_of"] == before["tasks"][0]["id"]
    assert read(client, f"/api/v1/stop-tasks/{new['retry_of']}")["retried_by"] is None
    headers = {"X-API-Key": world.stranger_key}
    theirs = admin.get(f"/api/v1/stop-tasks/{new['id']}", headers=headers).json()
    assert (theirs["workspace"], theirs["retry_of"]) == ("globex", None)


def test_cvms_are_locked_in_one_order(client: httpx.Client, world: World, clean: Engine) -> None:
    """Retries and cancellations among batch stops of the same CVMs: all are answered."""
    ids = world.ours[:20]
    failed = stop(client, *ids)
    end(clean, failed)
    waiting = [stop(client, *ids[:10]), stop(client, *ids[10:])]
    paths = [f"batches/{batch['id']}/cancel" for batch in waiting]
    paths += [f"batches/{failed['id']}/retry"] * 3
    for _ in range(5):
        threads = [Thread(target=stop, args=(client, *order)) for order in (ids, ids[::-1])]
        for thread in threads:
            thread.start()
        at_once([client] * len(paths), paths)
        for thread in threads:
            thread.join()
    check_in_progress(clean)


def at_once(clients: list[httpx.Client], paths: list[str]) -> list[dict[str, Any]]:
    """Act on several things in the same moment; give the answers."""
    answers: list[dict[str, Any]] = []
    barrier = Barrier(len(paths))

    def ask(http: httpx.Client, path: str) -> None:
        barrier.wait()
        answers.append(act(http, path))

    threads = [Thread(target=ask, args=each) for each in zip(clients, paths, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(paths)
    return answers
