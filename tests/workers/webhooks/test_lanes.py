"""Deliveries on their way: tried again, given up, and never in the way of another endpoint's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from shared.database import transaction
from shared.models.webhooks import WebhookEvent
from shared.sealing import new_sealing_key
from shared.services.webhooks import delete_webhook, redeliver
from shared.storage import webhook_deliveries as storage
from shared.storage.webhook_deliveries import (
    AT_ONCE,
    AT_ONCE_WORKSPACE,
    AT_ONCE_WORKSPACE_FAILING,
    Outcome,
    claim,
    settle,
)
from tests.support.scraped import Page
from tests.support.seeds import make_caller, make_workspace
from tests.support.waiting import eventually
from tests.support.webhook_receiver import webhook_receiver
from workers.metrics import WorkerMetrics
from workers.purge import purge_deliveries, run_purge
from workers.webhooks.lanes import FAILING_LANES, LANES, Lanes, make_lanes


if TYPE_CHECKING:
    from uuid import UUID

    from shared.models.callers import Caller
    from tests.support.webhook_receiver import Receiver
    from tests.workers.webhooks.conftest import Place, Rounds

ONLY_STOPS = [WebhookEvent.STOP_SUCCEEDED]


def stop_one(place: Place, count: int = 1) -> list[UUID]:
    _, stops = place.accept(place.member, *["ours"] * count)
    place.end(*stops)
    return stops


def others_of(place: Place, count: int) -> dict[str, Caller]:
    """Make further workspaces; give a member of each by its name."""
    names = [f"workspace-{number}" for number in range(count)]
    with transaction(place.engine) as session:
        return {name: make_caller(session, make_workspace(session, name))[0] for name in names}


def counted(metrics: WorkerMetrics) -> dict[str, float]:
    from prometheus_client import generate_latest  # noqa: PLC0415 - only here

    page = Page.parse(generate_latest(metrics.registry).decode())
    return {
        state: page.total("cvmstop_webhook_deliveries_total", outcome=state)
        for state in ("delivered", "pending", "failed")
    }


def test_events_come_signed(place: Place, rounds: Rounds, receiver: Receiver) -> None:
    webhook, secret = place.endpoint(place.member, receiver.url)
    stop_one(place)
    assert rounds.run() == 2
    assert receiver.kinds() == ["batch.finished", "cvm.stop.succeeded"]
    assert all(each.is_signed_with(secret) for each in receiver.received)
    assert {each.body["id"] for each in receiver.received} == {row.event_id for row in place.rows()}
    for row in place.rows():
        assert (row.state, row.attempts, row.last_status) == ("delivered", 1, 204)
        assert row.lease_expires_at is None
        assert row.finished_at is not None
    assert place.webhook(webhook).failing_since is None
    assert counted(rounds.metrics) == {"delivered": 2, "pending": 0, "failed": 0}
    assert rounds.run() == 0


def test_many_events_of_one_endpoint_do_not_wait_for_rounds(
    place: Place, rounds: Rounds, receiver: Receiver
) -> None:
    place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
    stop_one(place, 50)
    assert rounds.run() == AT_ONCE
    assert len(set(receiver.ids())) == len(receiver.ids()) == 50


def test_it_is_tried_again_after_a_minute_ten_and_an_hour(
    place: Place, rounds: Rounds, receiver: Receiver
) -> None:
    webhook, secret = place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
    stop_one(place)
    receiver.status, receiver.answer = 503, b"not now"
    assert rounds.run() == 1
    for almost, rest in (
        ("50 seconds", "10 seconds"),
        ("590 seconds", "10 seconds"),
        ("59 minutes", "1 minute"),
    ):
        row = place.row()
        assert (row.state, row.last_status, row.last_error) == (
            "pending",
            503,
            "HTTP 503: not now",
        )
        assert place.webhook(webhook).failing_since is not None
        place.pass_time(almost)
        assert rounds.run() == 0
        place.pass_time(rest)
        assert rounds.run() == 1
    row = place.row()
    assert (row.state, row.attempts) == ("failed", 4)
    place.pass_time("10 hours")
    assert rounds.run() == 0
    assert len(receiver.received) == 4
    assert len({each.raw for each in receiver.received}) == 1
    assert all(each.is_signed_with(secret) for each in receiver.received)
    assert counted(rounds.metrics) == {"delivered": 0, "pending": 3, "failed": 1}


def test_each_try_is_signed_anew(
    place: Place, rounds: Rounds, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
    stop_one(place)
    receiver.status = 500
    rounds.run()
    place.pass_time("1 minute")
    monkeypatch.setattr("workers.webhooks.sending.time.time", lambda: 4_000_000_000.5)
    rounds.run()
    first, second = receiver.received
    assert second.headers["X-Webhook-Timestamp"] == "4000000000"
    assert first.headers["X-Webhook-Signature"] != second.headers["X-Webhook-Signature"]
    assert second.is_signed_with(secret)


def test_one_that_answers_again_is_well_again(
    place: Place, rounds: Rounds, receiver: Receiver
) -> None:
    webhook, _ = place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
    stop_one(place, 3)
    receiver.status = 500
    rounds.run()
    receiver.status = 200
    place.pass_time("1 minute")
    rounds.run()
    assert [row.state for row in place.rows()] == ["delivered"] * 3
    assert place.webhook(webhook).failing_since is None


class TestBesideOneThatSaysNothing:
    def test_the_others_go_on(self, place: Place, rounds: Rounds, receiver: Receiver) -> None:
        with webhook_receiver() as hole:
            hole.held.clear()
            place.endpoint(place.member, hole.url, events=ONLY_STOPS)
            place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
            stop_one(place, 30)
            rounds.begin()
            eventually(lambda: len(receiver.received) == 30)
            assert rounds.lanes.running >= AT_ONCE
            eventually(lambda: rounds.lanes.running == AT_ONCE)
            # And those that come while it still holds what it got.
            stop_one(place, 5)
            rounds.begin()
            eventually(lambda: len(receiver.received) == 35)
            assert len(hole.received) == AT_ONCE

    def test_one_that_failed_is_tried_once_at_a_time(self, place: Place, rounds: Rounds) -> None:
        with webhook_receiver() as hole:
            webhook, _ = place.endpoint(place.member, hole.url, events=ONLY_STOPS)
            place.run("UPDATE webhooks SET failing_since = now() WHERE id = :id", id=webhook)
            stop_one(place, 10)
            hole.held.clear()
            assert rounds.begin() == 1
            assert rounds.begin() == 0
            eventually(lambda: hole.received)
            assert rounds.lanes.running == 1

    def test_however_many_fail(self, place: Place, rounds: Rounds, receiver: Receiver) -> None:
        others = others_of(place, 2 + FAILING_LANES // AT_ONCE_WORKSPACE_FAILING)
        with webhook_receiver() as hole:
            hole.held.clear()
            for other in others.values():
                for _ in range(AT_ONCE_WORKSPACE_FAILING + 1):
                    place.endpoint(other, hole.url, events=ONLY_STOPS)
            place.run("UPDATE webhooks SET failing_since = now()")
            _, stops = place.accept(place.admin, *others)
            place.end(*stops)
            assert rounds.begin() == FAILING_LANES
            assert rounds.begin() == 0
            place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
            stop_one(place)
            rounds.begin()
            eventually(lambda: len(receiver.received) == 1)

    def test_of_a_workspace_half_may_fail(
        self, place: Place, rounds: Rounds, receiver: Receiver
    ) -> None:
        with webhook_receiver() as hole:
            hole.held.clear()
            for _ in range(AT_ONCE_WORKSPACE + 1):
                place.endpoint(place.member, hole.url, events=ONLY_STOPS)
            place.run("UPDATE webhooks SET failing_since = now()")
            stop_one(place)
            assert rounds.begin() == AT_ONCE_WORKSPACE_FAILING
            assert rounds.begin() == 0
            place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
            stop_one(place)
            assert rounds.begin() == 1
            eventually(lambda: len(receiver.received) == 1)


class TestBesideOneThatTakesItsTime:
    """Its endpoints answer well, only late: they are no failing ones."""

    def test_others_have_lanes(self, place: Place, rounds: Rounds, receiver: Receiver) -> None:
        with webhook_receiver() as slow:
            slow.held.clear()
            for _ in range(LANES // AT_ONCE + 1):
                place.endpoint(place.member, slow.url, events=ONLY_STOPS)
            stop_one(place, AT_ONCE)
            assert rounds.begin() == AT_ONCE_WORKSPACE
            assert rounds.begin() == 0
            place.endpoint(place.stranger, receiver.url, events=ONLY_STOPS)
            _, stops = place.accept(place.stranger, place.theirs)
            place.end(*stops)
            assert rounds.begin() == 1
            eventually(lambda: len(receiver.received) == 1)

    def test_who_has_none_under_way_is_the_next(self, place: Place) -> None:
        ours, theirs = (
            place.endpoint(caller, events=ONLY_STOPS)[0]
            for caller in (place.member, place.stranger)
        )
        stop_one(place, 2)
        place.consume()
        place.pass_time("1 hour")
        _, stops = place.accept(place.stranger, place.theirs)
        place.end(*stops)
        place.consume()
        with transaction(place.engine) as session:
            assert [due.id for due in storage.find_due(session, limit=9)] == [ours, theirs]
            claim(session, ours, limit=1)
            assert [due.id for due in storage.find_due(session, limit=9)] == [theirs, ours]


class TestTwoProcesses:
    def test_each_delivery_is_sent_by_one(
        self, place: Place, rounds: Rounds, receiver: Receiver
    ) -> None:
        place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
        stop_one(place, 50)
        rounds.place.consume()
        other = make_lanes(place.engine, place.settings, WorkerMetrics())
        try:

            def is_done() -> bool:
                for lanes in (rounds.lanes, other):
                    lanes.start_due()
                return all(row.state == "delivered" for row in place.rows())

            eventually(is_done)
        finally:
            other.close()
        assert len(receiver.ids()) == len(set(receiver.ids())) == 50
        assert {row.attempts for row in place.rows()} == {1}

    def test_they_keep_an_endpoints_bound_together(
        self, place: Place, rounds: Rounds, receiver: Receiver
    ) -> None:
        place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
        stop_one(place, 20)
        receiver.held.clear()
        other = make_lanes(place.engine, place.settings, WorkerMetrics())
        try:
            assert rounds.begin() == AT_ONCE
            assert other.start_due() == 0
            receiver.held.set()
        finally:
            other.close()

    def test_while_one_claims_the_other_does_not(self, place: Place, lanes: Lanes) -> None:
        place.endpoint(place.member)
        stop_one(place)
        place.consume()
        with transaction(place.engine) as session:
            assert storage.lock_claims(session)
            assert lanes.start_due() == 0


class TestLeases:
    def test_what_was_claimed_and_not_sent_is_sent_by_another(
        self, place: Place, rounds: Rounds, receiver: Receiver
    ) -> None:
        webhook, _ = place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
        stop_one(place)
        place.consume()
        with transaction(place.engine) as session:
            (dead,) = claim(session, webhook, limit=5)
        assert rounds.run() == 0
        place.pass_time("31 seconds")
        assert rounds.run() == 1
        assert receiver.ids() == [dead.event_id]
        assert place.row().attempts == 2

    def test_who_comes_late_changes_nothing(self, place: Place, receiver: Receiver) -> None:
        webhook, _ = place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
        stop_one(place)
        place.consume()
        with transaction(place.engine) as session:
            (late,) = claim(session, webhook, limit=5)
        place.pass_time("31 seconds")
        with transaction(place.engine) as session:
            (another,) = claim(session, webhook, limit=5)
        failed = Outcome(status=None, error="late")
        with transaction(place.engine) as session:
            assert settle(session, late, failed) is None
        assert place.webhook(webhook).failing_since is None
        with transaction(place.engine) as session:
            assert settle(session, another, Outcome(status=200, error=None)) == "delivered"
            assert settle(session, late, failed) is None
        assert (place.row().state, place.row().last_error) == ("delivered", None)


def test_a_disabled_endpoint_gets_nothing_until_it_is_enabled(
    place: Place, rounds: Rounds, receiver: Receiver
) -> None:
    place.endpoint(place.stranger)  # or nobody would look at all
    place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
    stop_one(place)
    place.consume()
    place.run("UPDATE webhooks SET disabled_at = now() WHERE url = :url", url=receiver.url)
    assert rounds.run() == 0
    place.run("UPDATE webhooks SET disabled_at = NULL")
    assert rounds.run() == 1
    assert len(receiver.received) == 1


def test_one_that_is_disabled_while_it_is_sent_to_gets_no_more(
    place: Place, rounds: Rounds, receiver: Receiver
) -> None:
    place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
    stop_one(place, AT_ONCE + 5)
    receiver.held.clear()
    assert rounds.begin() == AT_ONCE
    place.run("UPDATE webhooks SET disabled_at = now()")
    receiver.held.set()
    eventually(lambda: not rounds.lanes.running)
    assert len(receiver.received) == AT_ONCE


def test_a_deleted_endpoint_gets_nothing(place: Place, rounds: Rounds, receiver: Receiver) -> None:
    place.endpoint(place.stranger)
    webhook, _ = place.endpoint(place.member, receiver.url)
    stop_one(place)
    place.consume()
    with transaction(place.engine) as session:
        delete_webhook(session, place.member, webhook)
    assert rounds.run() == 0
    assert receiver.received == []


def test_an_endpoint_that_is_deleted_while_it_is_sent_to(
    place: Place, rounds: Rounds, receiver: Receiver
) -> None:
    webhook, _ = place.endpoint(place.member, receiver.url)
    stop_one(place)
    receiver.held.clear()
    rounds.begin()
    eventually(lambda: len(receiver.received) == 2)
    with transaction(place.engine) as session:
        delete_webhook(session, place.member, webhook)
    receiver.held.set()
    eventually(lambda: not rounds.lanes.running)
    assert {row.state for row in place.rows()} == {"delivered"}


def test_after_a_day_it_is_given_up(place: Place, rounds: Rounds, receiver: Receiver) -> None:
    place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
    stop_one(place)
    place.consume()
    place.pass_time("25 hours")
    assert rounds.run() == 0
    assert (place.row().state, place.row().last_error) == ("failed", storage.STALE)
    assert receiver.received == []
    assert counted(rounds.metrics)["failed"] == 1


def test_it_is_sent_once_more_when_asked_for(
    place: Place, rounds: Rounds, receiver: Receiver
) -> None:
    webhook, _ = place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
    stop_one(place)
    rounds.run()
    place.pass_time("25 hours")
    with transaction(place.engine) as session:
        redeliver(session, place.member, webhook, place.row().id)
    assert rounds.run() == 1
    first, second = receiver.received
    assert first.raw == second.raw
    assert (place.row().state, place.row().attempts) == ("delivered", 2)


class TestPurge:
    def test_deliveries_go_with_their_batch(self, place: Place, rounds: Rounds) -> None:
        place.endpoint(place.member)
        stop_one(place)
        place.consume()
        assert len(place.rows()) == 2
        place.run("UPDATE stop_batches SET accepted_at = now() - interval '1 year'")
        run_purge(place.engine, place.settings)
        assert place.rows() == []
        assert rounds.run() == 0

    def test_without_a_retention_they_go_after_thirty_days(self, place: Place) -> None:
        place.endpoint(place.member)
        stop_one(place)
        place.consume()
        place.pass_time("29 days")
        assert purge_deliveries(place.engine) == 0
        place.pass_time("2 days")
        keeps_batches = place.settings.model_copy(update={"retention": 0.0})
        run_purge(place.engine, keeps_batches)
        assert place.rows() == []


class TestSecrets:
    def test_they_are_in_no_row_log_or_repr(
        self,
        place: Place,
        rounds: Rounds,
        receiver: Receiver,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        webhook, secret = place.endpoint(place.member, receiver.url)
        receiver.status, receiver.answer = 500, secret.encode()
        stop_one(place)
        place.consume()
        with transaction(place.engine) as session:
            shown = repr(claim(session, webhook, limit=1))
        rounds.run()
        with transaction(place.engine) as session:
            for table in ("webhooks", "webhook_deliveries"):
                rows = session.scalars(text(f"SELECT t::text FROM {table} t"))  # noqa: S608 - as written
                shown += "".join(map(str, rows))
        logged = "".join(capsys.readouterr())
        assert "webhook not delivered yet" in logged
        assert "HTTP 500: [hidden]" in logged
        for text_ in (shown, logged):
            assert secret not in text_
            assert secret.removeprefix("whsec_") not in text_
        assert "in-the-url" not in logged

    @pytest.mark.parametrize("keys", [None, SecretStr(new_sealing_key())])
    def test_a_key_that_is_gone(
        self, place: Place, receiver: Receiver, keys: SecretStr | None
    ) -> None:
        place.endpoint(place.member, receiver.url, events=ONLY_STOPS)
        stop_one(place)
        place.consume()
        settings = place.settings.model_copy(update={"webhook_keys": keys})
        lanes = make_lanes(place.engine, settings, WorkerMetrics())
        lanes.start_due()
        lanes.close()
        row = place.row()
        assert row.state == "pending"
        assert "CVMSTOP_WEBHOOK_KEYS" in str(row.last_error)
        assert receiver.received == []
