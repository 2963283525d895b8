"""Charts: rectangles that stand where the rows say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from api.pages.charts import HEIGHT, MOST_BARS, pace_chart, times_chart
from shared.models.overview import Pace, TimesChart, TimeToStopped


NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def minute(number: int, succeeded: int = 0, failed: int = 0, canceled: int = 0) -> Pace:
    return Pace(
        begins_at=NOON + timedelta(minutes=number),
        succeeded=succeeded,
        failed=failed,
        canceled=canceled,
    )


def test_bars_stand_on_each_other_and_on_the_ground() -> None:
    chart, together = pace_chart([minute(0), minute(1, 6, 3, 1), minute(2, 5)])
    assert together == 1
    assert (chart.bars, chart.highest) == (3, 10)
    assert [(each.kind, each.x, each.y, each.height) for each in chart.rectangles] == [
        ("succeeded", 1, 40, 60),
        ("failed", 1, 10, 30),
        ("canceled", 1, 0, 10),
        ("succeeded", 2, 50, 50),
    ]
    assert chart.marks == (NOON, NOON + timedelta(minutes=1.5), NOON + timedelta(minutes=3))
    assert [row.begins_at.minute for row in chart.rows] == [2, 1]


def test_more_than_can_be_told_apart_is_put_together() -> None:
    chart, together = pace_chart([minute(number, 1) for number in range(1440)])
    assert together == 4
    assert chart.bars == 360 <= MOST_BARS
    assert chart.highest == 4
    assert {each.height for each in chart.rectangles} == {HEIGHT}
    assert sum(sum(row.counts.values()) for row in chart.rows) == 1440


def test_nothing_is_drawn_of_nothing() -> None:
    chart, _ = pace_chart([minute(0), minute(1)])
    assert (chart.rectangles, chart.rows, chart.highest) == ([], [], 0)
    chart, _ = pace_chart([])
    assert (chart.bars, chart.marks) == (1, None)


def test_times_half_in_front_of_most() -> None:
    def bucket(number: int, p50: float | None, p95: float | None) -> TimeToStopped:
        return TimeToStopped(
            begins_at=NOON + timedelta(minutes=5 * number),
            count=0 if p50 is None else 3,
            p50=p50,
            p95=p95,
            longest=p95,
        )

    buckets = (bucket(0, None, None), bucket(1, 2.0, 8.0), bucket(2, 0.0, 0.0))
    chart = times_chart(TimesChart(buckets=buckets, each=timedelta(minutes=5), complete_since=NOON))
    assert [(each.kind, each.x, each.y, each.height) for each in chart.rectangles] == [
        ("most", 1, 0, 100),
        ("half", 1, 75, 25),
        ("most", 2, 100, 0),
        ("half", 2, 100, 0),
    ]
    assert len(chart.rows) == 2
