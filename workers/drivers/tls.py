"""TLS to a host: whom to trust, and what to show. Verification is never turned off."""

from __future__ import annotations

import ssl
import tempfile
from typing import TYPE_CHECKING

from shared.models.errors import ErrorCode
from workers.drivers.errors import FinalHostError


if TYPE_CHECKING:
    from shared.models.hosts import HostCredentials


def build_ssl_context(credentials: HostCredentials) -> ssl.SSLContext:
    """Build the TLS context for one host.

    Parameters
    ----------
    credentials
        `ca_pem`: certificates to trust instead of the system's. `client_cert_pem` with
        `client_key_pem` (or the key in the same text): what to show to the host.

    Raises
    ------
    FinalHostError
        `bad_host_configuration`: a PEM text cannot be read, or key and certificate do not match.
    """
    authorities = credentials.ca_pem
    if authorities is not None:
        # Bundles have names in comments; `ssl` takes a text only if all of it is ASCII.
        authorities = authorities.encode("ascii", "ignore").decode()
        if not authorities:  # which `ssl` would take for none, and trust the system's
            msg = "the host's CA certificates are empty; give PEM texts, or none for the system's"
            raise FinalHostError(ErrorCode.BAD_HOST_CONFIGURATION, msg)
    try:
        context = ssl.create_default_context(cadata=authorities)
    except (ssl.SSLError, ValueError) as error:
        raise FinalHostError(
            ErrorCode.BAD_HOST_CONFIGURATION, _unusable("CA certificates", error)
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if credentials.client_cert_pem is not None:
        _load_client_certificate(context, credentials)
    elif credentials.client_key_pem is not None:
        msg = "the host has a client key but no client certificate; give both or neither"
        raise FinalHostError(ErrorCode.BAD_HOST_CONFIGURATION, msg)
    return context


def _load_client_certificate(context: ssl.SSLContext, credentials: HostCredentials) -> None:
    """Load certificate and key by way of a file, the only way that `ssl` offers.

    The file is readable by this user only (`tempfile` makes it with mode 0600) and is deleted
    before this returns.
    """
    key = credentials.client_key_pem
    texts = (credentials.client_cert_pem or "", key.get_secret_value() if key else "")
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write("\n".join(texts).encode())
        file.flush()
        try:
            # Without a password, OpenSSL would ask for that of an encrypted key at the terminal.
            context.load_cert_chain(file.name, password="")
        except (ssl.SSLError, ValueError) as error:
            raise FinalHostError(
                ErrorCode.BAD_HOST_CONFIGURATION, _unusable("client certificate and key", error)
            ) from None


def _unusable(what: str, error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else "not PEM"
    return f"the host's {what} cannot be used ({reason.replace('_', ' ').lower()})"
