"""The OpenAPI document: FastAPI's, with the two schemas that the specification has differently.

POST batch-stop says there what the specification says and no more. It may be refused as any other
operation (429, 503), and its body for being too large (413) or too slow (408).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.events.schemas import EndEvent, StopEvent
from api.schemas import Refusal


if TYPE_CHECKING:
    from fastapi import FastAPI

VALIDATION_SCHEMAS: dict[str, Any] = {
    "HTTPValidationError": {
        "properties": {
            "detail": {
                "items": {"$ref": "#/components/schemas/ValidationError"},
                "type": "array",
                "title": "Detail",
            }
        },
        "type": "object",
        "title": "HTTPValidationError",
    },
    "ValidationError": {
        "properties": {
            "loc": {
                "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "type": "array",
                "title": "Location",
            },
            "msg": {"type": "string", "title": "Message"},
            "type": {"type": "string", "title": "Error Type"},
        },
        "type": "object",
        "required": ["loc", "msg", "type"],
        "title": "ValidationError",
    },
}
"""Source: the endpoint's specification. FastAPI adds `input` and `ctx`, which we never send."""

Answers = dict[int | str, dict[str, Any]]
"""By status: what FastAPI takes as the `responses` of a route."""

REFUSALS: Answers = {
    401: {"model": Refusal, "description": "Authentication required"},
    503: {
        "model": Refusal,
        "description": "Not served now; nothing was done",
        "headers": {
            "Retry-After": {
                "description": "Seconds to wait",
                "required": True,
                "schema": {"type": "integer", "minimum": 1},
            }
        },
    },
}
"""Of every route that wants a key."""

INVALID_CURSOR: Answers = {400: {"model": Refusal, "description": "The cursor is none of ours"}}
"""Of every list."""

NOT_FOUND: Answers = {
    404: {"model": Refusal, "description": "There is none of that id in the key's workspace"}
}
"""Of every route that shows one thing."""

BODY_REFUSED: Answers = {
    408: {"description": "The body was too slow to come"},
    413: {"description": "The body is too large"},
}
"""Of every route that takes a body."""

ADMIN_ONLY: Answers = {403: {"model": Refusal, "description": "The key is not an admin's"}}
"""Of every route for admins."""

AN_ADMINS_STOP: Answers = {
    403: {"model": Refusal, "description": "An admin asked for the stop, and the key is none's"}
}
"""Of every route that acts on one stop."""

UNKNOWN_CVM: Answers = {404: {"model": Refusal, "description": "There is no CVM of that id"}}
"""Of every route for admins that is about one CVM."""

STOP_IN_PROGRESS: Answers = {409: {"model": Refusal, "description": "A stop is open on the CVM"}}
"""Of the route that begins another operation."""

UNUSABLE_URL: Answers = {400: {"model": Refusal, "description": "No webhook may go to the URL"}}
"""Of every route that takes one."""

WEBHOOK_REFUSED: Answers = {
    409: {
        "model": Refusal,
        "description": "Webhooks are off, there are too many, or it is not to be sent now",
    }
}
"""Of routes that add webhooks, or deliveries."""

KEY_SCHEMES: dict[str, Any] = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}
"""Either of them: see `api.authenticated_route.presented_key`."""

NO_KEY: dict[str, Any] = {"security": []}
"""`openapi_extra` of a route that wants no key. All others inherit the document's `security`, so
that POST batch-stop stays as specified.
"""


def _event_schemas() -> dict[str, Any]:
    """Describe what events carry: of a stream OpenAPI 3.1 can only say that it is text."""
    _, found = models_json_schema(
        [(StopEvent, "serialization"), (EndEvent, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    return cast("dict[str, Any]", found["$defs"])


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` give the document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, routes=app.routes, tags=app.openapi_tags
            )
            document["components"]["schemas"].update(VALIDATION_SCHEMAS)
            for name, schema in _event_schemas().items():
                document["components"]["schemas"].setdefault(name, schema)
            document["components"]["securitySchemes"] = KEY_SCHEMES
            document["security"] = [{name: []} for name in KEY_SCHEMES]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents
