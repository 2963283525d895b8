"""The one place that wires an API process together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.events.feeds import BatchFeeds
from api.metrics import ApiMetrics
from shared.absence import Absence
from shared.broker import Broker, make_celery, make_redis_pool
from shared.engine import make_engine
from shared.rate_limit import RateLimit
from shared.sealing import make_webhook_sealer
from shared.services.webhook_targets import TargetPolicy
from shared.tracing import make_tracing


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.sealing import Sealer
    from shared.settings import ApiSettings
    from shared.spans import Tracing


@dataclass(frozen=True, kw_only=True)
class ApiParts:
    """What one API process has, for its whole life; used by all of its threads."""

    settings: ApiSettings
    engine: Engine
    broker: Broker
    rate_limit: RateLimit
    """On requests of each API key."""
    sign_in_limit: RateLimit
    """On sign-ins of each address."""
    metrics: ApiMetrics
    feeds: BatchFeeds
    """Used in the event loop only, which closes it."""
    tracing: Tracing
    webhook_targets: TargetPolicy
    webhook_sealer: Sealer | None
    """None where webhooks are off."""

    def close(self) -> None:
        """Close what is open."""
        self.rate_limit.close()
        self.sign_in_limit.close()
        self.broker.close()
        self.engine.dispose()
        self.tracing.close()


def make_api_parts(settings: ApiSettings) -> ApiParts:
    """Wire an API process together; nothing is connected to yet.

    Raises
    ------
    SettingsError
        One of `CVMSTOP_WEBHOOK_KEYS` is wrong.
    """
    app = make_celery(settings)
    absence = Absence()
    engine = make_engine(settings, application="api")
    counters = make_redis_pool(app, settings)
    return ApiParts(
        settings=settings,
        engine=engine,
        broker=Broker(app, absence),
        rate_limit=RateLimit(settings.rate_limit, counters, absence),
        sign_in_limit=RateLimit(settings.sign_in_limit, counters, absence),
        metrics=ApiMetrics(engine),
        feeds=BatchFeeds(engine, settings),
        tracing=make_tracing("cvmstop-api"),
        webhook_targets=TargetPolicy(settings),
        webhook_sealer=make_webhook_sealer(settings.webhook_keys),
    )
