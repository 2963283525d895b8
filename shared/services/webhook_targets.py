"""Whether webhooks may go somewhere: the URL, and every address that its name has."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from shared.exceptions import UnusableUrlError
from shared.models.addresses import is_outside, parse_networks, parse_socket_address
from shared.models.webhook_urls import WebhookUrl
from shared.name_lookup import look_up


if TYPE_CHECKING:
    from shared.settings import WebhookSettings

LOOK_UP_TIMEOUT = 3.0
"""Seconds that a request waits for a name's addresses."""

LOOK_UPS = 8
"""Requests of one process that look names up at once: whoever runs slow name servers holds so many
of its threads at most."""

NOT_OUTSIDE = "its name has no address, or one that is not public"
"""Why nothing goes there. The same where there is no such name: what names there are inside, and
what they resolve to, is nothing that a member is told."""


class TargetPolicy:
    """Says where webhooks may go.

    Parameters
    ----------
    settings
        Networks inside that are allowed, and whether TLS is a must.
    """

    def __init__(self, settings: WebhookSettings) -> None:
        self._allowed = parse_networks(settings.webhook_allowed_networks)
        self._allow_http = settings.webhook_allow_http
        self._places = threading.BoundedSemaphore(LOOK_UPS)

    def parse(self, url: str) -> WebhookUrl:
        """Read a URL; raises `UnusableUrlError`."""
        return WebhookUrl.parse(url, allow_http=self._allow_http)

    def find(self, host: str, port: int, timeout: float) -> list[tuple[int, Any]]:
        """Look a name up, once, and give its addresses if webhooks may go to all of them.

        What it gives is what must be connected to: another look-up may give others.

        Raises
        ------
        UnusableUrlError
            One of them is inside, or there are none.
        TimeoutError
            The time was over.
        """
        try:
            found = look_up(host, port, timeout)
        except TimeoutError:
            raise
        except OSError:
            found = []
        if not found or not all(
            is_outside(parse_socket_address(address), self._allowed) for _, address in found
        ):
            raise UnusableUrlError(NOT_OUTSIDE)
        return found

    def check(self, url: str) -> None:
        """Look whether webhooks may go to a URL now; holds no database connection meanwhile.

        Raises
        ------
        UnusableUrlError
            Says why not.
        """
        parsed = self.parse(url)
        if not self._places.acquire(blocking=False):
            msg = "too many names are being looked up just now: try again in a moment"
            raise UnusableUrlError(msg)
        try:
            self.find(parsed.host, parsed.port, LOOK_UP_TIMEOUT)
        except (UnusableUrlError, TimeoutError):
            msg = (
                f"the URL cannot be used: {NOT_OUTSIDE} (whoever runs cvmstop can allow networks"
                " inside: CVMSTOP_WEBHOOK_ALLOWED_NETWORKS)"
            )
            raise UnusableUrlError(msg) from None
        finally:
            self._places.release()
