"""The generated OpenAPI document says of the endpoint exactly what the specification says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx


if TYPE_CHECKING:
    from tests.api.conftest import World

SPECIFICATION = Path(__file__).parent / "batch-stop-openapi.json"
"""The specification's path and its five schemas, as data."""


def test_path_and_schemas_equal_the_specification(anonymous: httpx.Client) -> None:
    wanted: dict[str, Any] = json.loads(SPECIFICATION.read_text())
    document = anonymous.get("/openapi.json").json()
    assert document["openapi"] == wanted["openapi"]
    for path, item in wanted["paths"].items():
        assert document["paths"][path] == item
    assert len(wanted["components"]["schemas"]) == 5
    for name, schema in wanted["components"]["schemas"].items():
        assert document["components"]["schemas"][name] == schema


def test_no_pages_that_load_scripts_from_elsewhere(
    anonymous: httpx.Client,
    world: World,  # noqa: ARG001 - the API is up
) -> None:
    assert anonymous.get("/docs").status_code == 404
    assert anonymous.get("/redoc").status_code == 404
