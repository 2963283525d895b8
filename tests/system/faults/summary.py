"""What is printed when all is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.system.faults.recovery import bound_of


if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.settings import Settings
    from tests.system.faults.recovery import Recovery
    from tests.system.faults.run import Report


def summary(reports: list[Report], recoveries: list[Recovery], settings: Settings) -> Iterator[str]:
    """Give the lines."""
    if recoveries:
        yield "from each fault's end to the last stop's end, and what bounds it:"
    for each in recoveries:
        words, seconds = bound_of(each.fault, settings)
        yield f"    {each.fault:40}{each.seconds:5.1f} s of {seconds:5.1f} s  ({words})"
    for report in reports:
        yield f"{report.name}: {report.judgement.line()}  ({report.seconds:.0f} s)"
        if report.faults:
            yield f"    in this order: {', '.join(report.faults)}"
        if report.own_ends:
            yield f"    ended by themselves and were started again: {report.own_ends}"
        answers = ", ".join(f"{count} x {kind}" for kind, count in sorted(report.answers.items()))
        yield f"    answers: {answers}"
        yield from (f"    {problem}" for problem in report.judgement.broken)
    if reports:
        lost = sum(report.judgement.lost + report.judgement.open for report in reports)
        broken = sum(len(report.judgement.broken) for report in reports)
        stops = sum(report.judgement.accepted for report in reports)
        force_stops = sum(report.judgement.force_stops_too_many for report in reports)
        yield (
            f"{len(reports)} runs, {stops} stops: lost {lost}, broken invariants {broken},"
            f" force stops beyond one per attempt {force_stops}"
        )
