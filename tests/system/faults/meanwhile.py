"""Threads that work while a block lasts."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def meanwhile(work: Callable[[threading.Event], None], *, threads: int = 1) -> Iterator[None]:
    """Have threads work while the block lasts, and wait for them after it.

    Parameters
    ----------
    work
        What each does; it returns soon after the event that it gets is set.
    threads
        How many.
    """
    ending = threading.Event()
    workers = [threading.Thread(target=work, args=[ending], daemon=True) for _ in range(threads)]
    for each in workers:
        each.start()
    try:
        yield
    finally:
        ending.set()
        for each in workers:
            each.join()
