"""Where webhooks may go: the URL, as text. What its name resolves to is another question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from shared.exceptions import UnusableUrlError


DEFAULT_PORTS = {"https": 443, "http": 80}
"""Ports that a URL may leave out (RFC 9110, 4.2)."""

MAX_URL = 2_000
"""Most characters of a URL."""

FIRST_FREE_PORT = 1_024
"""Below it only the schemes' own ports are taken: mail servers and the like read no webhooks."""


@dataclass(frozen=True, kw_only=True)
class WebhookUrl:
    """The URL of an endpoint, in its parts."""

    scheme: str
    """`https` or `http`."""
    host: str
    """A name or an IP address, an IPv6 one without brackets."""
    port: int
    target: str
    """Path and query, as the first line of a request has them."""

    @property
    def place(self) -> str:
        """Host and port: what may be logged. The rest often holds a token."""
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, allow_http: bool) -> Self:
        """Read a URL.

        Parameters
        ----------
        text
            Any.
        allow_http
            Whether it may do without TLS.

        Raises
        ------
        UnusableUrlError
            Says what is wrong with it, without repeating it.
        """
        if len(text) > MAX_URL:
            msg = f"the URL is longer than {MAX_URL} characters"
            raise UnusableUrlError(msg)
        # urlsplit silently drops tabs and line ends, so they must be refused before it.
        if not text.isascii() or not text.isprintable() or " " in text:
            msg = "the URL has spaces or characters outside of ASCII: encode them"
            raise UnusableUrlError(msg)
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            msg = "the URL has a host or port that cannot be read"
            raise UnusableUrlError(msg) from None
        if parts.scheme not in DEFAULT_PORTS or (parts.scheme == "http" and not allow_http):
            wanted = "https:// or http://" if allow_http else "https://"
            msg = f"the URL must begin with {wanted}"
            raise UnusableUrlError(msg)
        if "@" in parts.netloc:
            msg = "the URL holds credentials: deliveries are signed instead"
            raise UnusableUrlError(msg)
        if "#" in text:
            msg = "the URL has a fragment, which is never sent"
            raise UnusableUrlError(msg)
        host = parts.hostname or ""
        # `%` begins the zone of an IPv6 address, which is always one that points inside.
        if not host.strip(".") or host.startswith(".") or not set(host).isdisjoint("%\\"):
            msg = "the URL has no usable host"
            raise UnusableUrlError(msg)
        if port is None:
            port = DEFAULT_PORTS[parts.scheme]
        if port < FIRST_FREE_PORT and port not in DEFAULT_PORTS.values():
            msg = "the URL's port must be 443, 80, or 1024 or above"
            raise UnusableUrlError(msg)
        query = f"?{parts.query}" if parts.query else ""
        return cls(scheme=parts.scheme, host=host, port=port, target=f"{parts.path or '/'}{query}")

    @property
    def host_header(self) -> str:
        """Value of the `Host` header: the port only if it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"
