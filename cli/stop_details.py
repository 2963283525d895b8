"""One stop with every try, and failures in a group, for a person."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from cli.output import time_text


if TYPE_CHECKING:
    from collections.abc import Iterator


def group_in_words(count: int, error_code: str, host: str) -> str:
    """Say how many stops failed for which reason on which host."""
    return f"{count} \N{MULTIPLICATION SIGN} {error_code}: {host}"


def describe(found: dict[str, Any], width: int) -> Iterator[str]:
    """Describe a stop task for a person, exchanges with its host in lines of that width."""
    yield f"stop task  {found['id']}"
    yield f"batch      {found['batch_id']}"
    yield f"CVM        {found['cvm_id']} of {found['workspace']}"
    yield f"VM         {found['vm_uuid']} on {found['host']}"
    yield f"accepted   {_time(found['accepted_at'])}"
    if found["retry_of"]:
        yield f"retry of   {found['retry_of']}"
    if found["retried_by"]:
        yield f"retried by {found['retried_by']}"
    ended = f", {_time(found['finished_at'])}" if found["finished_at"] else ""
    yield f"state      {found['state']}{ended}"
    if found["error_code"]:
        yield f"error      {found['error_code']}: {_shown(found['error_message'])}"
    for attempt in found["attempt_log"]:
        yield ""
        yield f"try {attempt['number']}, {_time(attempt['started_at'])}, {attempt['worker']}"
        yield f"  outcome  {attempt['outcome']}, the VM {attempt['power_state'] or 'not seen'}"
        if attempt["error_code"]:
            yield f"  error    {attempt['error_code']}: {_shown(attempt['error_message'])}"
        same = groupby(attempt["exchanges"], key=itemgetter("request", "answer"))
        for (request, answer), exchanges in same:
            seconds = [exchange["seconds"] for exchange in exchanges]
            times = f"{len(seconds)} times, at most " if len(seconds) > 1 else ""
            end = f"  ({times}{max(seconds):.3f} s)"
            yield f"  sent     {_shown(request)}"
            yield _cut(f"  got      {_shown(answer)}", width - len(end)) + end


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def _time(text: str) -> str:
    return time_text(datetime.fromisoformat(text))


def _shown(text: str | None) -> str:
    """Show what came from a host, without letting it steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text or "-")
