"""How cvmstop says to a host who it is."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from shared.models.errors import ErrorCode
from workers.drivers.errors import FinalHostError


if TYPE_CHECKING:
    from shared.models.hosts import HostCredentials


def build_authorization(credentials: HostCredentials) -> str | None:
    """Give the value of the `Authorization` header; None for a host without credentials.

    A token goes as Bearer and beats a user name and password, which go as Basic (dstack
    `crates/api-auth/src/lib.rs` takes both).

    Raises
    ------
    FinalHostError
        `bad_host_configuration`: a credential has characters that no header can carry.
    """
    if credentials.token is not None:
        token = credentials.token.get_secret_value()
        if not token.isascii() or not token.isprintable() or not token.strip():
            msg = "the host's token is empty or has characters outside of printable ASCII"
            raise FinalHostError(ErrorCode.BAD_HOST_CONFIGURATION, msg)
        return f"Bearer {token}"
    if credentials.username is None and credentials.password is None:
        return None
    username = credentials.username or ""
    if ":" in username:
        msg = "the host's user name has a colon, which Basic authentication has no room for"
        raise FinalHostError(ErrorCode.BAD_HOST_CONFIGURATION, msg)
    password = credentials.password.get_secret_value() if credentials.password else ""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def secret_texts(credentials: HostCredentials, authorization: str | None) -> list[str]:
    """List what a host is sent and must never be shown, should it send it back."""
    secrets = [credentials.token, credentials.password]
    texts = [secret.get_secret_value() for secret in secrets if secret is not None]
    if authorization is not None:
        texts.append(authorization.partition(" ")[2])
    return texts
