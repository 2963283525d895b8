"""What is shown and kept of a host's answers: printable, bounded, without credentials."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TEXT = 500
"""Characters kept of one answer. dstack-vmm's error texts are far shorter."""

READ_AHEAD = 16_384
"""Bytes looked at for them: more, because hidden credentials and white space shorten a text."""

HIDDEN = "[hidden]"
"""Stands where a credential stood."""


class Transcriber:
    """Makes texts of one host's answers.

    Parameters
    ----------
    secrets
        What must not be shown even when the host sends it back.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        given = {secret for secret in secrets if secret}
        escaped = {json.dumps(secret)[1:-1] for secret in given}
        # The longest first: a secret may be part of another.
        self._secrets = sorted(given | escaped, key=len, reverse=True)

    def show(self, body: bytes) -> str:
        """Give the start of an answer's body."""
        return self.clean(body[:READ_AHEAD].decode(errors="replace"))

    def clean(self, text: str) -> str:
        """Make a text of at most `MAX_TEXT` characters that any log, page or column takes.

        White space becomes single spaces. What is not printable becomes an escape: PostgreSQL
        refuses NUL and lone surrogates.
        """
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        text = " ".join(text.split())
        if len(text) > MAX_TEXT:
            text = text[: MAX_TEXT - 1] + "…"
        if text.isprintable():  # nearly always, and going through it would take long
            return text
        escaped = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
        )
        return escaped[:MAX_TEXT]
