"""Who may talk to a simulated host.

Source of the rules: dstack `crates/api-auth/src/lib.rs`, where a password file takes the place of
the plain passwords here.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Mapping

CHALLENGE = b'Basic realm="dstack-vmm API"'
"""`WWW-Authenticate` of every 401."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a host accepts. Enabled with neither token nor user, it denies everything."""

    enabled: bool = False
    tokens: tuple[str, ...] = field(default=(), repr=False)
    users: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Names with their passwords."""

    def accept(
        self, http_method: str, headers: Mapping[bytes, bytes], query: Mapping[str, list[str]]
    ) -> bool:
        """Tell whether a request may pass.

        Parameters
        ----------
        http_method
            `?token=` counts on `GET` only.
        headers
            By name in lower case.
        query
            Parsed query string.
        """
        if not self.enabled:
            return True
        if self._is_token(headers.get(b"x-admin-token")):
            return True
        scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and self._is_token(value.strip()):
            return True
        if scheme.lower() == b"basic" and self._is_basic(value.strip()):
            return True
        return http_method == "GET" and any(
            self._is_token(token.encode()) for token in query.get("token", ())
        )

    def _is_token(self, given: bytes | None) -> bool:
        return given is not None and any(
            compare_digest(given, token.encode()) for token in self.tokens
        )

    def _is_basic(self, encoded: bytes) -> bool:
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
        except binascii.Error:
            return False
        if not colon:
            return False
        if self._is_token(password) or (not password and self._is_token(user)):
            return True
        return any(
            compare_digest(user, name.encode()) and compare_digest(password, secret.encode())
            for name, secret in self.users
        )
