"""Named places at which a test makes a process die or freeze: between two steps, and not by luck.

Off unless the environment variable `CVMSTOP_FAILPOINTS` names a directory. There, a file with a
place's name says what the next process that comes by is to do: `kill` or `freeze`. It strikes once:
who takes the file away is struck.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from enum import StrEnum
from pathlib import Path


VARIABLE = "CVMSTOP_FAILPOINTS"
"""Not one of the settings: nobody who runs cvmstop has a use for it."""


class Failpoint(StrEnum):
    """Every place."""

    API_COMMITTED = "api.committed"
    """A batch is written down; nothing has been sent, and the client knows nothing yet."""
    WORKER_RECEIVED = "worker.received"
    """A worker has the message; nothing has been claimed."""
    WORKER_CLAIMED = "worker.claimed"
    """The stop is claimed; the host knows nothing yet."""
    WORKER_FORCE_STOPPED = "worker.force_stopped"
    """The host has answered the force stop; nobody has looked again."""
    WORKER_TURN_TAKEN = "worker.turn_taken"
    """The turn is over; nothing is written down of it."""
    WORKER_SETTLED = "worker.settled"
    """The turn is written down; whom it wakes has not been sent."""
    DISPATCHER_TAKEN = "dispatcher.taken"
    """Due stops are marked as sent; nothing has been sent."""
    WEBHOOKS_WRITTEN = "webhooks.written"
    """Events are written down for their endpoints; nothing has been sent."""
    WEBHOOK_CLAIMED = "webhook.claimed"
    """A delivery is claimed; its endpoint knows nothing yet."""
    WEBHOOK_SENT = "webhook.sent"
    """An endpoint has answered; nothing is written down of it."""


class Action(StrEnum):
    """What happens at a place."""

    KILL = "kill"
    """SIGKILL: nothing is tidied up."""
    FREEZE = "freeze"
    """SIGSTOP of the whole process, until somebody lets it go on."""


SIGNALS = {Action.KILL: signal.SIGKILL, Action.FREEZE: signal.SIGSTOP}


def reach(place: Failpoint) -> None:
    """Come by a place; do there what is armed, if anything is."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        return
    armed = Path(directory) / place
    struck = armed.with_name(f"{place}.struck-{os.getpid()}")
    with suppress(FileNotFoundError):
        armed.rename(struck)
        # This thread: a signal to the process may come a moment later, and the thread get
        # past the place.
        signal.pthread_kill(threading.get_ident(), SIGNALS[Action(struck.read_text().strip())])
