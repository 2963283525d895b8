"""Two workspaces, who may stop what in them, and who is told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text

from shared.database import driver_transaction, transaction
from shared.models.batches import BatchRequest
from shared.models.webhooks import EVENTS, WebhookEvent
from shared.sealing import make_webhook_sealer
from shared.services.batch_stop import accept_batch
from shared.services.webhook_events import Consumed, consume_changes
from shared.services.webhooks import add_webhook
from shared.tables import Webhook, WebhookDelivery, Workspace
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace
from tests.support.waiting import eventually
from tests.support.webhook_receiver import Receiver, webhook_receiver
from workers.metrics import WorkerMetrics
from workers.webhooks.lanes import Lanes, make_lanes
from workers.webhooks.round import run_round


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from sqlalchemy import Engine

    from shared.models.callers import Caller
    from shared.settings import Settings

END = """
    UPDATE stop_tasks SET state = :state, finished_at = clock_timestamp(), error_code = :code,
    error_message = :message, lease_expires_at = NULL WHERE id = :stop
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What there is at the beginning of a test."""

    engine: Engine
    settings: Settings
    ours: str
    theirs: str
    member: Caller
    """Of `ours`."""
    stranger: Caller
    """Of `theirs`."""
    admin: Caller
    """With a key for `ours`."""

    def accept(self, caller: Caller, *workspaces: str) -> tuple[UUID, list[UUID]]:
        """Accept a batch of a new CVM in each workspace; give the batch and its stops."""
        with transaction(self.engine) as session:
            host = make_host(session)
            rows = {row.name: row for row in session.scalars(select(Workspace))}
            cvms = [make_cvm(session, rows[name], host).hash_id for name in workspaces]
        request = BatchRequest(cvm_ids=tuple(cvms), request_id="a-request")
        with driver_transaction(self.engine) as connection:
            answer = accept_batch(connection, caller, request, self.settings)
        assert answer.batch_id is not None
        return answer.batch_id, [stop.stop_task_id for stop in answer.to_send]

    def end(self, *stops: UUID, state: str = "succeeded", code: str | None = None) -> None:
        """End stops, all in one transaction."""
        message = None if code is None else "it said no"
        with transaction(self.engine) as session:
            for stop in stops:
                values = {"state": state, "code": code, "message": message, "stop": stop}
                session.execute(text(END), values)

    def endpoint(
        self,
        caller: Caller,
        url: str = "https://example.com/",
        *,
        events: Sequence[WebhookEvent] = EVENTS,
        workspace: str | None = None,
    ) -> tuple[UUID, str]:
        """Add an endpoint; give its id and its secret."""
        with transaction(self.engine) as session:
            made = add_webhook(
                session,
                caller,
                make_webhook_sealer(self.settings.webhook_keys),
                url=url,
                events=events,
                workspace=workspace,
                limit=100,
            )
            return made.record.webhook.id, made.secret.get_secret_value()

    def consume(self) -> Consumed:
        """Take one turn as the consumer."""
        with transaction(self.engine) as session:
            return consume_changes(session)

    def told(self, webhook: UUID | None = None) -> list[dict[str, Any]]:
        """Give the bodies that were written, for one endpoint or all: of stops, then of batches."""
        query = select(WebhookDelivery.body).order_by(WebhookDelivery.id)
        if webhook is not None:
            query = query.where(WebhookDelivery.webhook_id == webhook)
        with transaction(self.engine) as session:
            bodies = [json.loads(body) for body in session.scalars(query)]
        return sorted(bodies, key=lambda body: (body["event"] < "c", body["created_at"]))

    def rows(self) -> list[WebhookDelivery]:
        """Give the deliveries, the first one first."""
        with transaction(self.engine) as session:
            found = list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))
            session.expunge_all()
        return found

    def row(self) -> WebhookDelivery:
        """Give the only delivery."""
        (found,) = self.rows()
        return found

    def webhook(self, webhook_id: UUID) -> Webhook:
        """Give an endpoint's row."""
        with transaction(self.engine) as session:
            found = session.get_one(Webhook, webhook_id)
            session.expunge_all()
        return found

    def run(self, statement: str, **values: object) -> None:
        """Change rows behind everybody's back."""
        with transaction(self.engine) as session:
            session.execute(text(statement), values)

    def pass_time(self, interval: str) -> None:
        """Move everything of deliveries and endpoints that far into the past."""
        self.run(
            f"UPDATE webhook_deliveries SET next_at = next_at - interval '{interval}',"  # noqa: S608 - the test's own text
            f" pending_since = pending_since - interval '{interval}',"
            f" created_at = created_at - interval '{interval}',"
            f" lease_expires_at = lease_expires_at - interval '{interval}'"
        )


@pytest.fixture
def place(clean: Engine, settings: Settings) -> Place:
    """Fill the database; the consumer has begun."""
    settings = settings.model_copy(
        update={"webhook_allowed_networks": "127.0.0.0/8", "webhook_allow_http": True}
    )
    with transaction(clean) as session:
        ours, theirs = make_workspace(session, "ours"), make_workspace(session, "theirs")
        made = Place(
            engine=clean,
            settings=settings,
            ours=ours.name,
            theirs=theirs.name,
            member=make_caller(session, ours)[0],
            stranger=make_caller(session, theirs)[0],
            admin=make_caller(session, ours, admin=True)[0],
        )
    made.consume()
    return made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as made:
        yield made


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics()


@pytest.fixture
def lanes(place: Place, metrics: WorkerMetrics) -> Iterator[Lanes]:
    made = make_lanes(place.engine, place.settings, metrics)
    yield made
    made.close()


@dataclass(frozen=True)
class Rounds:
    """Runs rounds as the housekeeping process does."""

    place: Place
    lanes: Lanes
    metrics: WorkerMetrics

    def begin(self) -> int:
        return run_round(self.place.engine, self.lanes, self.metrics)

    def run(self) -> int:
        """Run one, and wait until all that it began has ended."""
        begun = self.begin()
        eventually(lambda: not self.lanes.running)
        return begun


@pytest.fixture
def rounds(place: Place, lanes: Lanes, metrics: WorkerMetrics) -> Rounds:
    return Rounds(place, lanes, metrics)
