"""Certificates of the host that is reached by HTTPS: one that is good, and one that has expired."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trustme

from cli.stack.ports import ADDRESS


if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO = timedelta(days=1)
"""Since when the expired one has been so."""


class Certificates:
    """An authority and what it has issued.

    Parameters
    ----------
    directory
        For the files; it is made.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._authority = trustme.CA()
        self.ca_pem = self._authority.cert_pem.bytes().decode()
        self.server_cert = directory / "server.pem"
        self.server_key = directory / "server.key"
        self.renew()

    def renew(self) -> None:
        """Put a good certificate into the server's files."""
        self._issue(None)

    def expire(self) -> None:
        """Put one into them that has expired."""
        self._issue(datetime.now(UTC) - LONG_AGO)

    def _issue(self, not_after: datetime | None) -> None:
        issued = self._authority.issue_cert(ADDRESS, not_after=not_after)
        issued.private_key_pem.write_to_path(self.server_key)
        self.server_cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
