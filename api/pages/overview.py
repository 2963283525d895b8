"""`/`: what is running now, how the hosts are, what was asked last, how much and how soon."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from api.dependencies import CurrentCaller, Parts
from api.pages.charts import pace_chart, times_chart
from api.pages.dependencies import AskedFor
from api.pages.page_route import READ, SignedInPage
from api.pages.rendering import render
from shared.database import transaction
from shared.models.overview import HostHealth, PaceChart, TimesChart
from shared.models.pages import StopFilter
from shared.services import overview
from shared.services.failures import group_failures
from shared.services.stop_records import list_batches


router = APIRouter(route_class=SignedInPage, include_in_schema=False)

BATCHES = 8
"""Batches that are shown of the last ones."""

HOURS = (1, 3, 6, 24)
"""How far back charts can be asked to go."""

USUAL_HOURS = 3


@router.api_route("/", methods=[*READ])
def overview_page(
    request: Request, asked: AskedFor, parts: Parts, caller: CurrentCaller
) -> Response:
    """Show how things stand."""
    hours = asked.number("hours")
    hours = hours if hours in HOURS else USUAL_HOURS
    settings = parts.settings
    with transaction(parts.engine) as session:
        open_stops = overview.open_stops(session, caller)
        hosts = overview.host_health(session, caller)
        pace = overview.pace(session, caller, hours=hours, settings=settings)
        times = overview.times_to_stopped(session, caller, hours=hours, settings=settings)
        batches = list_batches(session, caller, cursor=None, limit=BATCHES)
        ended, minutes = pace_chart(pace.minutes)
        return render(
            request,
            "overview.html",
            now=datetime.now(UTC),
            open_stops=open_stops,
            failures=group_failures(session, caller, StopFilter(retried=False)),
            hosts=sorted(hosts, key=_worst_first),
            batches=batches.items,
            ended=ended,
            minutes=minutes,
            times=times_chart(times),
            bucket=times.each,
            missing_before=_missing_before(pace, times),
            hours=hours,
            hours_offered=HOURS,
        )


def _worst_first(host: HostHealth) -> tuple[bool, bool, str]:
    """Order hosts: those that something is wrong with, then by name; the disabled ones last."""
    is_well = host.is_reachable is not False and host.breaker == "closed"
    return host.disabled_at is not None, is_well and not host.is_sync_failing, host.name


def _missing_before(pace: PaceChart, times: TimesChart) -> datetime | None:
    """Say before when stops are missing in a chart; None if all are there."""
    cut_off = [
        since
        for since, begins_at in (
            (pace.complete_since, pace.minutes[0].begins_at),
            (times.complete_since, times.buckets[0].begins_at),
        )
        if since > begins_at
    ]
    return max(cut_off, default=None)
