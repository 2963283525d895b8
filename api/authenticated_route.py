"""Routes that look at the API key before anything else of a request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from shared.database import single_statement
from shared.exceptions import AdminOnlyError
from shared.models.states import UserRole
from shared.services.authentication import authenticate


if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fastapi import Response

    from api.parts import ApiParts
    from shared.models.callers import Caller

JSON = "application/json"
"""The only content that a body may have. Source: the endpoint's specification."""

BEARER = "bearer "
"""Start of an `Authorization` header with a key; the scheme's case does not matter (RFC 9110)."""


RATE_LIMITED: dict[int | str, dict[str, Any]] = {
    429: {
        "description": "Too many requests with this API key",
        "headers": {
            "Retry-After": {
                "description": "Seconds to wait, at least 1",
                "schema": {"type": "integer", "minimum": 1},
            }
        },
    }
}
"""For the OpenAPI document; not on POST batch-stop, where it says what the specification says."""


class AuthenticatedRoute(APIRoute):
    """Answers 401 and 429 before the body is read; FastAPI's dependencies would come after it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler of this route."""
        handle = super().get_route_handler()

        async def authenticate_first(request: Request) -> Response:
            caller = await run_in_threadpool(
                admit_caller, request.app.state.parts, presented_key(request)
            )
            self._refuse_caller(caller)
            request.state.caller = caller
            self._refuse_unknown_parameters(request)
            self._refuse_other_content(request)
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return authenticate_first

    def _refuse_caller(self, caller: Caller) -> None:
        """Every valid key will do."""

    def _refuse_unknown_parameters(self, request: Request) -> None:
        """Refuse a misspelt `?dry_run` instead of stopping machines."""
        # Also those of what the route depends on.
        asking = (self.dependant, *self.dependant.dependencies)
        known = {field.alias for each in asking for field in each.query_params}
        _refuse(
            [
                {
                    "loc": ("query", name),
                    "msg": f"unknown parameter; known are: {', '.join(sorted(known)) or 'none'}",
                    "type": "extra_forbidden",
                }
                for name in request.query_params
                if name not in known
            ]
        )

    def _refuse_other_content(self, request: Request) -> None:
        """Say what is missing, where FastAPI only says that the body is no object."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if self.body_field is not None and content_type != JSON:
            message = f"send the body as JSON, with Content-Type: {JSON}"
            _refuse([{"loc": ("header", "content-type"), "msg": message, "type": "content_type"}])


class AdminRoute(AuthenticatedRoute):
    """Answers 403 to whoever is no admin, whatever else is asked: nothing is looked at for it."""

    def _refuse_caller(self, caller: Caller) -> None:
        if caller.role is not UserRole.ADMIN:
            msg = "an admin's API key is wanted here"
            raise AdminOnlyError(msg)


def _refuse(problems: list[dict[str, Any]]) -> None:
    if problems:
        raise RequestValidationError(problems)


class StrictJsonRequest(Request):
    """A request of which no body breaks the parser: what is not JSON is told as invalid JSON."""

    async def json(self) -> Any:
        """Parse the body.

        Raises
        ------
        json.JSONDecodeError
            It is not JSON, not UTF-8, or more than can be parsed. FastAPI makes it a 422.
        """
        try:
            return await super().json()
        except json.JSONDecodeError:
            raise
        except ValueError as error:  # not UTF-8, or a number of more digits than Python reads
            raise json.JSONDecodeError(str(error), "", 0) from None
        except RecursionError:
            msg = "nested too deep"
            raise json.JSONDecodeError(msg, "", 0) from None


def admit_caller(parts: ApiParts, api_key: str | None) -> Caller:
    """Find who is asking, and count it; raises what `authenticate` and `RateLimit.take` raise."""
    with single_statement(parts.engine) as connection:
        caller = authenticate(connection, api_key)
    # After giving it back: the broker may be slow, and connections to the database are few.
    parts.rate_limit.take(caller.api_key_id)
    return caller


def presented_key(request: Request) -> str | None:
    """Give the key in `X-API-Key`, or else the one in `Authorization: Bearer`."""
    api_key = request.headers.get("x-api-key")
    if api_key:
        return api_key
    authorization = request.headers.get("authorization", "")
    if authorization[: len(BEARER)].lower() == BEARER:
        return authorization[len(BEARER) :].strip() or None
    return None
