"""What a page's query string asks for. Fields of a filter that were left empty ask for nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from api.pages.refusals import PageRefusedError


if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import StrEnum

Choice = TypeVar("Choice", bound="StrEnum")


class Asked:
    """The parameters of one request.

    Parameters
    ----------
    parameters
        By name.
    """

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = parameters

    def text(self, name: str) -> str | None:
        """Give a text without white space around it; None for an empty one."""
        # PostgreSQL cannot hold NUL, and nothing that is there has this in its place.
        return self._parameters.get(name, "").replace("\x00", "\ufffd").strip() or None

    def choice(self, name: str, kind: type[Choice]) -> Choice | None:
        """Give one of a few.

        Raises
        ------
        PageRefusedError
            It is none of them.
        """
        text = self.text(name)
        try:
            return None if text is None else kind(text)
        except ValueError:
            raise _not_understood(name, f"one of: {', '.join(kind)}") from None

    def yes_or_no(self, name: str) -> bool | None:
        """Give what `yes` and `no` mean.

        Raises
        ------
        PageRefusedError
            It is neither.
        """
        text = self.text(name)
        if text not in {None, "yes", "no"}:
            raise _not_understood(name, "yes or no")
        return None if text is None else text == "yes"

    def instant(self, name: str) -> datetime | None:
        """Give an instant, in UTC unless it says otherwise.

        Raises
        ------
        PageRefusedError
            It is none.
        """
        text = self.text(name)
        try:
            if text is None:
                return None
            time = datetime.fromisoformat(text)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        except (ValueError, OverflowError):
            raise _not_understood(name, "a date and a time such as 2026-07-01T12:00") from None

    def uuid(self, name: str) -> UUID | None:
        """Give an id of a batch or a stop.

        Raises
        ------
        PageRefusedError
            It is none.
        """
        text = self.text(name)
        try:
            return None if text is None else UUID(text)
        except ValueError:
            raise _not_understood(name, "an id such as 0198f3f2-…, 36 characters") from None

    def number(self, name: str) -> int | None:
        """Give a count that this page told itself; None for anything else."""
        text = self.text(name) or ""
        return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else None

    def again(self, **changed: str | None) -> str:
        """Write the query string again, with some of it changed; None leaves one out."""
        wanted = {**self._parameters, **changed}
        return urlencode({name: value for name, value in wanted.items() if value})


def _not_understood(name: str, wanted: str) -> PageRefusedError:
    return PageRefusedError(422, "Not understood", f"{name}: {wanted} is wanted")
