"""What an operator sees at a glance, and what a member does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from shared.exceptions import InvalidValueError
from shared.models.states import StopState
from shared.services.overview import host_health, open_stops, pace, times_to_stopped
from shared.storage import overview as storage


if TYPE_CHECKING:
    from shared.settings import Settings
    from tests.shared.services.conftest import Town

SECRETIVE = "no answer from http://10.0.0.7:9080"


class TestHostHealth:
    def test_an_admin_sees_all(self, town: Town) -> None:
        since = datetime(2026, 1, 1, tzinfo=UTC)
        town.shared.unreachable_since = since
        town.shared.last_error = SECRETIVE
        town.shared.breaker_open_until = datetime(2090, 1, 1, tzinfo=UTC)
        town.shared.disabled_at = town.other.synced_at = since
        town.begin(town.ours, StopState.STOPPING)
        town.begin(town.theirs)
        first, second = host_health(town.session, town.admin)
        assert (first.name, second.name) == ("node-1", "node-2")
        assert (first.is_reachable, first.unreachable_since) == (False, since)
        assert (first.breaker, first.last_error) == ("open", SECRETIVE)
        assert (first.cap, first.stopping, first.waiting) == (
            town.shared.max_concurrent_stops,
            1,
            1,
        )
        assert first.disabled_at == since
        assert (second.is_reachable, second.unreachable_since) == (True, None)
        assert (second.stopping, second.waiting) == (0, 0)

    def test_nothing_is_known_of_a_new_host(self, town: Town) -> None:
        first, *_ = host_health(town.session, town.admin)
        assert (first.is_reachable, first.is_sync_failing) == (None, False)

    def test_one_that_only_syncs_did_not_reach(self, town: Town) -> None:
        town.shared.sync_error = SECRETIVE
        town.shared.unreachable_since = town.shared.synced_at = datetime(2026, 1, 1, tzinfo=UTC)
        first, *_ = host_health(town.session, town.admin)
        assert (first.is_reachable, first.last_error) == (False, SECRETIVE)

    def test_a_member_learns_only_its_own(self, town: Town) -> None:
        town.shared.last_error = town.shared.sync_error = SECRETIVE
        town.begin(town.ours, StopState.STOPPING)
        town.begin(town.theirs)
        (only,) = host_health(town.session, town.member)
        assert only.name == "node-1"
        assert (only.stopping, only.waiting) == (1, 0)
        assert (only.address, only.last_error, only.sync_error) == (None, None, None)
        assert only.is_sync_failing


class TestOpenStops:
    def test_counts_and_the_oldest(self, town: Town) -> None:
        town.begin(town.ours, StopState.STOPPING, took=60.0)
        late = func.now() - timedelta(seconds=30)
        newest = town.begin(town.theirs, StopState.CONFIRMING, took=20.0, due_at=late)
        town.stop(town.ours)
        found = open_stops(town.session, town.admin)
        assert found.counts == {"scheduled": 0, "stopping": 1, "confirming": 1}
        assert found.total == 2
        assert found.oldest_accepted_at == newest.accepted_at - timedelta(seconds=40)
        assert found.oldest_due_seconds >= 30

    def test_what_is_due_later_is_not_overdue(self, town: Town) -> None:
        town.begin(town.ours, due_at=func.now() + timedelta(seconds=60))
        assert open_stops(town.session, town.admin).oldest_due_seconds == 0

    def test_none(self, town: Town) -> None:
        found = open_stops(town.session, town.admin)
        assert (found.total, found.oldest_accepted_at, found.oldest_due_seconds) == (0, None, 0)

    def test_a_member_learns_only_its_own(self, town: Town) -> None:
        town.begin(town.theirs)
        found = open_stops(town.session, town.member)
        assert (found.total, found.oldest_accepted_at, found.oldest_due_seconds) == (0, None, 0)


class TestPace:
    def test_minutes_up_to_this_one(self, town: Town, settings: Settings) -> None:
        for state in (StopState.SUCCEEDED, StopState.FAILED, StopState.CANCELED):
            town.stop(town.ours, state=state)
        town.stop(town.theirs, ago=120.0)
        town.stop(town.theirs, ago=2 * 3_600.0)
        town.begin(town.ours)
        chart = pace(town.session, town.admin, hours=1, settings=settings)
        assert len(chart.minutes) == 60
        assert chart.complete_since == chart.minutes[0].begins_at
        newest = chart.minutes[-1]
        assert (newest.succeeded, newest.failed, newest.canceled) == (1, 1, 1)
        assert chart.minutes[-3].succeeded == 1
        assert sum(minute.succeeded for minute in chart.minutes) == 2
        now = town.session.scalars(select(func.now())).one()
        assert newest.begins_at == now.replace(second=0, microsecond=0)

    def test_a_stop_that_took_until_its_deadline(self, town: Town, settings: Settings) -> None:
        """Accepted before the hour that is asked for."""
        town.stop(town.ours, ago=3_500.0, took=settings.stop_deadline)
        chart = pace(town.session, town.admin, hours=1, settings=settings)
        assert sum(minute.succeeded for minute in chart.minutes) == 1

    def test_what_was_not_read_is_said(
        self, town: Town, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage, "MOST_READ", 2)
        stops = [town.stop(town.ours, ago=ago) for ago in (2_400.0, 1_800.0, 1_200.0)]
        chart = pace(town.session, town.admin, hours=1, settings=settings)
        assert sum(minute.succeeded for minute in chart.minutes) == 2
        deadline = timedelta(seconds=settings.stop_deadline)
        assert chart.complete_since == stops[1].accepted_at + deadline

    def test_a_member_learns_only_its_own(self, town: Town, settings: Settings) -> None:
        town.stop(town.theirs)
        chart = pace(town.session, town.member, hours=1, settings=settings)
        assert all(minute.succeeded == 0 for minute in chart.minutes)

    @pytest.mark.parametrize("hours", [0, 25])
    def test_too_long(self, town: Town, settings: Settings, hours: int) -> None:
        with pytest.raises(InvalidValueError, match="from 1 to 24"):
            pace(town.session, town.admin, hours=hours, settings=settings)


class TestTimesToStopped:
    def test_of_those_that_succeeded(self, town: Town, settings: Settings) -> None:
        for took in range(1, 101):
            town.stop(town.ours, took=float(took))
        town.stop(town.ours, took=500.0, state=StopState.FAILED)
        chart = times_to_stopped(town.session, town.admin, hours=1, settings=settings)
        assert len(chart.buckets) == 12
        newest = chart.buckets[-1]
        assert (newest.count, newest.longest) == (100, 100.0)
        assert newest.p50 == pytest.approx(50.5)
        assert newest.p95 == pytest.approx(95.05)
        assert (chart.buckets[0].count, chart.buckets[0].p50) == (0, None)

    def test_a_member_learns_only_its_own(self, town: Town, settings: Settings) -> None:
        town.stop(town.theirs)
        chart = times_to_stopped(town.session, town.member, hours=1, settings=settings)
        assert all(bucket.count == 0 for bucket in chart.buckets)
