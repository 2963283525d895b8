"""Pages of a list: filters, and cursors that stay right while rows are added."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.exceptions import InvalidCursorError
from shared.models.errors import ErrorCode
from shared.models.naming import CVM_ID
from shared.models.states import StopState


CURSOR_WANTED = "cursor: take it as it is from next_cursor of the page before, or leave it out"


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The last row of a page; the next page begins behind it. Newest first."""

    accepted_at: datetime
    row_id: UUID

    def encode(self) -> str:
        """Give the text that a client hands back."""
        text = f"{self.accepted_at.isoformat()} {self.row_id}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Read what `encode` gave.

        Raises
        ------
        InvalidCursorError
            It is something else.
        """
        try:
            decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            accepted_at, row_id = decoded.split(" ")
            cursor = cls(accepted_at=datetime.fromisoformat(accepted_at), row_id=UUID(row_id))
            if cursor.accepted_at.tzinfo is not None:
                return cursor
        except (binascii.Error, ValueError):
            pass
        raise InvalidCursorError(CURSOR_WANTED)


def encode_cvm_cursor(cvm_id: str) -> str:
    """Give the text that says: behind this CVM, by id."""
    return base64.urlsafe_b64encode(cvm_id.encode()).decode().rstrip("=")


def decode_cvm_cursor(text: str) -> str:
    """Read what `encode_cvm_cursor` gave.

    Raises
    ------
    InvalidCursorError
        It is something else.
    """
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, ValueError):
        decoded = ""
    if not CVM_ID.fullmatch(decoded):
        raise InvalidCursorError(CURSOR_WANTED)
    return decoded


@dataclass(frozen=True, kw_only=True)
class CvmFilter:
    """Which CVMs are wanted; everything given must hold."""

    workspace: str | None = None
    host: str | None = None
    status: str | None = None
    drifted: bool | None = None
    """Whether it runs though its stop has succeeded."""
    in_progress: bool | None = None


@dataclass(frozen=True, kw_only=True)
class StopFilter:
    """Which stop tasks are wanted; everything given must hold."""

    states: tuple[StopState, ...] = ()
    cvm_id: str | None = None
    host: str | None = None
    batch_id: UUID | None = None
    workspace: str | None = None
    error_code: ErrorCode | None = None
    accepted_from: datetime | None = None
    """Accepted then or later."""
    accepted_before: datetime | None = None
    """Accepted before then."""
    request_id: str | None = None
    """The id of the request that asked, as log lines have it."""
    retried: bool | None = None
    """Whether it was tried again, whatever came of that: the retry is a stop of its own."""
