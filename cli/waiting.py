"""Following batches until all of their stops have ended, with a bar for each."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from shared.models.states import StopState


if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from cli.api_client import ApiClient

PATIENCE = 120.0
"""Seconds for which an API that does not answer is waited for, once something is under way."""

SHORTEST_INTERVAL = 0.5
"""Seconds between two looks at the batches, at least."""

INTERVAL_PER_BATCH = 0.05
"""So that however many batches make 20 requests a second at most: a third of the rate limit."""

LINE_INTERVAL = 5.0
"""Seconds between two lines where no bars can be drawn."""

MOST_BARS = 12
"""Bars that fit; with more batches only those are shown that go on, the first ones of them."""


class BatchBars:
    """Shows on standard error how batches go on: bars on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            auto_refresh=False,
        )
        self._bars: dict[str, TaskID] = {}
        self._began = time.monotonic()
        self._next_line = LINE_INTERVAL

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    @property
    def are_drawn(self) -> bool:
        """Whether there is a terminal that bars are drawn on."""
        return self._console.is_terminal

    def update(self, batches: Sequence[dict[str, Any]]) -> None:
        """Show how they stand; each as the API gives it."""
        if self._console.is_terminal:
            self._update_bars(batches)
            return
        seconds = time.monotonic() - self._began
        is_over = not any(batch["open"] for batch in batches)
        if seconds >= self._next_line or is_over:
            self._next_line = seconds + LINE_INTERVAL
            counts = _sum_counts(batches)
            total = counts.total()
            ended = total - sum(batch["open"] for batch in batches)
            states = ", ".join(f"{counts[state]} {state}" for state in StopState if counts[state])
            self._console.print(f"{seconds:4.0f} s  {ended} of {total} ended: {states}")

    def _update_bars(self, batches: Sequence[dict[str, Any]]) -> None:
        shown = 0
        if len(batches) > 1:
            shown += self._show("all", _sum_counts(batches), visible=True)
        for number, batch in enumerate(batches, 1):
            fits = len(batches) < MOST_BARS or bool(batch["open"] and shown < MOST_BARS)
            shown += self._show(f"batch {number}", Counter(batch["counts"]), visible=fits)
        self._progress.refresh()

    def _show(self, name: str, counts: Counter[str], *, visible: bool) -> bool:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=counts.total(), note="")
        ended = {state: counts[state] for state in ("succeeded", "failed", "canceled")}
        note = ", ".join(f"{count} {state}" for state, count in ended.items() if count)
        self._progress.update(
            self._bars[name], completed=sum(ended.values()), note=note, visible=visible
        )
        return visible


def wait_for_batches(client: ApiClient, batch_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Wait until every stop of some batches has ended; gives the batches as they are then.

    Raises
    ------
    ApiRequestError
        The API did not answer for two minutes, or the key became worth nothing.
    """
    client.patience = PATIENCE
    found: dict[str, dict[str, Any]] = {}
    with BatchBars() as bars:
        while True:
            going_on = [each for each in batch_ids if each not in found or found[each]["open"]]
            for batch_id in going_on:
                found[batch_id] = client.batch(batch_id)
                if len(found) == len(batch_ids):
                    bars.update([found[each] for each in batch_ids])
            going_on = [each for each in batch_ids if found[each]["open"]]
            if not going_on:
                return [found[each] for each in batch_ids]
            time.sleep(max(SHORTEST_INTERVAL, INTERVAL_PER_BATCH * len(going_on)))


def _sum_counts(batches: Sequence[dict[str, Any]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for batch in batches:
        counts.update(batch["counts"])
    return counts
