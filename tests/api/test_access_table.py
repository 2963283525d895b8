"""Who gets what from every route that there is.

The routes come from the application: one that is not in the table fails the first test.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import text

from api.main import create_app
from api.pages.page_route import OpenPage
from shared.database import transaction


if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World

CALLERS = (
    "nobody",
    "unknown_key",
    "revoked_key",
    "expired_key",
    "orphan_key",
    "stranger_key",
    "member_key",
    "admin_key",
)
"""As the fixtures name them. The stranger's key is a good one, of the other workspace."""

INVALID = CALLERS[:5]

OPEN = dict.fromkeys(CALLERS, 200)
"""Statuses of a route that wants no key."""

OFF = dict.fromkeys(CALLERS, 404)
"""Of a route that is not served unless a setting says so: `test_metrics.py` has what it wants."""

WORKSPACE = {
    **dict.fromkeys(INVALID, 401),
    "stranger_key": 200,
    "member_key": 200,
    "admin_key": 200,
}
"""Of a route that gives everybody their own."""

OURS = {**WORKSPACE, "stranger_key": 404}
"""Of one thing of the member's workspace."""

ADMINS = {
    **dict.fromkeys(INVALID, 401),
    "stranger_key": 403,
    "member_key": 403,
    "admin_key": 200,
}
"""Of a route for admins."""

TABLE = {
    "GET /health/live": OPEN,
    "GET /health/ready": OPEN,
    "GET /openapi.json": OPEN,
    "GET /metrics": OFF,
    "POST /api/v1/cvms/batch-stop": WORKSPACE,
    "PUT /api/v1/cvms/{cvm_id}/operation": ADMINS,
    "DELETE /api/v1/cvms/{cvm_id}/operation": {**ADMINS, "admin_key": 204},
    "GET /api/v1/cvms": WORKSPACE,
    "GET /api/v1/cvms/{cvm_id}": OURS,
    "GET /api/v1/batches": WORKSPACE,
    "GET /api/v1/batches/{batch_id}": OURS,
    "GET /api/v1/batches/{batch_id}/events": OURS,
    "POST /api/v1/batches/{batch_id}/retry": OURS,
    "POST /api/v1/batches/{batch_id}/cancel": OURS,
    "GET /api/v1/stop-tasks": WORKSPACE,
    "GET /api/v1/stop-tasks/groups": WORKSPACE,
    "GET /api/v1/stop-tasks/{stop_task_id}": OURS,
    "POST /api/v1/stop-tasks/{stop_task_id}/retry": OURS,
    "POST /api/v1/stop-tasks/{stop_task_id}/cancel": OURS,
    "GET /api/v1/webhooks": WORKSPACE,
    "POST /api/v1/webhooks": {
        **WORKSPACE,
        "stranger_key": 201,
        "member_key": 201,
        "admin_key": 201,
    },
    "GET /api/v1/webhooks/{webhook_id}": OURS,
    "PATCH /api/v1/webhooks/{webhook_id}": OURS,
    "DELETE /api/v1/webhooks/{webhook_id}": {**OURS, "member_key": 204, "admin_key": 204},
    "GET /api/v1/webhooks/{webhook_id}/deliveries": OURS,
    "POST /api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": OURS,
    "POST /api/v1/webhooks/{webhook_id}/test": OURS,
}

UNAUTHENTICATED = {
    "detail": "a valid API key is required, in X-API-Key or as Authorization: Bearer",
    "error": "authentication_required",
}
"""The one answer to every key that is not valid now, and to none."""


WEBHOOK = {"url": "http://127.0.0.1:9999/told"}

BODIES: dict[str, Callable[[World], object]] = {
    "POST /api/v1/webhooks": lambda _: WEBHOOK,
    "POST": lambda world: {"cvm_ids": [world.ours[1]]},
    "PUT": lambda _: {"name": "resize"},
    "PATCH": lambda _: {"enabled": True},
}
"""By route, or else by method: what is sent."""


def served_routes(settings: Settings) -> set[str]:
    """Give `METHOD /path` of everything that the application answers, but for pages.

    Of those `tests/api/pages/test_who_sees_what.py` has the table.
    """
    app = create_app(settings)
    app.state.parts.close()
    found = set()
    for route in iter_route_contexts(app.routes):
        assert route.methods, f"{route} is none that this test understands"
        if isinstance(route.original_route, OpenPage):
            continue
        found |= {f"{method} {route.path}" for method in route.methods if method != "HEAD"}
    return found


@dataclass(frozen=True)
class Accepted:
    """A stop of the member's, and who is told of it."""

    batch_id: str
    stop_task_id: str
    cvm_id: str
    webhook_id: str
    delivery_id: str

    def ids(self) -> dict[str, str]:
        """Give what stands in paths."""
        return asdict(self)


@pytest.fixture
def accepted(client: httpx.Client, world: World, clean: Engine) -> Accepted:
    """Let the member stop one CVM, and have somebody told."""
    answer = client.post("/api/v1/cvms/batch-stop", json={"cvm_ids": world.ours[:1]})
    (task,) = client.get("/api/v1/stop-tasks").json()["items"]
    webhook = client.post("/api/v1/webhooks", json=WEBHOOK).json()["id"]
    delivery = client.post(f"/api/v1/webhooks/{webhook}/test").json()["id"]
    with transaction(clean) as session:
        session.execute(text("UPDATE webhook_deliveries SET state = 'delivered'"))
    return Accepted(answer.headers["x-batch-id"], task["id"], task["cvm_id"], webhook, delivery)


def ask(
    http: httpx.Client, world: World, caller: str, route: str, ids: dict[str, str]
) -> httpx.Response:
    """Ask a route as one of the callers."""
    made_up = {"nobody": None, "unknown_key": "cvmstop_nonsense"}
    key = made_up[caller] if caller in made_up else str(getattr(world, caller))
    method, path = route.format(**ids).split(" ")
    make = BODIES.get(route, BODIES.get(method))
    body = None if make is None else make(world)
    headers = {} if key is None else {"X-API-Key": key}
    with http.stream(method, path, json=body, headers=headers) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.read()  # the other goes on while a stop is open
        return answer


def test_the_table_has_every_route(settings: Settings) -> None:
    assert served_routes(settings) == set(TABLE)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", TABLE)
def test_status(
    anonymous: httpx.Client, world: World, accepted: Accepted, route: str, caller: str
) -> None:
    ids = accepted.ids()
    if "/operation" in route:
        ids["cvm_id"] = world.ours[2]  # one that no stop is open on
    answer = ask(anonymous, world, caller, route, ids)
    assert answer.status_code == TABLE[route][caller]
    if answer.status_code == 401:
        assert answer.json() == UNAUTHENTICATED
        assert answer.headers["www-authenticate"] == "Bearer"


class TestNothingIsTold:
    """To the stranger, of the member's workspace (I6)."""

    @pytest.mark.parametrize(
        "route",
        [
            name
            for name, statuses in TABLE.items()
            if statuses["stranger_key"] == 404 and statuses is not OFF
        ],
    )
    def test_a_foreign_thing_is_as_unknown_as_one_that_is_not(
        self, anonymous: httpx.Client, world: World, accepted: Accepted, route: str
    ) -> None:
        there = accepted.ids()
        nowhere = {name: str(uuid4()) for name in there}
        answers = []
        for ids in (there, nowhere):
            answer = ask(anonymous, world, "stranger_key", route, ids)
            told = answer.text
            for value in ids.values():
                told = told.replace(value, "the id that was asked for")
            answers.append((answer.status_code, told, set(answer.headers)))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404

    @pytest.mark.parametrize(
        "route", [name for name, statuses in TABLE.items() if statuses["member_key"] == 403]
    )
    @pytest.mark.parametrize("caller", ["member_key", "stranger_key"])
    def test_who_is_no_admin_learns_nothing_of_any_cvm(
        self, anonymous: httpx.Client, world: World, accepted: Accepted, route: str, caller: str
    ) -> None:
        """Theirs, being stopped, foreign, or not there: all the same, and nothing is done."""
        ids = [accepted.cvm_id, world.ours[1], world.theirs[0], "cvm_none", "%00"]
        answers = {ask(anonymous, world, caller, route, {"cvm_id": cvm_id}).text for cvm_id in ids}
        assert len(answers) == 1
        assert "admin" in answers.pop()

    @pytest.mark.parametrize(
        "route", ["GET /api/v1/batches", "GET /api/v1/stop-tasks", "GET /api/v1/webhooks"]
    )
    def test_lists_have_nothing_of_it(
        self, anonymous: httpx.Client, world: World, accepted: Accepted, route: str
    ) -> None:
        assert (
            accepted.cvm_id in ask(anonymous, world, "member_key", route, {}).text
            or "stop-tasks" not in route
        )
        answer = ask(anonymous, world, "stranger_key", route, {})
        assert answer.json() == {"items": [], "next_cursor": None}

    @pytest.mark.usefixtures("accepted")
    def test_a_cvm_of_it_cannot_be_stopped_or_told_from_none(
        self, anonymous: httpx.Client, world: World
    ) -> None:
        """Stoppable, being stopped, without a VM, rented, or not there: all the same."""
        ids = [world.ours[1], world.ours[0], world.busy, world.without_vm, world.rented, "cvm_none"]
        answer = anonymous.post(
            "/api/v1/cvms/batch-stop",
            json={"cvm_ids": ids},
            headers={"X-API-Key": world.stranger_key},
        )
        assert answer.json() == {
            "total": 6,
            "stopped": 0,
            "skipped": 0,
            "errors": [{"cvm_id": cvm_id, "error": "CVM not found"} for cvm_id in ids],
        }
