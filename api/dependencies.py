"""What routes ask FastAPI for.

Coroutines, though they wait for nothing: FastAPI runs each plain function in a thread, which takes
longer than all that these do.
"""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from api.parts import ApiParts
from shared.models.callers import Caller


async def _parts(request: Request) -> ApiParts:
    return cast("ApiParts", request.app.state.parts)


async def _caller(request: Request) -> Caller:
    return cast("Caller", request.state.caller)


async def _request_id(request: Request) -> str:
    return cast("str", request.state.request_id)


Parts = Annotated[ApiParts, Depends(_parts)]
"""What the process has."""

CurrentCaller = Annotated[Caller, Depends(_caller)]
"""Who is asking; only on an `AuthenticatedRoute`."""

RequestId = Annotated[str, Depends(_request_id)]
"""The id that follows this request through logs and rows."""
