"""Deliveries on their way: claimed with a lease, settled under its fence, given up, deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Integer, case, cast, delete, func, literal_column, null, or_, select, update

from shared.models.webhooks import (
    KEPT_FOR,
    PENDING_AT_MOST,
    RETRY_DELAYS,
    SEND_TIMEOUT,
    DeliveryState,
)
from shared.storage.clock import now
from shared.tables import Webhook, WebhookDelivery


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import CursorResult, Delete, Update
    from sqlalchemy.orm import Session

LEASE = timedelta(seconds=3 * SEND_TIMEOUT)
"""After this long a claimed delivery is another's: a try, and settling it with a database that is
slow, fit in."""

CLAIM_LOCK = 0x77656268
"""Number of the advisory lock that lets one process claim at a time ("webh" in ASCII)."""

AT_ONCE = 4
"""Tries at once of one endpoint's deliveries."""

AT_ONCE_FAILING = 1
"""The same of an endpoint whose last try failed: it may take the whole time-out each time."""

AT_ONCE_WORKSPACE = 8
"""Tries at once of all deliveries of one workspace: its endpoints may answer well, and take their
time for it."""

AT_ONCE_WORKSPACE_FAILING = AT_ONCE_WORKSPACE // 2
"""Those of them that may be of endpoints whose last try failed."""

STALE = "given up: the endpoint did not take what came before"

_IS_PENDING = WebhookDelivery.state == literal_column(f"'{DeliveryState.PENDING}'")


class ClaimedDelivery(NamedTuple):
    """A delivery that is this process's to try, until its lease runs out."""

    id: UUID
    webhook_id: UUID
    attempt: int
    failures: int
    event_id: str
    event: str
    body: str
    url: str
    sealed_secret: bytes
    is_failing: bool
    """Whether the last try at its endpoint failed."""


class DueEndpoint(NamedTuple):
    """An endpoint with deliveries that are due."""

    id: UUID
    is_failing: bool
    under_way: int
    """Deliveries that are claimed, by whomever."""
    workspace_id: UUID
    workspace_under_way: int
    """The same of all endpoints of the workspace."""
    workspace_failing_under_way: int
    """And of those of them whose last try failed."""

    @property
    def room(self) -> int:
        """How many more may be tried at once, unless others of the workspace are begun before."""
        if not self.is_failing:
            return min(AT_ONCE - self.under_way, AT_ONCE_WORKSPACE - self.workspace_under_way)
        return min(
            AT_ONCE_FAILING - self.under_way,
            AT_ONCE_WORKSPACE - self.workspace_under_way,
            AT_ONCE_WORKSPACE_FAILING - self.workspace_failing_under_way,
        )

    def beside(self, begun: int, begun_failing: int) -> DueEndpoint:
        """Give the same after so many more were begun of other endpoints of its workspace."""
        return self._replace(
            workspace_under_way=self.workspace_under_way + begun,
            workspace_failing_under_way=self.workspace_failing_under_way + begun_failing,
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one try went."""

    status: int | None
    """Of the answer; None if there was none."""
    error: str | None
    """Why it failed; None if it succeeded."""


def lock_claims(session: Session) -> bool:
    """Take the place of who claims, until the transaction ends; False if another has it.

    Deliveries under way are counted, and then claimed: two at once would count the same ones.
    """
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(CLAIM_LOCK))))


def find_due(session: Session, *, limit: int) -> list[DueEndpoint]:
    """Find endpoints with due deliveries.

    Those that are well come first; of them those whose workspace has the fewest tries under way, or
    whoever has many old deliveries would always be first; of those who waits longest.
    """
    oldest = (
        select(WebhookDelivery.next_at)
        .where(WebhookDelivery.webhook_id == Webhook.id, _IS_PENDING)
        .order_by(WebhookDelivery.next_at)
        .limit(1)
        .correlate(Webhook)
        .scalar_subquery()
    )
    under_way = (
        select(func.count())
        .where(
            WebhookDelivery.webhook_id == Webhook.id,
            WebhookDelivery.lease_expires_at.is_not(None),  # what their index has
            WebhookDelivery.lease_expires_at > now,
        )
        .correlate(Webhook)
        .scalar_subquery()
    )
    of_each = (
        select(
            Webhook.id,
            Webhook.failing_since.is_not(None).label("is_failing"),
            Webhook.workspace_id,
            under_way.label("under_way"),
            oldest.label("oldest"),
        )
        .where(Webhook.disabled_at.is_(None))
        .subquery()
    )
    each = of_each.c
    of_workspace = func.sum(each.under_way).over(partition_by=each.workspace_id)
    of_failing = func.sum(case((each.is_failing, each.under_way), else_=0)).over(
        partition_by=each.workspace_id
    )
    due = select(
        of_each, of_workspace.label("workspace"), of_failing.label("workspace_failing")
    ).subquery()
    rows = session.execute(
        select(
            due.c.id,
            due.c.is_failing,
            due.c.under_way,
            due.c.workspace_id,
            cast(due.c.workspace, Integer),
            cast(due.c.workspace_failing, Integer),
        )
        .where(due.c.oldest <= now)
        .order_by(due.c.is_failing, due.c.workspace, due.c.oldest)
        .limit(limit)
    )
    return [DueEndpoint(*row) for row in rows]


def claim(session: Session, webhook_id: UUID, *, limit: int) -> list[ClaimedDelivery]:
    """Claim due deliveries of one endpoint, the oldest first; nothing if it was disabled."""
    due = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.webhook_id == webhook_id, _IS_PENDING, WebhookDelivery.next_at <= now
        )
        .order_by(WebhookDelivery.next_at, WebhookDelivery.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    claimed = (
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == due.c.id,
            Webhook.id == WebhookDelivery.webhook_id,
            Webhook.disabled_at.is_(None),
        )
        .values(
            attempts=WebhookDelivery.attempts + 1,
            lease_expires_at=func.now() + LEASE,
            next_at=func.now() + LEASE,
            last_attempt_at=now,
        )
        .returning(
            WebhookDelivery.id,
            WebhookDelivery.webhook_id,
            WebhookDelivery.attempts,
            WebhookDelivery.failures,
            WebhookDelivery.event_id,
            WebhookDelivery.event,
            WebhookDelivery.body,
            Webhook.url,
            Webhook.sealed_secret,
            Webhook.failing_since.is_not(None),
        )
    )
    rows = session.execute(claimed, execution_options={"synchronize_session": False})
    return sorted(map(ClaimedDelivery._make, rows))


def settle(session: Session, claimed: ClaimedDelivery, outcome: Outcome) -> DeliveryState | None:
    """Write down how a try went, if the claim still stands.

    Returns
    -------
    DeliveryState or None
        What it came to: `pending` if it is to be tried again. None if it was too late: the lease
        had run out, and another took it, or it was deleted.
    """
    state, wait = _next(claimed, outcome)
    changed = _changed(
        session,
        update(WebhookDelivery)
        .where(
            WebhookDelivery.id == claimed.id,
            WebhookDelivery.attempts == claimed.attempt,
            WebhookDelivery.lease_expires_at.is_not(None),
        )
        .values(
            state=state,
            failures=WebhookDelivery.failures + int(outcome.error is not None),
            lease_expires_at=null(),
            next_at=now + wait,
            last_status=outcome.status,
            last_error=outcome.error,
            finished_at=null() if state is DeliveryState.PENDING else now,
        ),
    )
    if not changed:
        return None
    is_failing = outcome.error is not None
    if is_failing != claimed.is_failing:
        _changed(
            session,
            update(Webhook)
            .where(Webhook.id == claimed.webhook_id, Webhook.failing_since.is_(None) == is_failing)
            .values(failing_since=now if is_failing else null()),
        )
    return state


def _next(claimed: ClaimedDelivery, outcome: Outcome) -> tuple[DeliveryState, timedelta]:
    """Say what becomes of a delivery after a try, and when it is tried again."""
    if outcome.error is None:
        return DeliveryState.DELIVERED, timedelta()
    if claimed.failures >= len(RETRY_DELAYS):
        return DeliveryState.FAILED, timedelta()
    return DeliveryState.PENDING, RETRY_DELAYS[claimed.failures]


def give_up_stale(session: Session, *, limit: int) -> int:
    """Give up what has been pending for too long; gives how many."""
    stale = (
        select(WebhookDelivery.id)
        .where(_IS_PENDING, WebhookDelivery.pending_since < func.now() - PENDING_AT_MOST)
        .where(or_(WebhookDelivery.lease_expires_at.is_(None), WebhookDelivery.next_at <= now))
        .order_by(WebhookDelivery.pending_since)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("stale")
    )
    return _changed(
        session,
        update(WebhookDelivery)
        .where(WebhookDelivery.id == stale.c.id)
        .values(
            state=DeliveryState.FAILED,
            lease_expires_at=null(),
            last_error=func.coalesce(WebhookDelivery.last_error, STALE),
            finished_at=now,
        ),
    )


def delete_old(session: Session, *, limit: int) -> int:
    """Delete deliveries that have been on record for long enough; gives how many."""
    old = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.created_at < func.now() - KEPT_FOR)
        .order_by(WebhookDelivery.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("old")
    )
    return _changed(session, delete(WebhookDelivery).where(WebhookDelivery.id == old.c.id))


def _changed(session: Session, statement: Update | Delete) -> int:
    result: CursorResult[tuple[()]] = session.execute(  # type: ignore[assignment] # so for changes
        statement, execution_options={"synchronize_session": False}
    )
    return result.rowcount
