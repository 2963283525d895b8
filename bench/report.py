"""The table of all figures, and its place in a page."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from pathlib import Path

BEGIN = "<!-- what follows is written by `make bench` -->"
END = "<!-- here it ends -->"


def as_table(results: dict[str, Any]) -> str:
    """Make the table of some results, as `bench.__main__` writes them to a file."""
    where = results["machine"]
    hosts = results["hosts"]
    setting = (
        f"Measured {results['measured_at'][:10]} on {where['cores']} cores"
        f" ({where['processor']}), Python {where['python']}, commit {where['commit']}. The hosts"
        f" themselves: {hosts['answers_per_second']} answers a second at most,"
        f" {hosts['cpu_milliseconds']:.3f} ms of CPU each."
    )
    lines = [
        setting,
        "",
        "| | | median | rounds from, to | goal | |",
        "|---|---|---|---|---|---|",
    ]
    for figure in results["figures"]:
        for number, value in enumerate(figure["values"]):
            title = f"**{figure['number']}. {figure['title']}**" if number == 0 else ""
            spread = (
                "" if value["low"] is None else f"{_short(value['low'])}, {_short(value['high'])}"
            )
            verdict = {None: "", True: "met", False: "**not met**"}[value["is_met"]]
            lines.append(
                f"| {title} | {value['name']} | {_short(value['value'])} {value['unit']}"
                f" | {spread} | {value['goal']} | {verdict} |"
            )
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def write_between_marks(page: Path, text: str) -> None:
    """Put a text into a page, between the two marks in it."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{page.name} has no place for the table: {BEGIN} … {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
