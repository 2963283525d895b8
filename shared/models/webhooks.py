"""Events that workspaces are told of, and how: bodies, signatures, when a delivery is tried again.

The shapes are Phala Cloud's (its documentation, `references/webhooks`), so that what receives its
webhooks takes these too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from pydantic import SecretStr


if TYPE_CHECKING:
    from collections.abc import Mapping


class WebhookEvent(StrEnum):
    """What an endpoint can be told of."""

    STOP_SUCCEEDED = "cvm.stop.succeeded"
    STOP_FAILED = "cvm.stop.failed"
    BATCH_FINISHED = "batch.finished"
    """No stop of a batch is open any more."""
    TEST = "webhook.test"
    """Somebody asked for it, to see whether the endpoint takes deliveries."""


EVENTS = (WebhookEvent.STOP_SUCCEEDED, WebhookEvent.STOP_FAILED, WebhookEvent.BATCH_FINISHED)
"""What an endpoint may ask for; the other one comes unasked."""


class DeliveryState(StrEnum):
    """How one event's way to one endpoint stands."""

    PENDING = "pending"
    """To be tried, or tried again."""
    DELIVERED = "delivered"
    """The endpoint answered 2xx."""
    FAILED = "failed"
    """Given up."""


RETRY_DELAYS = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1))
"""Waits before the second try, the third, and the last one. Source: Phala Cloud's."""

SEND_TIMEOUT = 10.0
"""Seconds for a whole try: name lookup, connection, answer. Source: Phala Cloud's."""

PENDING_AT_MOST = timedelta(days=1)
"""After this long a delivery is given up, however often it was tried: an endpoint that takes ten
seconds to fail, and gets events faster, would have more and more of them waiting."""

KEPT_FOR = timedelta(days=30)
"""How long a delivery is on record, unless its batch is purged before."""

BODY_VERSION = "1"
SIGNING_PREFIX = "whsec_"
SECRET_BYTES = 32
"""Random bytes of a secret: as many as SHA-256 has."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, once, whoever is told of it."""

    kind: WebhookEvent
    subject_id: UUID
    """The stop task or the batch that it happened to: with the kind, the event's identity."""
    batch_id: UUID | None
    """The batch whose records it goes with."""
    workspace_id: UUID
    for_admins: bool
    """Only endpoints that an admin made are told (decision 0007)."""
    happened_at: datetime
    workspace: str
    """The workspace's name."""
    data: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The same whenever it is made anew: a repeated delivery can be recognized by it."""
        return f"evt_{uuid5(self.subject_id, self.kind).hex}"

    def body(self) -> str:
        """Give what is sent, byte for byte the same at each try."""
        return json.dumps(
            {
                "id": self.id,
                "event": self.kind,
                "version": BODY_VERSION,
                "created_at": in_utc(self.happened_at),
                "workspace": {"id": str(self.workspace_id), "name": self.workspace},
                "data": self.data,
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )


def in_utc(time: datetime) -> str:
    """Write a time as ISO 8601 in UTC."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def new_secret() -> SecretStr:
    """Make what an endpoint's deliveries are signed with."""
    return SecretStr(SIGNING_PREFIX + secrets.token_urlsafe(SECRET_BYTES))


def sign(secret: SecretStr, timestamp: int, body: str) -> str:
    """Sign a delivery.

    Parameters
    ----------
    secret
        The endpoint's, with its prefix.
    timestamp
        Seconds since 1970: when it is sent. Who receives it refuses old ones, so that nobody can
        send it again later.
    body
        What is sent.
    """
    signed = f"{timestamp}.{body}".encode()
    digest = hmac.new(secret.get_secret_value().encode(), signed, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"
