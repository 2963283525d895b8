"""The CVMs of a form, and the batches that they make."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from api.pages.refusals import PageRefusedError
from shared.models.batches import MAX_BATCH


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from api.pages.form import Form

MOST = 1_000
"""CVMs of one form at most: 20 batches, and far below what a request's body may have."""

COMMENT = re.compile(r"#[^\r\n]*")
"""As in a file that `cvmstop stop --from-file` reads."""

BETWEEN = re.compile(r"[^A-Za-z0-9_-]+")
"""Whatever is no part of an id stands between two: spaces, commas, quotes, brackets."""


def read_ids(form: Form) -> list[str]:
    """Give the ids that were pasted and those that were ticked, each once, in their order.

    Raises
    ------
    PageRefusedError
        There are none, or too many.
    """
    pasted = BETWEEN.split(COMMENT.sub(" ", form.text("ids")))
    return _checked(
        [*pasted, *(each for field in form.texts("cvm") for each in BETWEEN.split(field))]
    )


def batches_of(cvm_ids: list[str]) -> Iterator[tuple[str, ...]]:
    """Cut them into batches, in the same way each time."""
    for start in range(0, len(cvm_ids), MAX_BATCH):
        yield tuple(cvm_ids[start : start + MAX_BATCH])


def _checked(given: Iterable[str]) -> list[str]:
    cvm_ids = [each for each in dict.fromkeys(given) if each]
    if not cvm_ids:
        raise PageRefusedError(
            422, "Which CVMs?", "no id was pasted and no CVM was ticked: go back, and choose some"
        )
    if len(cvm_ids) > MOST:
        message = (
            f"{len(cvm_ids):,} CVMs in one form; at most {MOST:,} are taken: send them in parts"
        )
        raise PageRefusedError(422, "Too many at once", message)
    return cvm_ids
