"""Whatever a name, an error or a host's answer has in it: it is shown, and does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, update

from api.pages.wording import shown, span
from shared.database import transaction
from shared.tables import ApiKey, Cvm, StopAttempt, StopBatch, VmHost, Workspace
from tests.api.pages.conftest import Reader
from tests.support.seeds import make_ended_stop


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.api.conftest import World
    from tests.api.pages.conftest import Browser

EVIL = "<script>alert(1)</script>'\"><img src=x onerror=alert(1)>{{ 7*7 }}"

TURNED = "cvm \u202egpj.exe\u2066 \u200bx\ty\x1b[31m"

UNTURNED = "cvm \\u202egpj.exe\\u2066 \\u200bx\\ty\\x1b[31m"


@pytest.fixture
def paths(clean: Engine, world: World) -> list[str]:
    """Put them wherever somebody else has a say, and say where that is shown."""
    with transaction(clean) as session:
        cvm = session.scalars(select(Cvm).where(Cvm.hash_id == world.ours[0])).one()
        cvm.name = EVIL
        other = session.scalars(select(Cvm).where(Cvm.hash_id == world.ours[1])).one()
        other.name = TURNED
        key = session.scalars(select(ApiKey).limit(1)).one()
        key.workspace_id = cvm.workspace_id
        exchange: dict[str, Any] = {"request": EVIL, "answer": EVIL + TURNED, "seconds": 1.0}
        task = make_ended_stop(
            session,
            cvm,
            key,
            state="failed",
            error_code="host_error",
            error_message=EVIL + TURNED,
            attempt=1,
        )
        session.add(
            StopAttempt(
                stop_task_id=task.id,
                number=1,
                worker=EVIL,
                outcome="failed",
                error_code="host_error",
                error_message=EVIL,
                exchanges=[exchange, exchange],
            )
        )
        session.execute(
            update(StopBatch).values(
                errors=[{"cvm_id": EVIL + TURNED, "error": EVIL}], total=2, request_id=EVIL
            )
        )
        session.execute(update(VmHost).values(name="node-1", last_error=EVIL, unreachable_count=1))
        assert session.scalars(select(Workspace)).all()
        return [
            "/",
            "/batches",
            f"/batches/{task.batch_id}",
            f"/stops/{task.id}",
            "/cvms",
            f"/cvms/{cvm.hash_id}",
            f"/cvms/{other.hash_id}",
            "/failures",
        ]


@pytest.mark.parametrize("who", ["member", "boss"])
def test_markup_is_text(request: pytest.FixtureRequest, paths: list[str], who: str) -> None:
    browser: Browser = request.getfixturevalue(who)
    seen = 0
    for path in paths:
        answer = browser.get(path)
        assert answer.status_code == 200, path
        reader = Reader(answer.text)
        assert [attrs for tag, attrs in reader.tags if tag == "script"] == [
            {"src": "/static/page.js", "defer": None}
        ], path
        assert not [tag for tag, _ in reader.tags if tag == "img"]
        assert not [attrs for _, attrs in reader.tags if any(n.startswith("on") for n in attrs)]
        assert "49" not in reader.text.split("<script>alert(1)")
        seen += "<script>alert(1)</script>" in reader.text
        for turning in "\u202e\u2066\u200b\x1b":
            assert turning not in answer.text, path
    assert seen >= 5


def test_what_was_asked_for_is_text(member: Browser) -> None:
    asked = {"ids": "x", "host": EVIL, "status": EVIL, "cvm_id": EVIL, "request_id": EVIL}
    for path in ("/cvms", "/failures", "/batches", "/sign-in", "/new"):
        answer = member.http.get(path, params={**asked, "next": EVIL, "cursor": ""})
        assert answer.status_code == 200
        assert "<script>" not in answer.text
        assert "<img" not in answer.text
    for path in (f"/{EVIL}", f"/cvms/{EVIL}", f"/batches/{EVIL}"):
        answer = member.get(path)
        assert answer.status_code == 404
        assert "<script>" not in answer.text
    answer = member.http.get("/failures", params={"error_code": EVIL})
    assert answer.status_code == 422
    assert "<img" not in answer.text


def test_names_that_turn_are_kept_apart(member: Browser, paths: list[str]) -> None:
    page = member.get(paths[4]).text
    assert f"<bdi>{UNTURNED}</bdi>" in page


def test_what_is_written_out() -> None:
    assert shown(TURNED) == UNTURNED
    assert shown("größer 東京 🙂") == "größer 東京 🙂"
    assert shown("a\nb\u2028\x00") == "a\\nb\\u2028\\x00"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.85, "850 ms"),
        (12.34, "12.3 s"),
        (59.99, "60.0 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (86_400, "1 d"),
        (100_000, "1 d 3 h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
