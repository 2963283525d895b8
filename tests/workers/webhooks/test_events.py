"""From changes to deliveries: each event once, to whom it may be told, in whatever order."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

import shared.services.webhook_events as consumer
from shared.database import transaction
from shared.models.snapshots import Snapshot
from shared.models.webhooks import WebhookEvent
from shared.services.webhook_events import consume_changes
from tests.support.statements import statements_seen


if TYPE_CHECKING:
    from sqlalchemy import TextClause
    from sqlalchemy.orm import Session

    from tests.workers.webhooks.conftest import Place

SUCCEEDED, FAILED = "cvm.stop.succeeded", "cvm.stop.failed"
FINISHED = "batch.finished"


def kinds(bodies: list[dict[str, object]]) -> list[str]:
    return [str(body["event"]) for body in bodies]


def test_what_is_told(place: Place) -> None:
    webhook, _ = place.endpoint(place.member)
    batch, (first, second) = place.accept(place.member, "ours", "ours")
    place.end(first)
    place.end(second, state="failed", code="host_error")
    place.consume()
    good, bad, end = place.told(webhook)
    assert good.keys() == {"id", "event", "version", "created_at", "workspace", "data"}
    assert good["workspace"] == {"id": str(place.member.workspace_id), "name": "ours"}
    assert (good["event"], good["version"]) == (SUCCEEDED, "1")
    assert good["data"].keys() == {
        "cvm_id",
        "cvm_name",
        "status",
        "host",
        "batch_id",
        "stop_task_id",
    }
    assert (good["data"]["batch_id"], good["data"]["stop_task_id"]) == (str(batch), str(first))
    assert bad["event"] == FAILED
    assert bad["data"]["error"] == {"code": "host_error", "message": "it said no"}
    assert end["event"] == FINISHED
    assert end["data"]["counts"] == {"succeeded": 1, "failed": 1, "canceled": 0}
    assert (end["data"]["total"], end["data"]["skipped"]) == (2, 0)
    assert len({each["id"] for each in (good, bad, end)}) == 3
    assert all(each["id"].startswith("evt_") for each in (good, bad, end))


def test_nothing_is_told_twice(place: Place) -> None:
    place.endpoint(place.member)
    _, stops = place.accept(place.member, "ours")
    place.end(*stops)
    place.consume()
    before = place.told()
    place.consume()
    place.run("UPDATE webhook_progress SET seen = '0:0:'")
    place.consume()
    assert place.told() == before
    assert len(before) == 2


def test_an_endpoint_hears_of_what_it_asked_for(place: Place) -> None:
    only, _ = place.endpoint(place.member, events=[WebhookEvent.STOP_FAILED])
    _, (first, second) = place.accept(place.member, "ours", "ours")
    place.end(first)
    place.end(second, state="failed", code="host_error")
    place.consume()
    assert kinds(place.told(only)) == [FAILED]


def test_two_endpoints_hear_of_the_same_event(place: Place) -> None:
    first, second = place.endpoint(place.member)[0], place.endpoint(place.member)[0]
    place.end(*place.accept(place.member, "ours")[1])
    place.consume()
    assert place.told(first) == place.told(second) != []


def test_what_was_before_an_endpoint_is_not_told(place: Place) -> None:
    place.end(*place.accept(place.member, "ours")[1])
    place.endpoint(place.member)
    assert place.consume().told == 0


def test_a_canceled_stop_is_in_its_batch_only(place: Place) -> None:
    place.endpoint(place.member)
    place.end(*place.accept(place.member, "ours")[1], state="canceled")
    place.consume()
    (told,) = place.told()
    assert told["event"] == FINISHED
    assert told["data"]["counts"] == {"succeeded": 0, "failed": 0, "canceled": 1}


def test_a_batch_without_a_stop_is_not_told_of(place: Place) -> None:
    place.endpoint(place.member)
    batch, _ = place.accept(place.member)
    assert batch is not None
    place.consume()
    assert place.told() == []


class TestWhoMayKnow:
    def test_other_workspaces_hear_nothing(self, place: Place) -> None:
        foreign, _ = place.endpoint(place.stranger)
        place.end(*place.accept(place.member, "ours")[1])
        place.consume()
        assert place.told(foreign) == []

    def test_of_an_admins_batch_members_hear_of_their_own_stops(self, place: Place) -> None:
        ours, theirs = place.endpoint(place.member)[0], place.endpoint(place.stranger)[0]
        place.end(*place.accept(place.admin, "ours", "theirs")[1])
        place.consume()
        assert kinds(place.told(ours)) == kinds(place.told(theirs)) == [SUCCEEDED]
        assert place.told(ours)[0]["data"] != place.told(theirs)[0]["data"]

    def test_that_it_is_finished_is_told_to_an_admins_endpoint_of_its_workspace(
        self, place: Place
    ) -> None:
        own, _ = place.endpoint(place.admin)
        other, _ = place.endpoint(place.admin, workspace="theirs")
        place.end(*place.accept(place.admin, "ours", "theirs")[1])
        place.consume()
        assert kinds(place.told(own)) == [SUCCEEDED, FINISHED]
        assert kinds(place.told(other)) == [SUCCEEDED]

    def test_a_disabled_endpoint_hears_nothing(self, place: Place) -> None:
        off, _ = place.endpoint(place.member)
        place.endpoint(place.member)
        place.run("UPDATE webhooks SET disabled_at = now() WHERE id = :id", id=off)
        place.end(*place.accept(place.member, "ours")[1])
        place.consume()
        assert place.told(off) == []


class TestOrderOfCommits:
    def test_what_began_first_and_ended_last_is_told(self, place: Place) -> None:
        place.endpoint(place.member, events=[WebhookEvent.STOP_SUCCEEDED])
        _, (first, second) = place.accept(place.member, "ours", "ours")
        with transaction(place.engine) as slow:
            slow.execute(_ending(), {"stop": first})
            place.end(second)
            assert place.consume().told == 1
            assert place.consume().told == 0
        assert place.consume().told == 1
        assert len(place.told()) == 2

    def test_what_began_first_and_ended_last_is_told_after_many_others(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where each turn sees only a part of them."""
        monkeypatch.setattr(consumer, "CHANGES_AT_ONCE", 2)
        place.endpoint(place.member, events=[WebhookEvent.STOP_SUCCEEDED])
        _, stops = place.accept(place.member, *["ours"] * 8)
        with transaction(place.engine) as slow:
            slow.execute(_ending(), {"stop": stops[0]})
            for stop in stops[1:]:
                place.end(stop)
            turns = [place.consume() for _ in range(4)]
            assert [turn.told for turn in turns] == [2, 2, 2, 1]
            assert [turn.has_more for turn in turns] == [True, True, True, False]
        assert place.consume().told == 1
        assert {body["data"]["stop_task_id"] for body in place.told()} == set(map(str, stops))

    def test_what_ended_between_two_parts_of_the_others_is_told(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumer, "CHANGES_AT_ONCE", 2)
        place.endpoint(place.member, events=[WebhookEvent.STOP_SUCCEEDED])
        _, stops = place.accept(place.member, *["ours"] * 6)
        with transaction(place.engine) as slow:
            slow.execute(_ending(), {"stop": stops[0]})
            for stop in stops[1:]:
                place.end(stop)
            assert place.consume().told == 2
        while place.consume().has_more:
            pass
        assert {body["data"]["stop_task_id"] for body in place.told()} == set(map(str, stops))

    def test_one_transaction_is_told_whole(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumer, "CHANGES_AT_ONCE", 2)
        place.endpoint(place.member)
        batch, stops = place.accept(place.member, *["ours"] * 7)
        place.end(*stops)
        assert place.consume().told == 8
        told = place.told()
        assert kinds(told) == [SUCCEEDED] * 7 + [FINISHED]
        assert told[-1]["data"]["batch_id"] == str(batch)

    @pytest.mark.parametrize("turn_between", [False, True])
    def test_two_last_stops_that_end_at_once_finish_a_batch_once(
        self, place: Place, *, turn_between: bool
    ) -> None:
        place.endpoint(place.member, events=[WebhookEvent.BATCH_FINISHED])
        _, (first, second) = place.accept(place.member, "ours", "ours")
        with transaction(place.engine) as one, transaction(place.engine) as other:
            one.execute(_ending(), {"stop": first})
            other.execute(_ending(), {"stop": second})
            one.commit()
            if turn_between:
                place.consume()
                assert place.told() == []
        place.consume()
        assert kinds(place.told()) == [FINISHED]

    def test_many_stops_that_end_while_two_consumers_look(self, place: Place) -> None:
        webhook, _ = place.endpoint(place.member)
        batches = [place.accept(place.member, *["ours"] * 5)[1] for _ in range(20)]
        stops = [stop for batch in batches for stop in batch]
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                place.consume()

        with ThreadPoolExecutor(6) as threads:
            looking = [threads.submit(look) for _ in range(2)]
            for end in [threads.submit(place.end, stop) for stop in stops]:
                end.result()
            done.set()
            for each in looking:
                each.result()
        place.consume()
        told = kinds(place.told(webhook))
        assert (told.count(SUCCEEDED), told.count(FINISHED)) == (100, 20)


class TestConsumers:
    def test_one_at_a_time(self, place: Place) -> None:
        place.endpoint(place.member)
        place.end(*place.accept(place.member, "ours")[1])
        with transaction(place.engine) as first:
            assert consume_changes(first).told == 2
            assert place.consume().told == 0
        assert len(place.told()) == 2

    def test_one_that_dies_has_told_nothing_and_moved_nowhere(self, place: Place) -> None:
        place.endpoint(place.member)
        place.end(*place.accept(place.member, "ours")[1])

        def die(session: Session) -> None:
            consume_changes(session)
            raise RuntimeError

        with pytest.raises(RuntimeError), transaction(place.engine) as session:
            die(session)
        assert place.told() == []
        assert place.consume().told == 2

    def test_without_endpoints_nothing_is_read_or_written(self, place: Place) -> None:
        place.end(*place.accept(place.member, "ours")[1])
        with statements_seen() as statements:
            place.consume()
        assert len([each for each in statements if "webhook" in each]) == 1
        assert not [each for each in statements if "stop_changes" in each]
        assert not [each for each in statements if each.startswith(("UPDATE", "INSERT"))]
        assert not [each for each in statements if "lock" in each.lower() and "clock" not in each]

    def test_without_endpoints_it_moves_on_now_and_then(self, place: Place) -> None:
        place.end(*place.accept(place.member, "ours")[1])
        place.run("UPDATE webhook_progress SET seen = '3:3:', moved_at = now() - interval '1h'")
        place.consume()
        with transaction(place.engine) as session:
            seen = session.scalars(text("SELECT seen FROM webhook_progress")).one()
        assert Snapshot.parse(seen).xmax > 3

    def test_it_was_off_for_long_and_what_happened_was_purged(self, place: Place) -> None:
        place.endpoint(place.member)
        _, kept = place.accept(place.member, "ours")
        _, gone = place.accept(place.member, "ours")
        place.end(*gone)
        place.run("DELETE FROM stop_tasks WHERE id = :id", id=gone[0])
        place.end(*kept)
        place.run("DELETE FROM stop_changes WHERE stop_task_id = :id", id=gone[0])
        place.run("UPDATE webhook_progress SET moved_at = now() - interval '1 year'")
        place.consume()
        assert kinds(place.told()) == [SUCCEEDED, FINISHED]

    def test_a_database_that_counts_its_transactions_anew(self, place: Place) -> None:
        """One that was restored into a new cluster."""
        place.endpoint(place.member)
        place.run("UPDATE webhook_progress SET seen = '999999999:999999999:'")
        assert place.consume().told == 0
        place.end(*place.accept(place.member, "ours")[1])
        assert place.consume().told == 2


def _ending() -> TextClause:
    return text(
        "UPDATE stop_tasks SET state = 'succeeded', finished_at = clock_timestamp()"
        " WHERE id = :stop"
    )
