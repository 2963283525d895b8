"""The address of a dstack-vmm: `http://host:port`, `https://host:port` or `unix:/path`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


DEFAULT_PORTS = {"http": 80, "https": 443}
"""Ports that an address may leave out (RFC 9110, 4.2)."""

UNIX_PREFIX = "unix:"
"""How dstack's own tools write a Unix socket's address (dstack `vmm.toml`, `address`)."""

MAX_UNIX_PATH = 107
"""Longest path of a Unix socket, in bytes (Linux `unix(7)`: 108 with the final NUL)."""

WANTED = "give http://host:port, https://host:port or unix:/path"


@dataclass(frozen=True, kw_only=True)
class HostAddress:
    """Where a dstack-vmm listens."""

    text: str
    """As it was given; for messages."""
    scheme: str
    """`http` or `https`."""
    host: str
    """A name or an IP address, an IPv6 one without brackets; `localhost` for a Unix socket."""
    port: int
    prefix: str = ""
    """Path in front of `/prpc/…`, without a final slash; for a proxy that adds one."""
    unix_path: str | None = None

    @property
    def host_header(self) -> str:
        """Value of the `Host` header: the port only if it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises
        ------
        ValueError
            Says what is wrong and what is wanted. Does not repeat the address, which may hold a
            password where none belongs.
        """
        # urlsplit silently drops tabs and line ends, so they must be refused before it.
        if not text.isascii() or not text.isprintable() or " " in text:
            msg = "the address has spaces or characters outside of ASCII; " + WANTED
            raise ValueError(msg)
        if text.startswith(UNIX_PREFIX):
            return cls._parse_unix(text)
        return cls._parse_url(text)

    @classmethod
    def _parse_unix(cls, text: str) -> Self:
        path = text.removeprefix(UNIX_PREFIX)
        if not path.startswith("/"):
            msg = "the path of a unix: address must be absolute, such as unix:/run/dstack/vmm.sock"
            raise ValueError(msg)
        if len(path) > MAX_UNIX_PATH:
            msg = f"the path of a unix: address is longer than {MAX_UNIX_PATH} bytes"
            raise ValueError(msg)
        return cls(text=text, scheme="http", host="localhost", port=80, unix_path=path)

    @classmethod
    def _parse_url(cls, text: str) -> Self:
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            msg = "the address has a host or port that cannot be read; " + WANTED
            raise ValueError(msg) from None
        if parts.scheme not in DEFAULT_PORTS:
            msg = "the address has an unknown scheme; " + WANTED
            raise ValueError(msg)
        if parts.username is not None or parts.password is not None:
            msg = "the address holds credentials; give them as the host's token or user instead"
            raise ValueError(msg)
        if not parts.hostname or parts.hostname.startswith(".") or port == 0:
            msg = "the address has no usable host and port; " + WANTED
            raise ValueError(msg)
        if "?" in text or "#" in text:
            msg = "the address has a query or fragment; " + WANTED
            raise ValueError(msg)
        return cls(
            text=text.rstrip("/"),
            scheme=parts.scheme,
            host=parts.hostname,
            port=port or DEFAULT_PORTS[parts.scheme],
            prefix=parts.path.rstrip("/"),
        )
