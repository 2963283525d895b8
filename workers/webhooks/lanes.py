"""Sending deliveries side by side, so that no endpoint keeps another one waiting.

A lane is a thread with one endpoint: it sends, settles, and takes the endpoint's next delivery. It
ends when there is none, when a try failed, and after a while in any case.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog
from pydantic import SecretStr

from shared.database import transaction
from shared.exceptions import DatabaseUnavailableError, SealError
from shared.failpoints import Failpoint, reach
from shared.models.webhooks import DeliveryState
from shared.sealing import make_webhook_sealer
from shared.services.webhook_targets import TargetPolicy
from shared.services.webhooks import OFF
from shared.storage.webhook_deliveries import Outcome, claim, find_due, lock_claims, settle
from workers.webhooks.sending import Sender


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from shared.sealing import Sealer
    from shared.settings import Settings
    from shared.storage.webhook_deliveries import ClaimedDelivery
    from workers.metrics import WorkerMetrics

log = structlog.get_logger(__name__)

LANES = 32
"""Deliveries that one process sends at once. Each mostly waits for its endpoint."""

FAILING_LANES = LANES // 2
"""Those of them that may wait for endpoints whose last try failed: the others stay free for
endpoints that answer, however many do not."""

LANE_SECONDS = 10.0
"""After this long a lane ends, and endpoints that wait get their turn."""

UNOPENABLE = "not sent: its secret was sealed with a key that is not in CVMSTOP_WEBHOOK_KEYS"
BROKE = "not sent: something broke here, and the log has it"


def make_lanes(engine: Engine, settings: Settings, metrics: WorkerMetrics) -> Lanes:
    """Make the lanes of a process; no thread is begun.

    Raises
    ------
    SettingsError
        One of `CVMSTOP_WEBHOOK_KEYS` is wrong.
    """
    sealer = make_webhook_sealer(settings.webhook_keys)
    return Lanes(engine, Sender(TargetPolicy(settings)), sealer, metrics)


class Lanes:
    """The lanes of one process.

    Parameters
    ----------
    engine, sender, metrics
        What the process has.
    sealer
        Opens the secrets; None if webhooks are off.
    """

    def __init__(
        self, engine: Engine, sender: Sender, sealer: Sealer | None, metrics: WorkerMetrics
    ) -> None:
        self._engine = engine
        self._sender = sender
        self._sealer = sealer
        self._metrics = metrics
        self._counting = threading.Lock()
        self._running = 0
        self._failing = 0
        self._is_closed = threading.Event()
        self._threads = ThreadPoolExecutor(LANES, thread_name_prefix="webhooks")

    def start_due(self) -> int:
        """Claim what is due and there is room for, and begin to send it; gives how many.

        Raises
        ------
        DatabaseUnavailableError
            Nothing is lost: what was claimed is due again when its lease runs out.
        """
        if self._is_closed.is_set():
            return 0
        with transaction(self._engine) as session:
            claimed = self._claim_due(session) if lock_claims(session) else []
        for delivery in claimed:
            self._begin(delivery)
        return len(claimed)

    def _claim_due(self, session: Session) -> list[ClaimedDelivery]:
        with self._counting:
            room, room_failing = LANES - self._running, FAILING_LANES - self._failing
        claimed: list[ClaimedDelivery] = []
        of_workspace: Counter[UUID] = Counter()
        failing_of_workspace: Counter[UUID] = Counter()
        for found in find_due(session, limit=2 * LANES):
            endpoint = found.beside(
                of_workspace[found.workspace_id], failing_of_workspace[found.workspace_id]
            )
            most = min(endpoint.room, room, room_failing if endpoint.is_failing else room)
            if most <= 0:
                continue
            begun = claim(session, endpoint.id, limit=most)
            claimed += begun
            room -= len(begun)
            of_workspace[endpoint.workspace_id] += len(begun)
            if endpoint.is_failing:
                room_failing -= len(begun)
                failing_of_workspace[endpoint.workspace_id] += len(begun)
        return claimed

    def _begin(self, delivery: ClaimedDelivery) -> None:
        with self._counting:
            self._running += 1
            self._failing += delivery.is_failing
        try:
            self._threads.submit(self._run, delivery)
        except RuntimeError:  # closed meanwhile: its lease runs out
            self._end(delivery)

    def _end(self, delivery: ClaimedDelivery) -> None:
        with self._counting:
            self._running -= 1
            self._failing -= delivery.is_failing

    def _run(self, first: ClaimedDelivery) -> None:
        until = time.monotonic() + LANE_SECONDS
        delivery: ClaimedDelivery | None = first
        try:
            while delivery is not None:
                delivery = self._deliver(delivery, until)
        except DatabaseUnavailableError as error:
            # Whatever was sent is sent again: its lease runs out.
            log.warning("database unavailable, webhooks wait", error=error.for_operators())
        except Exception:
            log.exception("a webhook's lane broke")
        finally:
            self._end(first)

    def _deliver(self, delivery: ClaimedDelivery, until: float) -> ClaimedDelivery | None:
        """Send a delivery and settle it; gives the endpoint's next one, if this lane goes on."""
        reach(Failpoint.WEBHOOK_CLAIMED)
        outcome = self._send(delivery)
        reach(Failpoint.WEBHOOK_SENT)
        goes_on = (
            outcome.error is None and time.monotonic() < until and not self._is_closed.is_set()
        )
        with transaction(self._engine) as session:
            state = settle(session, delivery, outcome)
            # In the place of the one that was settled: as many are under way as before.
            following = claim(session, delivery.webhook_id, limit=1) if goes_on else []
        if state is not None:
            self._metrics.note_delivery(state)
            self._tell(delivery, outcome, state)
        return following[0] if following else None

    def _send(self, delivery: ClaimedDelivery) -> Outcome:
        if self._sealer is None:
            return Outcome(status=None, error=OFF)
        try:
            secret = SecretStr(self._sealer.open(delivery.sealed_secret).decode())
        except SealError:
            return Outcome(status=None, error=UNOPENABLE)
        try:
            return self._sender.send(delivery, secret)
        except Exception:
            log.exception("sending a webhook broke", webhook_id=str(delivery.webhook_id))
            return Outcome(status=None, error=BROKE)

    @staticmethod
    def _tell(delivery: ClaimedDelivery, outcome: Outcome, state: DeliveryState) -> None:
        if state is DeliveryState.DELIVERED:
            return
        log.warning(
            "webhook given up" if state is DeliveryState.FAILED else "webhook not delivered yet",
            webhook_id=str(delivery.webhook_id),
            delivery_id=str(delivery.id),
            kind=delivery.event,
            attempt=delivery.attempt,
            error=outcome.error,
        )

    @property
    def running(self) -> int:
        """How many lanes there are now."""
        return self._running

    def close(self) -> None:
        """Let tries that are under way end, and begin no more."""
        self._is_closed.set()
        self._threads.shutdown(wait=True)
