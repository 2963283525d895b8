"""The cookie that says who is signed in, and the token that a form must bring along.

The cookie's value is the session's token: random, and worthless once the session has ended. A
form's token is made from it, so that nothing else has to be kept.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from shared.models.visitors import SIGNED_IN_FOR


if TYPE_CHECKING:
    from fastapi import Request, Response

SESSION = "cvmstop"
"""The cookie's name where the page is reached by plain HTTP."""

SECURE_SESSION = "__Host-cvmstop"
"""Its name by HTTPS: browsers take it only with Secure, and for this host (RFC 6265bis, 4.1.3)."""

PURPOSE = b"cvmstop: a form of the page"
"""What a form's token is made for, so that it is good for nothing else."""


def session_token(request: Request) -> str | None:
    """Give the token of the request's cookie.

    By HTTPS only of the one that nobody can have set by HTTP.
    """
    token = request.cookies.get(SECURE_SESSION)
    if token is None and request.url.scheme != "https":
        token = request.cookies.get(SESSION)
    return token or None


def form_token(token: str) -> str:
    """Make what the forms of a session bring along."""
    return hmac.new(token.encode(), PURPOSE, hashlib.sha256).hexdigest()


def is_form_token(given: str, token: str) -> bool:
    """Compare, in the same time whatever is given."""
    return hmac.compare_digest(given.encode(), form_token(token).encode())


def keep_session(response: Response, token: str, *, by_https: bool) -> None:
    """Give the browser the session's cookie."""
    response.set_cookie(
        SECURE_SESSION if by_https else SESSION,
        token,
        max_age=int(SIGNED_IN_FOR.total_seconds()),
        path="/",
        secure=by_https,
        httponly=True,
        samesite="strict",
    )


def drop_session(request: Request, response: Response) -> None:
    """Take the cookie back, under each name that it came with."""
    for name in (SESSION, SECURE_SESSION):
        if name in request.cookies:
            response.delete_cookie(
                name, path="/", secure=name == SECURE_SESSION, httponly=True, samesite="strict"
            )
