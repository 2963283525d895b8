"""No other site sends a form in somebody's name, and no session's form serves another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from shared.database import transaction


if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from fastapi import FastAPI
    from sqlalchemy import Engine

    from tests.api.conftest import World
    from tests.api.pages.conftest import Browser

ONCE = "00000000-0000-4000-8000-000000000000"


def batches(engine: Engine) -> int:
    with transaction(engine) as session:
        return int(session.execute(text("SELECT count(*) FROM stop_batches")).scalar_one())


def test_our_own_form_is_taken(member: Browser, clean: Engine, world: World) -> None:
    for site in ("same-origin", "none"):
        headers = {"Sec-Fetch-Site": site}
        answer = member.post("/new", {"ids": world.ours[0], "once": ONCE}, headers=headers)
        assert answer.status_code == 303
    answer = member.post("/new", {"ids": world.ours[0], "once": ONCE})
    assert answer.status_code == 303
    assert batches(clean) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "own"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "own.evil.example"},
        {"Origin": "http://["},
    ],
    ids=str,
)
def test_where_it_comes_from_is_looked_at(
    member: Browser, clean: Engine, world: World, headers: dict[str, str]
) -> None:
    """Even if its token is right."""
    headers = {name: value.replace("own", member.origin) for name, value in headers.items()}
    token = member.form_token()
    fields = {"ids": world.ours[0], "once": ONCE}
    answer = member.post("/new", fields, token=token, headers=headers)
    assert answer.status_code == 403
    assert "not sent from" in answer.text
    assert batches(clean) == 0


@pytest.mark.parametrize("token", ["", "0" * 64, "x", "ß", "\x00"])
def test_its_token_is_looked_at(member: Browser, clean: Engine, world: World, token: str) -> None:
    """Even if it comes from our own site."""
    answer = member.post("/new", {"ids": world.ours[0], "once": ONCE}, token=token)
    assert answer.status_code == 403
    assert "session that has ended" in answer.text
    assert batches(clean) == 0


def test_a_token_of_another_session_is_none(
    member: Browser, stranger: Browser, clean: Engine, world: World
) -> None:
    token = stranger.form_token()
    answer = member.post("/new", {"ids": world.ours[0], "once": ONCE}, token=token)
    assert answer.status_code == 403
    assert batches(clean) == 0


@pytest.mark.parametrize(
    "path",
    [
        "/sign-out",
        "/new",
        "/new/preview",
        "/failures/retry",
        f"/batches/{ONCE}/retry",
        f"/batches/{ONCE}/cancel",
        f"/stops/{ONCE}/retry",
        f"/stops/{ONCE}/cancel",
    ],
)
def test_every_form_is_guarded(member: Browser, path: str) -> None:
    assert member.post(path, token="").status_code == 403
    token = member.form_token()
    evil = {"Origin": "https://evil.example"}
    assert member.post(path, token=token, headers=evil).status_code == 403
    assert member.get("/batches").status_code == 200


def test_nobody_is_signed_in_by_another_site(nobody: Browser, world: World) -> None:
    """It would be as somebody else, who then sees what is done."""
    fields = {"api_key": world.stranger_key}
    for headers in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = nobody.post("/sign-in", fields, token="", headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


def test_a_body_that_is_no_form(member: Browser) -> None:
    for content_type in ("application/json", "text/plain", "multipart/form-data; boundary=x", ""):
        answer = member.http.post(
            "/new",
            content=b"ids=x",
            headers={"Content-Type": content_type, "Origin": member.origin},
        )
        assert answer.status_code == 400


def test_a_form_that_breaks_off_is_no_fault(api: FastAPI) -> None:
    """Anybody can do that, and would fill the log with tracebacks."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"api_key=", "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/sign-in",
        "raw_path": b"/sign-in",
        "query_string": b"",
        "headers": [(b"sec-fetch-site", b"same-origin")],
    }
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    with capture_logs() as logged:
        asyncio.run(api(scope, receive, send))
    assert statuses == [400]
    assert [line["event"] for line in logged] == ["request"]


def test_a_form_without_end(member: Browser) -> None:
    assert member.post("/new/preview", {"ids": "x" * 70_000}).status_code == 413
    assert member.post("/new/preview", {"cvm": ["x"] * 2_500}).status_code == 400


def test_pages_say_what_a_browser_may_do_with_them(member: Browser, nobody: Browser) -> None:
    paths = ("/batches", "/new", "/cvms", "/nothing/there", f"/batches/{ONCE}")
    answers = [member.get(path) for path in paths]
    answers += [nobody.get("/sign-in"), nobody.get("/batches"), member.post("/new", token="")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        for kind in ("script", "style", "connect"):
            assert f"{kind}-src 'self';" in policy
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        for wanted in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
            assert wanted in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
    for name in ("page.css", "page.js"):
        answer = nobody.get(f"/static/{name}")
        assert answer.headers["x-content-type-options"] == "nosniff"
        etag = answer.headers["etag"]
        same = nobody.get(f"/static/{name}", **{"If-None-Match": etag})
        assert same.status_code == 304
        assert same.headers["cache-control"] == answer.headers["cache-control"] == "no-cache"
    for name in ("nothing.css", "..%2Frendering.py", "%2e%2e%2frendering.py", "page.css%00"):
        assert nobody.get(f"/static/{name}").status_code == 404


def test_no_page_has_a_script_or_a_style_in_it(member: Browser) -> None:
    for path in ("/", "/batches", "/failures", "/cvms", "/new", "/sign-in"):
        html = member.get(path).text
        assert "<style" not in html
        assert " style=" not in html
        assert " onclick" not in html
        assert html.count("<script") == html.count('<script src="/static/page.js" defer></script>')


def test_methods_and_paths_that_there_are_not(member: Browser, api_url: str) -> None:
    answer = member.http.put("/batches", headers={"Accept": "text/html"})
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert "<h1>" in answer.text
    assert member.http.head("/batches").status_code == 200
    assert member.http.head("/batches").content == b""
    assert "<h1>" in member.get("/nothing").text
    assert httpx.get(f"{api_url}/nothing").json() == {"detail": "Not Found"}
    for path in ("/api/v1/nothing", "/metrics", "/api/v1/batches"):
        assert "application/json" in member.get(path).headers["content-type"]
