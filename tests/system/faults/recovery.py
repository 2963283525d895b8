"""What bounds the time that a fault is felt after its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.system.faults import faults
from workers.consumer import RECONNECT_INTERVAL
from workers.stops import SETTLE_RETRY_MAX


if TYPE_CHECKING:
    from shared.settings import Settings

STOP_SECONDS = 0.8
"""How long a VM takes to be down here: a stop takes two turns, the second one sent by the
dispatcher."""

START_SECONDS = 5.0
"""What a process of ours takes to start on two busy cores."""


@dataclass(frozen=True)
class Recovery:
    """What was measured for one fault."""

    fault: str
    seconds: float
    """From the fault's end to the last stop's end."""


def bound_of(fault: str, settings: Settings) -> tuple[str, float]:
    """Give the bound for a fault, in words and in seconds.

    To each comes the time that the stops take anyway: the last may begin when the fault ends.
    """
    round_ = 2 * settings.dispatch_interval
    anyway = STOP_SECONDS + settings.look_seconds + settings.confirm_interval_max + round_
    resend = settings.resend_after + round_
    turn = settings.turn_limit + settings.retry_backoff_max + settings.breaker_cooldown
    outage = settings.database_timeout + 1 + SETTLE_RETRY_MAX + settings.lease
    for faults_of_kind, words, seconds in (
        (faults.LOSES_ONLY_A_MESSAGE, "resend", 0.0),
        (faults.API_FAULTS, "start of the API + resend", START_SECONDS),
        (faults.WORKER_FAULTS, "lease + resend", settings.lease),
        (faults.DISPATCHER_FAULTS, "start of the dispatcher + resend", START_SECONDS),
        (faults.BROKER_FAULTS, "reconnect + resend", RECONNECT_INTERVAL),
        (faults.DATABASE_FAULTS, "time-out + settle retry + lease + resend", outage),
        (faults.HOST_FAULTS, "turn under way + back-off + breaker + resend", turn),
    ):
        if fault in faults_of_kind:
            return words, seconds + resend + anyway
    msg = f"no bound is known for {fault!r}"
    raise KeyError(msg)
