"""What handlers of pages ask FastAPI for, besides what routes of the API do."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from api.pages.asked import Asked
from api.pages.form import Form


async def _form(request: Request) -> Form:
    return cast("Form", request.state.form)


async def _asked(request: Request) -> Asked:
    return Asked(request.query_params)


PostedForm = Annotated[Form, Depends(_form)]
"""What was sent; only of a POST."""

AskedFor = Annotated[Asked, Depends(_asked)]
"""The query string."""
