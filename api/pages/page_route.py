"""Routes of pages: who is signed in comes first, and every failure is a page too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from api.pages.error_page import error_page
from api.pages.form import read_form
from api.pages.origin import require_own_origin
from api.pages.refusals import PageRefusedError
from api.pages.rendering import HEADERS, NO_STORE, render
from api.pages.session_cookie import drop_session, is_form_token, session_token
from shared.database import transaction
from shared.exceptions import AuthenticationError
from shared.services.page_sessions import recognise


if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fastapi import Response

    from api.parts import ApiParts
    from shared.models.visitors import Visitor

READ = ("GET", "HEAD")
"""Methods of a page that is looked at."""

ENDED = "ended"
"""What the page that asks for a key is told when there was a session, so that it says so."""

GUARD = "form_token"
"""The field that every form has."""

STALE_FORM = (
    "this form is of a session that has ended, or of somebody else's: go back, reload the page, and"
    " send it again. Nothing was done."
)


class OpenPage(APIRoute):
    """A page for everybody: no more than a failure that is readable, and what browsers are told."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of this route."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await self._admit(request) or await handle(request)
            except Exception as error:  # noqa: BLE001 - told as a page, and logged if it is a fault
                return error_page(request, error)
            for name, value in {**HEADERS, **NO_STORE}.items():
                response.headers.setdefault(name, value)
            return response

        return answer

    async def _admit(self, request: Request) -> Response | None:
        """Look at what came before anything else is done; gives an answer to refuse it."""
        if request.method not in READ:
            require_own_origin(request)
            request.state.form = await read_form(request)
        return None


class SignedInPage(OpenPage):
    """A page for whoever is signed in; a form must have been made for that session."""

    async def _admit(self, request: Request) -> Response | None:
        token = session_token(request)
        is_from_elsewhere = request.headers.get("sec-fetch-site") == "cross-site"
        if token is None and is_from_elsewhere and request.method in READ:
            # A link in a chat, or in Flower, brings no `SameSite=Strict` cookie along. A page of
            # ours does: this one only goes on to the same place.
            return render(request, "from_elsewhere.html", here=own_address(request))
        try:
            visitor = await run_in_threadpool(_admit_visitor, request.app.state.parts, token)
        except AuthenticationError:
            return _to_sign_in(request)
        request.state.visitor = visitor
        request.state.caller = visitor.caller
        await super()._admit(request)
        if request.method not in READ and not is_form_token(
            request.state.form.text(GUARD), token or ""
        ):
            raise PageRefusedError(403, "Not sent", STALE_FORM)
        return None


def own_address(request: Request) -> str:
    """Give the path and the query that were asked for."""
    query = request.url.query
    return quote(request.url.path) + (f"?{query}" if query else "")


def _admit_visitor(parts: ApiParts, token: str | None) -> Visitor:
    with transaction(parts.engine) as session:
        visitor = recognise(session, token)
    # The same count as of the key's requests elsewhere.
    parts.rate_limit.take(visitor.caller.api_key_id)
    return visitor


def _to_sign_in(request: Request) -> Response:
    """Ask for a key, and come back here; not to a form, which is not sent a second time."""
    come_back = request.method in READ and request.url.path != "/"
    query = {"next": own_address(request)} if come_back else {}
    if session_token(request) is not None:
        query[ENDED] = "1"
    address = f"/sign-in?{urlencode(query, safe='')}" if query else "/sign-in"
    response = RedirectResponse(address, status_code=303)
    drop_session(request, response)
    return response
