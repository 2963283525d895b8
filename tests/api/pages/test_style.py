"""The style sheet's colours can be told apart, in light and in dark."""

from __future__ import annotations

import re

import pytest

from api.pages.static_files import PLACE


COLOUR = re.compile(r"--([a-z-]+): (#[0-9a-f]{6});")

STATES = ("scheduled", "stopping", "confirming", "succeeded", "failed")

TEXTS = [
    *(("ink", "ground"), ("ink", "sheet"), ("dim", "ground"), ("dim", "sheet")),
    *(("link", "ground"), ("link", "sheet"), ("act-ink", "act"), ("stop-ink", "stop")),
    *((state, f"{state}-ground") for state in STATES),
    *((state, "sheet") for state in STATES),
    *(("dim", f"{state}-ground") for state in STATES),
]
"""What is written on what: 4.5 to 1 is wanted (WCAG 2.2, 1.4.3)."""

EDGES = [("field", "sheet"), ("focus", "ground"), ("focus", "sheet")]
"""What shows where a field ends and what has the focus: 3 to 1 (WCAG 2.2, 1.4.11)."""


def colours(scheme: str) -> dict[str, str]:
    """Read what the sheet calls them by."""
    light, dark = (PLACE / "page.css").read_text().split("@media (prefers-color-scheme: dark)")
    found = dict(COLOUR.findall(light))
    return found if scheme == "light" else {**found, **dict(COLOUR.findall(dark))}


def luminance(colour: str) -> float:
    """Source: WCAG 2.2, "relative luminance"."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_can_be_read(scheme: str) -> None:
    known = colours(scheme)
    for pairs, least in ((TEXTS, 4.5), (EDGES, 3.0)):
        faint = [pair for pair in pairs if contrast(known[pair[0]], known[pair[1]]) < least]
        assert not faint
