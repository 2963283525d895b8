"""Error codes of stop tasks and attempts, and the fate that each one means."""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why a stop, or one try of it, failed. Part of the API: people filter by them."""

    HOST_UNREACHABLE = "host_unreachable"
    """No connection: refused, timed out, unresolvable name, or TLS not trusted."""
    HOST_TIMEOUT = "host_timeout"
    """Connected, but no whole answer in time. After a StopVm the outcome is unknown."""
    CONNECTION_LOST = "connection_lost"
    """The connection broke before the whole answer. After a StopVm the outcome is unknown."""
    HOST_ERROR = "host_error"
    """The host answered with an error (400 with a text, or 5xx)."""
    BAD_ANSWER = "bad_answer"
    """The answer was not what a dstack-vmm sends, or was too long."""
    CREDENTIALS_REFUSED = "credentials_refused"
    """The host answered 401 or 403."""
    NOT_A_VM_HOST = "not_a_vm_host"
    """The address answers, but not with dstack-vmm's API (404, or an unknown method)."""
    BAD_VM_ID = "bad_vm_id"
    """The CVM's `vm_uuid` is not one that a host can have."""
    MIGRATED_AWAY = "migrated_away"
    """The VM runs on another host now, says this one."""
    BAD_HOST_CONFIGURATION = "bad_host_configuration"
    """The host's row cannot be used: its credentials cannot be opened, or its driver is unknown."""
    STILL_RUNNING = "still_running"
    """The host took the force stop, and reports the VM running all the same."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """Not confirmed within `CVMSTOP_STOP_DEADLINE`; the message has the last reason."""
    LEASE_EXPIRED = "lease_expired"
    """The worker died, or was cut off, in the middle of its turn."""
    INTERNAL = "internal"
    """A fault of cvmstop's own. Its log has the details."""


class Fate(StrEnum):
    """What happens to a stop after an error."""

    TRANSIENT = "transient"
    """Tried again with backoff, `CVMSTOP_STOP_MAX_FAILURES` times."""
    UNREACHABLE = "unreachable"
    """Tried again until the deadline; counts toward the host's breaker."""
    FINAL = "final"
    """Fails now."""
    UNKNOWN = "unknown"
    """The request may have been carried out: the state is read again, nothing is assumed."""
