"""Every failure that a caller can be told about.

CvmstopError
├── SettingsError           an environment variable is missing or wrong
├── SchemaError             the database's schema is not this program's
├── DatabaseUnavailableError the database does not answer
├── TooManyStreamsError     this process has as many open streams as it may   503
├── HostBusyError           somebody holds a host's row for longer than a claim waits
├── BrokerUnavailableError  the broker did not take a message in time
├── AuthenticationError     no key, or a key that is not valid now            401
├── RateLimitedError        more requests with an API key than its limit       429
├── AdminOnlyError          a key of an admin is wanted                        403
├── TooManyCvmsError        more ids in a request than a batch may have       400
├── InvalidCursorError      a page's cursor was not made by this API          400
├── InvalidPositionError    a Last-Event-ID was not made by this API          400
├── IdempotencyMismatchError a key was used before, with another body         422
├── NotFoundError           no such thing, or not in the caller's workspace   404
├── CvmBusyError            a stop is open on a CVM that another is to work on 409
├── UnusableUrlError        a URL that no webhook may go to                   400
├── WebhookRefusedError     webhooks are off, too many, or not to be sent now 409
├── NameTakenError          something of that name is there already
├── InvalidValueError       a name or a text that cannot be taken
├── AmbiguousHintError      more than one API key begins like that
├── KeyNotAllowedError      a user may not have a key for that workspace
├── ImportRefusedError      a file has bad lines; nothing of it was imported
├── RemovalRefusedError     something is still referred to, and was not removed
├── StackError              a server of the embedded stack cannot be started
└── SealError               a sealed value cannot be opened with these keys

`slug` is for programs (`error` in the API's answers), the message for people: it says what to do.
"""

from __future__ import annotations

from typing import ClassVar


class CvmstopError(Exception):
    """Base of all of them."""

    slug: ClassVar[str] = "error"
    status_code: ClassVar[int] = 500

    def for_operators(self) -> str:
        """Give the message, with what only people who run cvmstop should see."""
        return str(self)


class SettingsError(CvmstopError):
    """An environment variable is missing or wrong.

    Parameters
    ----------
    problems
        One line for each, without any value.
    """

    slug = "settings"

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems) + " (`cvmstop settings` lists all settings)")


class SchemaError(CvmstopError):
    """The database's schema is not the one that this program was written for."""

    slug = "schema_not_current"
    status_code = 503


class DatabaseUnavailableError(CvmstopError):
    """The database does not answer, or not in time.

    Parameters
    ----------
    message
        For everybody.
    reason
        What the driver said, for operators: it may name hosts and users, but never a password.
    """

    slug = "database_unavailable"
    status_code = 503

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason

    def for_operators(self) -> str:
        """Give the message, with what the driver said."""
        return f"{self} ({self.reason})" if self.reason else str(self)


class HostBusyError(CvmstopError):
    """Somebody holds a host's row for longer than a claim waits for it."""

    slug = "host_busy"


class BrokerUnavailableError(CvmstopError):
    """The broker did not take a message, or not in time. Whether it got it is not known."""

    slug = "broker_unavailable"
    status_code = 503


class AuthenticationError(CvmstopError):
    """No API key, or one that is unknown, expired or revoked. Which of them is not told."""

    slug = "authentication_required"
    status_code = 401


class RateLimitedError(CvmstopError):
    """An API key was used for more requests than its limit allows.

    Parameters
    ----------
    limit
        As set: `CVMSTOP_RATE_LIMIT`.
    retry_after
        Whole seconds until the next request may be taken, at least 1.
    """

    slug = "rate_limited"
    status_code = 429

    def __init__(self, limit: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(
            f"too many requests with this API key (its limit is {limit}):"
            f" nothing was done, send it again in {retry_after} s"
        )


class AdminOnlyError(CvmstopError):
    """The key is valid, and not an admin's."""

    slug = "admin_only"
    status_code = 403


class TooManyCvmsError(CvmstopError):
    """More ids in a request than one batch may have."""

    slug = "too_many_cvms"
    status_code = 400


class InvalidCursorError(CvmstopError):
    """A page was asked for with a cursor that this API did not make."""

    slug = "invalid_cursor"
    status_code = 400


class InvalidPositionError(CvmstopError):
    """A stream was asked for behind an event whose id this API did not make."""

    slug = "invalid_event_id"
    status_code = 400


class TooManyStreamsError(CvmstopError):
    """One process of the API follows batches for as many readers as it may."""

    slug = "too_many_streams"
    status_code = 503


class IdempotencyMismatchError(CvmstopError):
    """An `Idempotency-Key` was used before by this caller, with another body."""

    slug = "idempotency_key_reused"
    status_code = 422


class NotFoundError(CvmstopError):
    """There is no such thing, or it is not in the caller's workspace. Which is not told."""

    slug = "not_found"
    status_code = 404


class CvmBusyError(CvmstopError):
    """A stop is open on a CVM: nobody else can begin an operation on it."""

    slug = "stop_in_progress"
    status_code = 409


class UnusableUrlError(CvmstopError):
    """A URL that no webhook may go to: it cannot be read, or points inside."""

    slug = "unusable_url"
    status_code = 400


class WebhookRefusedError(CvmstopError):
    """Webhooks are off, a workspace has enough of them, or one is not to be sent now."""

    slug = "webhook_refused"
    status_code = 409


class NameTakenError(CvmstopError):
    """Something of that kind and name is there already."""

    slug = "name_taken"
    status_code = 409


class InvalidValueError(CvmstopError):
    """A name or a text that cannot be taken: too long, or with characters that are not allowed."""

    slug = "invalid_value"
    status_code = 422


class AmbiguousHintError(CvmstopError):
    """More than one API key begins with the hint that was given."""

    slug = "ambiguous_hint"
    status_code = 409


class KeyNotAllowedError(CvmstopError):
    """A user may not have an API key for a workspace: revoked, or not a member of it."""

    slug = "key_not_allowed"
    status_code = 409


class ImportRefusedError(CvmstopError):
    """A file has bad lines. Nothing of it was imported.

    Parameters
    ----------
    problems
        One line for each bad line of the file, with its number.
    """

    slug = "import_refused"
    status_code = 422

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class StackError(CvmstopError):
    """A server of the embedded stack (`cvmstop up`) cannot be started."""

    slug = "stack"


class RemovalRefusedError(CvmstopError):
    """A host or a CVM is still needed. Nothing was removed."""

    slug = "removal_refused"
    status_code = 409


class SealError(CvmstopError):
    """A sealed value cannot be opened with the keys in `CVMSTOP_SEALING_KEYS`."""

    slug = "unsealable"
