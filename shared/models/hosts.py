"""How a VM host is reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, SecretStr, field_serializer


if TYPE_CHECKING:
    from pydantic import SerializationInfo

UUID_DRIVERS = frozenset({"libvirt"})
"""Drivers whose VM ids are UUIDs: written in any form, listed by the host in one."""

DEFAULT_CAP = 8
"""Stops on one host at once, unless its operator says otherwise.

Killing a VM is work for the host's kernel (a TDX guest of 1.2 TiB takes minutes to reclaim,
kata-containers #13564); a handful at a time keeps the host answering.
"""


class HostCredentials(BaseModel):
    """What a host wants to see. Kept sealed in the database; never in a repr.

    `token` goes as Bearer, `username` and `password` as Basic; PEM texts for TLS.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: SecretStr | None = None
    username: str | None = None
    password: SecretStr | None = None
    ca_pem: str | None = None
    """Certificates to trust instead of the system's."""
    client_cert_pem: str | None = None
    client_key_pem: SecretStr | None = None

    @field_serializer("token", "password", "client_key_pem")
    def _reveal(self, value: SecretStr | None, info: SerializationInfo) -> str | None:
        """Show a secret only to `to_bytes`, which is for sealing."""
        if value is None:
            return None
        return value.get_secret_value() if info.context == "sealing" else str(value)

    def to_bytes(self) -> bytes:
        """Everything, secrets included: only for sealing."""
        return self.model_dump_json(exclude_none=True, context="sealing").encode()


@dataclass(frozen=True, kw_only=True)
class SealedHost:
    """How a host is reached, with its credentials as they are stored."""

    name: str
    driver: str
    address: str
    sealed_credentials: bytes | None = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class HostConnection:
    """What a driver needs to talk to one host."""

    name: str
    driver: str
    address: str
    credentials: HostCredentials
