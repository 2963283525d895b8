"""What a form sends: `application/x-www-form-urlencoded`, as browsers do."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from api.pages.refusals import PageRefusedError


if TYPE_CHECKING:
    from fastapi import Request

URLENCODED = "application/x-www-form-urlencoded"

MAX_FIELDS = 2_000
"""Fields of one form at most: a thousand CVMs, each with a box that is ticked, and some more."""


class Form:
    """The fields of one form, in order; a name may come more than once."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """Give the first field of a name without white space around it, or an empty text."""
        return next(iter(self.texts(name)), "").strip()

    def texts(self, name: str) -> list[str]:
        """Give every field of a name."""
        return [value for key, value in self._fields if key == name]


async def read_form(request: Request) -> Form:
    """Read the body.

    Raises
    ------
    PageRefusedError
        It is no such form.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if content_type == URLENCODED:
        try:
            # What is not UTF-8 becomes a character that no id and no key has.
            fields = parse_qsl(
                body.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS
            )
        except ValueError:
            pass
        else:
            return Form([(name, value.replace("\x00", "\ufffd")) for name, value in fields])
    raise PageRefusedError(
        400, "Not a form", "this is no form of cvmstop's page, or too long a one"
    )
