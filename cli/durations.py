"""Durations as commands take them: `30d`, `12h`, `45m`, `2w`."""

from __future__ import annotations

import re
from datetime import timedelta

import typer


UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
"""What a duration may end with, and the word that `timedelta` has for it."""

LONGEST = timedelta(days=3650)
"""Whoever wants a longer one does not mean a duration, but for ever."""


def duration(text: str, *, for_ever: str) -> timedelta:
    """Read a duration such as `30d` or `12h`.

    Parameters
    ----------
    text
        As a person wrote it.
    for_ever
        What to tell who wants a longer one than `LONGEST`.

    Raises
    ------
    typer.BadParameter
        It is none, or it is too long.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,6})([mhdw])", text)
    if found is None:
        msg = f"{text!r} is no duration: give one such as 30d, 12h, 45m or 2w"
        raise typer.BadParameter(msg)
    wanted = timedelta(**{UNITS[found[2]]: int(found[1])})
    if wanted > LONGEST:
        msg = f"at most {LONGEST.days}d; {for_ever}"
        raise typer.BadParameter(msg)
    return wanted
