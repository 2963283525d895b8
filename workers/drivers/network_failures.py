"""What a failure of the network means: what reached the host, and what is known of it."""

from __future__ import annotations

import ssl
from http.client import HTTPException
from typing import TYPE_CHECKING

from shared.models.errors import ErrorCode
from workers.drivers.connections import NoFreeConnectionError
from workers.drivers.errors import (
    HostError,
    HostRefusedError,
    HostUnreachableError,
    OutcomeUnknownError,
    OutOfTimeError,
    StaleConnectionError,
)


if TYPE_CHECKING:
    from workers.drivers.bounded_network import Budget

FAILURES = (OSError, HTTPException, NoFreeConnectionError)
"""What is raised for things that a host or a network did; `OSError` has time-outs and TLS's."""


def explain(what: str, error: Exception, budget: Budget, seconds: float) -> HostError:
    """Give the error of ours for one of `FAILURES`.

    Parameters
    ----------
    what
        Names the call in the message.
    error
        What was raised.
    budget
        How far the exchange came.
    seconds
        How long it took.
    """
    kind: type[HostError] = HostUnreachableError
    code = ErrorCode.HOST_UNREACHABLE
    match error:
        case NoFreeConnectionError():
            kind, code = OutOfTimeError, ErrorCode.HOST_TIMEOUT
            text = f"not sent, no connection was free within {seconds:.1f} s"
        case TimeoutError() if not budget.sent:
            text = f"no connection within {seconds:.1f} s"
        case TimeoutError():
            kind, code = OutcomeUnknownError, ErrorCode.HOST_TIMEOUT
            text = f"no whole answer within {seconds:.1f} s"
        case OSError() if not budget.sent:
            text = f"no connection: {_reason(error)}"
        case ssl.SSLError() if _is_certificate_refused(error):
            # With TLS 1.3 a host looks at our certificate after we have begun to send.
            text = f"the host refused our client certificate: {_reason(error)}"
        case HTTPException() if not budget.ended:
            kind, code = HostRefusedError, ErrorCode.BAD_ANSWER
            text = "the answer is not HTTP"
        case _:
            is_fresh = budget.connected or budget.received
            kind = OutcomeUnknownError if is_fresh else StaleConnectionError
            code = ErrorCode.CONNECTION_LOST
            text = "the connection broke before the whole answer came"
    return kind(code, f"{what}: {text}")


def _reason(error: OSError) -> str:
    """Say in words why a connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the host's certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({(error.reason or 'no reason given').replace('_', ' ').lower()})"
    return error.strerror or str(error)


def _is_certificate_refused(error: ssl.SSLError) -> bool:
    """Whether the host ended TLS because of our certificate, so that it looked at no request.

    The words are of OpenSSL's names for the alerts of RFC 8446, section 6.2.
    """
    reason = error.reason or ""
    return "ALERT" in reason and any(
        word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
    )
