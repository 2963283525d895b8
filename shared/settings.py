"""Settings: environment variables named `CVMSTOP_…`, read once at the edge, frozen afterwards.

Durations are seconds. Secrets are `SecretStr`, so that no repr or log shows them.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from limits import parse_many
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.exceptions import SettingsError


if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ENV_PREFIX = "CVMSTOP_"
"""Every setting's environment variable is this and the field's name in capitals."""

BROKER_SCHEMES = ("redis", "rediss", "amqp", "amqps")
"""How a broker's URL may begin. The tests use the first; `amqp` has not been tried."""

DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
"""How a PostgreSQL URL may begin; the driver is psycopg, whatever it says."""

RATE_LIMIT_MAX_WINDOW = 86_400
"""Longest time (s) that a rate limit may be over: a day.

Ours, not a protocol's. Redis refuses the expiry of a much longer one, so that nothing would be
counted, ever.
"""


METRICS_TOKEN = re.compile(r"[!-~]{16,}")
"""What a header takes as it is (RFC 9110, section 5.5), and nobody guesses."""

WEB_URL = re.compile(r"https?://[A-Za-z0-9.\-_\[\]:]+(/[!-~]*)?")
"""A link's beginning: no user, no password, nothing that a browser would run."""

RETENTION_MAX = 3_155_760_000
"""Longest retention (s): a hundred years. PostgreSQL's times do not go back for ever."""


class EnvironmentSettings(BaseSettings):
    """Base of all settings: each kind of process reads what it needs.

    Workers of any queue are one kind: also the dispatcher's reads the sealing keys.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    @classmethod
    def load(cls) -> Self:
        """Read the settings from the environment.

        Raises
        ------
        SettingsError
            Names each variable that is missing or wrong; never shows a value.
        """
        try:
            return cls()
        except ValidationError as error:
            raise SettingsError([_describe(problem) for problem in error.errors()]) from None


class BrokerSettings(EnvironmentSettings):
    """What a process that only talks to the broker needs: beat and Flower."""

    broker_url: SecretStr
    """`redis://[:password@]host:port/db` (Redis or Valkey, 6.2 or newer) or `amqp://…`."""

    broker_timeout: float = Field(default=0.5, gt=0, le=5)
    """Longest wait for one network step of a send, connect and answer each; a request waits."""

    dispatch_interval: float = Field(default=1.0, gt=0)
    """How often the dispatcher looks for stops that are due."""

    sync_interval: float = Field(default=60.0, ge=0, le=86_400)
    """How often each host's list of VMs is read; 0 for never (`cvmstop hosts sync` always does)."""

    log_format: Literal["console", "json"] = "console"
    """How log lines look; `json` for machines."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, url: SecretStr) -> SecretStr:
        return _with_scheme(url, BROKER_SCHEMES)


class DatabaseSettings(EnvironmentSettings):
    """What a process that only talks to the database needs: most commands."""

    database_url: SecretStr
    """`postgresql://user:password@host:port/name`; PostgreSQL 15 or newer."""

    database_pool_size: int = Field(default=20, ge=1)
    """Connections that one process keeps open at most."""

    database_timeout: float = Field(default=5.0, gt=0)
    """Longest wait for a connection from the pool, for connecting, and for one statement."""

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr) -> SecretStr:
        return _with_scheme(url, DATABASE_SCHEMES)


class LifetimeSettings(DatabaseSettings):
    """What a process needs that judges stops by their age: the API, workers, `cvmstop purge`."""

    stop_deadline: float = Field(default=900.0, gt=0)
    """A stop that is not confirmed this long after it was accepted fails, with the last reason."""

    retention: float = Field(default=7_776_000.0, ge=0, le=RETENTION_MAX)
    """A batch whose stops have all ended is deleted this long after it was accepted, with its stops
    and its `Idempotency-Key`; 0 keeps everything for ever. The default is 90 days.

    At least twice `CVMSTOP_STOP_DEADLINE`.
    """

    @model_validator(mode="after")
    def _what_ended_can_be_looked_up(self) -> Self:
        # What fails at its deadline is there for as long again. It also refuses days for seconds.
        if 0 < self.retention < 2 * self.stop_deadline:
            msg = (
                "CVMSTOP_RETENTION must be at least twice CVMSTOP_STOP_DEADLINE, or what failed is"
                " gone before anybody has seen it; it is in seconds, and 0 keeps everything"
            )
            raise ValueError(msg)
        return self


class MetricsSettings(EnvironmentSettings):
    """What a process needs that is watched by Prometheus."""

    metrics_token: SecretStr | None = None
    """What Prometheus must send as `Authorization: Bearer …`; empty for no metrics anywhere.

    At least 16 characters. It opens nothing else: it is no API key.
    """

    @field_validator("metrics_token")
    @classmethod
    def _is_a_token(cls, token: SecretStr | None) -> SecretStr | None:
        text = "" if token is None else token.get_secret_value()
        if not text:
            return None
        if not METRICS_TOKEN.fullmatch(text):
            msg = "a token has 16 characters or more: ASCII without spaces"
            raise ValueError(msg)
        return token


class WebhookSettings(EnvironmentSettings):
    """What a process needs that takes webhooks' endpoints, or sends to them."""

    webhook_keys: SecretStr | None = None
    """Keys that seal webhooks' secrets: Fernet keys, comma separated, the newest first; empty for
    no webhooks.

    Not those of `CVMSTOP_SEALING_KEYS`, which the API does not have. `cvmstop keys sealing-key`
    prints one.
    """

    webhook_allowed_networks: str = ""
    """Networks inside that webhooks may go to, such as `10.1.0.0/16,fd00:1::/32`.

    Private, loopback, link-local and other addresses that are not public are refused otherwise.
    """

    webhook_allow_http: bool = False
    """Whether webhooks may go without TLS: signed, and readable by everybody on the way."""

    webhook_limit: int = Field(default=10, ge=1)
    """Endpoints that a workspace may have; as many again that admins made."""

    @field_validator("webhook_keys")
    @classmethod
    def _is_given(cls, keys: SecretStr | None) -> SecretStr | None:
        return keys if keys is not None and keys.get_secret_value().strip() else None

    @field_validator("webhook_allowed_networks")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        try:
            for network in filter(None, map(str.strip, text.split(","))):
                ip_network(network)
        except ValueError:
            msg = "not networks such as 10.1.0.0/16,fd00:1::/32 (no bit set behind the mask)"
            raise ValueError(msg) from None
        return text


class ApiSettings(BrokerSettings, LifetimeSettings, MetricsSettings, WebhookSettings):
    """What the API needs. It never meets a host, and has no key to a host's credentials."""

    max_body_bytes: int = Field(default=65_536, ge=1_024)
    """Largest request body. 50 ids of a reasonable length take about 1 KiB."""

    request_timeout: float = Field(default=10.0, gt=0)
    """Longest wait for a client: for a request's headers, for its body, and to take the answer."""

    max_connections: int = Field(default=1_500, ge=1)
    """Connections that one API process keeps open at most; one more is answered 503.

    Each takes a file descriptor. A process that may have fewer raises its soft limit itself.
    """

    max_event_streams: int = Field(default=1_000, ge=1)
    """Streams of events that one API process keeps open at most; one more is answered 503.

    Each is one of `CVMSTOP_MAX_CONNECTIONS`, which leave room for other requests beside them.
    """

    rate_limit: str = "3600/minute"
    """Requests that one API key may make, such as `3600/minute` or `100/10 seconds`, a day at most;
    empty for no limit. Those over it are answered 429 with `Retry-After`.

    A script that posts 50 batches a second, one after the other, is not to be refused.
    """

    sign_in_limit: str = "20/minute"
    """Times that one address may try to sign in at the page, written as `CVMSTOP_RATE_LIMIT` is.

    A network of 64 bits is one address of IPv6. Behind a proxy, `FORWARDED_ALLOW_IPS` says whose
    `X-Forwarded-For` is believed; otherwise everybody has the proxy's address.
    """

    flower_url: str | None = None
    """Where people reach Flower, such as `https://flower.example.com`; the page then links to each
    stop's task there. Empty for no links.
    """

    @field_validator("flower_url")
    @classmethod
    def _is_a_link(cls, url: str | None) -> str | None:
        if not (url := (url or "").strip().rstrip("/")):
            return None
        # Nothing else may become a link on a page that acts in people's name.
        if not WEB_URL.fullmatch(url):
            msg = "not a URL such as https://flower.example.com, without a password"
            raise ValueError(msg)
        return url

    @field_validator("rate_limit", "sign_in_limit")
    @classmethod
    def _is_one_rate_limit(cls, notation: str) -> str:
        if not (notation := notation.strip()):
            return notation
        try:
            limits = parse_many(notation)
        except ValueError:
            limits = []
        if len(limits) != 1:
            msg = "not a limit such as 3600/minute or 100/10 seconds (empty for no limit)"
            raise ValueError(msg)
        # Asked of the text: `limits` takes a time of 0 seconds for one of 1 second.
        if any(int(number) < 1 for number in re.findall(r"[0-9]+", notation)):
            msg = "neither its number of requests nor its time may be 0 (empty for no limit)"
            raise ValueError(msg)
        if limits[0].get_expiry() > RATE_LIMIT_MAX_WINDOW:
            msg = "its time may be one day at most, such as 100000/day"
            raise ValueError(msg)
        return notation


class Settings(ApiSettings):
    """Everything: what the workers need, and what commands that meet hosts need."""

    sealing_keys: SecretStr
    """Keys that seal host credentials: Fernet keys, comma separated, the newest first.

    `cvmstop keys sealing-key` prints one. Older keys stay behind the new one until everything
    that they sealed has been sealed again.
    """

    stop_max_failures: int = Field(default=5, ge=1)
    """A stop fails when the host has answered it with this many transient errors."""

    retry_backoff: float = Field(default=2.0, gt=0)
    """Wait after the first transient failure; doubles each time, with jitter."""

    retry_backoff_max: float = Field(default=60.0, gt=0)
    """Longest wait between two tries."""

    lease: float = Field(default=75.0, gt=0)
    """A claimed stop whose worker has not settled it by then is given to another worker."""

    turn_limit: float = Field(default=60.0, gt=0)
    """Longest time that one turn may spend on a host, all calls together: less than the lease."""

    host_connect_timeout: float = Field(default=3.0, gt=0)
    """Longest wait for a connection to a VM host."""

    host_query_timeout: float = Field(default=10.0, gt=0)
    """Longest wait for a host's whole answer to a question (GetInfo, Status, Version)."""

    host_stop_timeout: float = Field(default=35.0, gt=0)
    """Longest wait for a host's whole answer to StopVm.

    StopVm blocks up to 15 s for a VM with a swtpm (dstack 0.6.0, `vm_launcher.rs`), so that at
    least 30 s are wanted.
    """

    look_seconds: float = Field(default=4.0, ge=0)
    """After a force stop, a turn looks this long for the VM to be down before it lets go."""

    look_interval: float = Field(default=0.25, gt=0)
    """Wait between two looks within a turn."""

    confirm_interval: float = Field(default=2.0, gt=0)
    """Wait before the first turn that comes back to confirm; doubles each time."""

    confirm_interval_max: float = Field(default=15.0, gt=0)
    """Longest wait between two turns that come back to confirm."""

    reissue_after: float = Field(default=30.0, gt=0)
    """A VM still `stopping` this long after the last force stop is sent another one."""

    restart_guard: float = Field(default=21.0, ge=0)
    """A VM that was `exited` is looked at again this long after it was seen stopped.

    dstack-vmm restarts exited VMs every 20 s (`[cvm.auto_restart]` interval), and a restart that
    was already under way outlives the stop.
    """

    breaker_threshold: int = Field(default=3, ge=1)
    """A host's breaker opens after this many unreachable answers in a row."""

    breaker_cooldown: float = Field(default=10.0, gt=0)
    """An open breaker lets one stop through this long after the last failure."""

    resend_after: float = Field(default=5.0, gt=0)
    """A due stop is sent again when it was sent this long ago and nobody has claimed it."""

    heartbeat_interval: float = Field(default=5.0, gt=0)
    """How often a worker sends itself a heartbeat through the broker."""

    heartbeat_timeout: float = Field(default=30.0, gt=0)
    """A worker that takes no message for this long, though it could, ends to be started again.

    A connection that went silent is replaced within 11 s without that, so that it should be longer.
    """

    heartbeat_file: Path | None = None
    """A file that a worker touches at each heartbeat that came through, for health checks."""

    metrics_port: int = Field(default=0, ge=0, le=65_535)
    """Where a worker serves its metrics, if there is a `CVMSTOP_METRICS_TOKEN`; 0 for nowhere.

    Each process on a machine needs a port of its own.
    """

    metrics_host: str = "127.0.0.1"
    """Address that a worker serves its metrics on; it speaks plain HTTP."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.turn_limit >= self.lease:
            msg = "CVMSTOP_TURN_LIMIT must be shorter than CVMSTOP_LEASE, or turns overlap"
            raise ValueError(msg)
        return self


def _with_scheme(url: SecretStr, schemes: tuple[str, ...]) -> SecretStr:
    if url.get_secret_value().partition("://")[0] not in schemes:
        msg = f"not a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}"
        raise ValueError(msg)
    return url


def _describe(problem: ErrorDetails) -> str:
    name = "".join(f"{ENV_PREFIX}{part}".upper() for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{name} is not set"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message
