"""Routes that look at the API key before anything else of a request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from shared.database import transaction
from shared.services.authentication import authenticate


if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fastapi import Response

    from api.parts import ApiParts
    from shared.models.callers import Caller

BEARER = "bearer "
"""Start of an `Authorization` header with a key; the scheme's case does not matter (RFC 9110)."""


class AuthenticatedRoute(APIRoute):
    """Answers 401 before the body is read; FastAPI's dependencies would come after it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of this route."""
        handle = super().get_route_handler()

        async def authenticate_first(request: Request) -> Response:
            request.state.caller = await run_in_threadpool(
                find_caller, request.app.state.parts, presented_key(request)
            )
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return authenticate_first


class StrictJsonRequest(Request):
    """A request of which no body breaks the parser: what is not JSON is told as invalid JSON."""

    async def json(self) -> Any:
        """Parse the body.

        Raises
        ------
        json.JSONDecodeError
            It is not JSON, not UTF-8, or nested too deep to parse. FastAPI makes it a 422.
        """
        try:
            return await super().json()
        except UnicodeDecodeError as error:
            raise json.JSONDecodeError(error.reason, "", error.start) from None
        except RecursionError:
            msg = "nested too deep"
            raise json.JSONDecodeError(msg, "", 0) from None


def find_caller(parts: ApiParts, api_key: str | None) -> Caller:
    """Find who is asking; raises what `authenticate` raises."""
    with transaction(parts.engine) as session:
        return authenticate(session, api_key)


def presented_key(request: Request) -> str | None:
    """Give the key in `X-API-Key`, or else the one in `Authorization: Bearer`."""
    api_key = request.headers.get("x-api-key")
    if api_key:
        return api_key
    authorization = request.headers.get("authorization", "")
    if authorization[: len(BEARER)].lower() == BEARER:
        return authorization[len(BEARER) :].strip() or None
    return None
