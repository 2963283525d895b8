"""Every failure that a caller can be told about.

CvmstopError
├── SettingsError           an environment variable is missing or wrong
├── SchemaError             the database's schema is not this program's
├── DatabaseUnavailableError the database does not answer
├── AuthenticationError     no key, or a key that is not valid now            401
├── TooManyCvmsError        more ids in a request than a batch may have       400
├── InvalidCursorError      a page's cursor was not made by this API          400
├── IdempotencyMismatchError a key was used before, with another body         422
├── NotFoundError           no such thing, or not in the caller's workspace   404
├── NameTakenError          something of that name is there already
├── ImportRefusedError      a file has bad lines; nothing of it was imported
└── SealError               a sealed value cannot be opened with these keys

`slug` is for programs, the message for people: it says what to do.
"""

from __future__ import annotations

from typing import ClassVar


class CvmstopError(Exception):
    """Base of all of them."""

    slug: ClassVar[str] = "error"
    status_code: ClassVar[int] = 500


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
        super().__init__("; ".join(problems))


class SchemaError(CvmstopError):
    """The database's schema is not the one that this program was written for."""

    slug = "schema_not_current"
    status_code = 503


class DatabaseUnavailableError(CvmstopError):
    """The database does not answer, or not in time."""

    slug = "database_unavailable"
    status_code = 503


class AuthenticationError(CvmstopError):
    """No API key, or one that is unknown, expired or revoked. Which of them is not told."""

    slug = "authentication_required"
    status_code = 401


class TooManyCvmsError(CvmstopError):
    """More ids in a request than one batch may have."""

    slug = "too_many_cvms"
    status_code = 400


class InvalidCursorError(CvmstopError):
    """A page was asked for with a cursor that this API did not make."""

    slug = "invalid_cursor"
    status_code = 400


class IdempotencyMismatchError(CvmstopError):
    """An `Idempotency-Key` was used before by this caller, with another body."""

    slug = "idempotency_key_reused"
    status_code = 422


class NotFoundError(CvmstopError):
    """There is no such thing, or it is not in the caller's workspace. Which is not told."""

    slug = "not_found"
    status_code = 404


class NameTakenError(CvmstopError):
    """Something of that kind and name is there already."""

    slug = "name_taken"
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


class SealError(CvmstopError):
    """A sealed value cannot be opened with the keys in `CVMSTOP_SEALING_KEYS`."""

    slug = "unsealable"
