"""What libvirt's errors mean: what reached the host, and what is known of it.

Codes are from libvirt `include/libvirt/virterror.h`. What the daemon answers and what the client
finds out for itself look alike; the client's own are of `VIR_FROM_RPC`, or the connection is dead.
"""

from __future__ import annotations

from enum import IntEnum

from shared.models.errors import ErrorCode
from workers.drivers.errors import (
    FinalHostError,
    HostError,
    HostRefusedError,
    HostSilentError,
    HostUnreachableError,
    OutcomeUnknownError,
)
from workers.drivers.libvirt.library import LibraryError


class Code(IntEnum):
    """`VIR_ERR_…`."""

    NO_SUPPORT = 3
    NO_CONNECT = 5
    INVALID_ARG = 8
    OPERATION_DENIED = 29
    RPC = 39
    NO_DOMAIN = 42
    AUTH_FAILED = 45
    OPERATION_INVALID = 55
    CONFIG_UNSUPPORTED = 67
    AUTH_CANCELLED = 79
    AUTH_UNAVAILABLE = 80
    ACCESS_DENIED = 88


FROM_RPC = 7
"""`VIR_FROM_RPC`: the client's own part that talks to the daemon."""

REFUSED = {
    Code.OPERATION_DENIED,
    Code.AUTH_FAILED,
    Code.AUTH_CANCELLED,
    Code.AUTH_UNAVAILABLE,
    Code.ACCESS_DENIED,
}
"""Who we are is not believed, or may not do it."""

UNTRUSTED = "certificate"
"""In the text of an `AUTH_FAILED` that is ours: we do not trust the host (`virnettlscontext.c`)."""


def explain_open(what: str, error: LibraryError, text: str) -> HostError:
    """Give the error of ours for a connection that did not come about.

    Parameters
    ----------
    what
        Names the call in the message.
    error
        What libvirt said.
    text
        Its text, cleaned of secrets.
    """
    if error.code in REFUSED and not (
        error.code == Code.AUTH_FAILED and UNTRUSTED in error.message
    ):
        return _refused_credentials(what, text)
    kind: type[HostError] = HostUnreachableError
    code = ErrorCode.HOST_UNREACHABLE
    match error.code:
        case Code.AUTH_FAILED:
            reason = "the host is not trusted"
        case Code.NO_CONNECT | Code.NO_SUPPORT:
            kind, code = FinalHostError, ErrorCode.NOT_A_VM_HOST
            reason = "the host has no such hypervisor"
        case Code.INVALID_ARG | Code.CONFIG_UNSUPPORTED:
            kind, code = FinalHostError, ErrorCode.BAD_HOST_CONFIGURATION
            reason = "libvirt cannot use the address"
        case Code.RPC:
            kind, code = HostRefusedError, ErrorCode.BAD_ANSWER
            reason = "what answers does not speak libvirt's protocol"
        case _ if error.domain == FROM_RPC:
            reason = "no connection"
        case _:
            kind, code = HostRefusedError, ErrorCode.HOST_ERROR
            reason = "libvirt answered"
    return kind(code, f"{what}: {reason}: {text}")


def explain_answer(what: str, error: LibraryError, text: str) -> HostError:
    """Give the error of ours for a call that the daemon answered with an error."""
    if error.code in REFUSED:
        return _refused_credentials(what, text)
    return HostRefusedError(ErrorCode.HOST_ERROR, f"{what}: libvirt answered: {text}")


def explain_lost(what: str, text: str, *, sent: bool) -> HostError:
    """Give the error of ours for a connection that broke during a call.

    Parameters
    ----------
    sent
        Something that changes the domain was sent, so that its outcome is unknown.
    """
    kind = OutcomeUnknownError if sent else HostSilentError
    return kind(ErrorCode.CONNECTION_LOST, f"{what}: the connection broke: {text}")


def _refused_credentials(what: str, text: str) -> HostError:
    msg = f"{what}: the host refused the credentials, or does not let them do it: {text}"
    return FinalHostError(ErrorCode.CREDENTIALS_REFUSED, msg)
