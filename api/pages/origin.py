"""Where a form was sent from, as far as browsers tell, and how the browser reached us."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from api.pages.refusals import PageRefusedError


if TYPE_CHECKING:
    from fastapi import Request

OWN_SITES = ("same-origin", "none")
"""`Sec-Fetch-Site` of a form of ours, and of what a person does, such as a reload.

Source: W3C Fetch Metadata. No script and no page can set the header.
"""

FROM_ELSEWHERE = "this form was not sent from cvmstop's own page: open the page, and send it there"


def require_own_origin(request: Request) -> None:
    """Refuse a form that another site's page sent.

    Browsers send `Sec-Fetch-Site` to HTTPS and to loopback, and `Origin` with every POST. A request
    with neither is no browser's form.

    Raises
    ------
    PageRefusedError
        It was, or it is not known where it comes from.
    """
    site = request.headers.get("sec-fetch-site")
    is_own = site in OWN_SITES if site is not None else _is_own_host(request)
    if not is_own:
        raise PageRefusedError(403, "Not from here", FROM_ELSEWHERE)


def _is_own_host(request: Request) -> bool:
    """Say whether `Origin` names the host that was asked; one that is no URL names none."""
    try:
        host = urlsplit(request.headers.get("origin", "")).netloc
    except ValueError:
        return False
    return bool(host) and host == request.headers.get("host")


def is_by_https(request: Request) -> bool:
    """Say whether the browser that posts a form reached us by HTTPS.

    Behind a proxy that ends TLS we are asked by HTTP; the browser's `Origin` says what it sees.
    """
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https:")
