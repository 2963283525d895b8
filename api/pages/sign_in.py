"""`/sign-in` and `/sign-out`."""

from __future__ import annotations

import ipaddress

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api.dependencies import Parts
from api.pages.dependencies import AskedFor, PostedForm
from api.pages.origin import is_by_https
from api.pages.own_path import own_path
from api.pages.page_route import ENDED, READ, OpenPage, SignedInPage
from api.pages.rendering import render
from api.pages.session_cookie import drop_session, keep_session, session_token
from shared.database import transaction
from shared.exceptions import AuthenticationError, RateLimitedError
from shared.services.page_sessions import sign_in, sign_out


log = structlog.get_logger(__name__)

router = APIRouter(route_class=OpenPage, include_in_schema=False)

signed_in = APIRouter(route_class=SignedInPage, include_in_schema=False)

NO_VALID_KEY = (
    "This is no API key that is valid now. Ask whoever runs cvmstop for one (cvmstop keys create)."
)
"""The same whatever is wrong with it."""


@router.api_route("/sign-in", methods=[*READ])
def sign_in_page(request: Request, asked: AskedFor) -> Response:
    """Ask for a key."""
    return _ask(
        request,
        come_back=own_path(asked.text("next") or ""),
        has_ended=asked.text(ENDED) is not None,
    )


@router.post("/sign-in")
def sign_in_route(request: Request, form: PostedForm, parts: Parts) -> Response:
    """Take a key, and begin a session; one that the browser had before ends."""
    come_back = own_path(form.text("next"))
    try:
        parts.sign_in_limit.take(f"sign-in {network_of(request)}")
        with transaction(parts.engine) as session:
            token = sign_in(session, form.text("api_key"))
            if (before := session_token(request)) is not None:
                sign_out(session, before)
    except AuthenticationError:
        log.info("sign-in refused", client=network_of(request))
        return _ask(request, status=401, come_back=come_back, problem=NO_VALID_KEY)
    except RateLimitedError as error:
        problem = f"Too many sign-ins from your address. Try again in {error.retry_after} s."
        page = _ask(request, status=429, come_back=come_back, problem=problem)
        page.headers["Retry-After"] = str(error.retry_after)
        return page
    response = RedirectResponse(come_back, status_code=303)
    keep_session(response, token, by_https=is_by_https(request))
    return response


@signed_in.post("/sign-out")
def sign_out_route(request: Request, parts: Parts) -> Response:
    """End the session, for whoever else may have its cookie too."""
    with transaction(parts.engine) as session:
        sign_out(session, session_token(request) or "")
    response = RedirectResponse("/sign-in", status_code=303)
    drop_session(request, response)
    return response


def _ask(
    request: Request,
    *,
    come_back: str,
    status: int = 200,
    problem: str | None = None,
    has_ended: bool = False,
) -> Response:
    return render(
        request,
        "sign_in.html",
        status=status,
        next=come_back,
        problem=problem,
        has_ended=has_ended,
    )


def network_of(request: Request) -> str:
    """Give whose attempts are counted together: an address, or the network of one of IPv6.

    Anybody with IPv6 has 2^64 addresses.
    """
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped  # as a proxy tells it that listens on both
    return str(address)
