"""Signing in and out, and what ends a session."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import psycopg
import pytest
from fastapi import Request
from pydantic import SecretStr
from sqlalchemy import text

from api.events import feeds, stream
from api.main import create_app
from api.pages.session_cookie import SECURE_SESSION, SESSION
from api.pages.sign_in import network_of
from shared.api_keys import digest
from shared.database import transaction
from shared.services import access
from tests.api.pages.conftest import Browser
from tests.support.leaks import in_rows
from tests.support.served_api import served_api


if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World


def is_signed_in(browser: Browser) -> bool:
    answer = browser.get("/batches")
    assert answer.status_code in {200, 303}
    return answer.status_code == 200


def test_a_key_opens_the_pages(nobody: Browser, world: World) -> None:
    answer = nobody.sign_in(world.member_key)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    assert is_signed_in(nobody)
    assert "alice" in nobody.get("/batches").text


@pytest.mark.parametrize("name", ["revoked_key", "expired_key", "orphan_key"])
def test_no_other_key_does(nobody: Browser, world: World, name: str) -> None:
    for key in (getattr(world, name), "cvmstop_nonsense", "", "\x00", "ключ", "x" * 5000):
        answer = nobody.sign_in(key)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        assert "no API key that is valid" in answer.text
        assert not key.strip() or key not in answer.text
    assert not is_signed_in(nobody)


def test_the_cookie_is_for_nobody_else(nobody: Browser, world: World) -> None:
    cookie = nobody.sign_in(world.member_key).headers["set-cookie"]
    name, _, rest = cookie.partition("=")
    assert name == SESSION
    for wanted in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
        assert wanted.lower() in rest.lower()
    assert "domain" not in rest.lower()
    assert world.member_key not in cookie


def test_the_cookie_of_https_cannot_have_come_by_http(nobody: Browser, world: World) -> None:
    """A proxy ends TLS: the browser's Origin says so."""
    host = httpx.URL(nobody.origin).netloc.decode()
    headers = {"Origin": f"https://{host}"}
    answer = nobody.post("/sign-in", {"api_key": world.member_key}, token="", headers=headers)
    name, _, rest = answer.headers["set-cookie"].partition("=")
    assert name == SECURE_SESSION
    assert "secure" in rest.lower()


def test_signing_out_ends_it_for_every_copy(member: Browser, nobody: Browser) -> None:
    nobody.http.cookies.update(member.http.cookies)
    assert is_signed_in(nobody)
    answer = member.post("/sign-out")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in"
    assert SESSION not in member.http.cookies
    assert not is_signed_in(member)
    assert not is_signed_in(nobody)


@pytest.mark.parametrize("how", ["signed out", "expired"])
def test_what_follows_a_batch_ends_with_its_session(
    browsers: Callable[[str], Browser],
    clean: Engine,
    world: World,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody else's does; one with a key in its header has no session."""
    monkeypatch.setattr(feeds, "ROUND_INTERVAL", 0.2)
    monkeypatch.setattr(stream, "HEARTBEAT", 1.0)
    follower, other = browsers(world.member_key), browsers(world.member_key)
    answer = follower.post("/new", {"ids": world.ours[0], "once": str(uuid4())})
    batch = answer.headers["location"].partition("?")[0]
    key = {"X-API-Key": world.member_key}
    with (
        follower.http.stream("GET", f"{batch}/events", timeout=60) as followed,
        other.http.stream("GET", f"{batch}/events", timeout=60) as others,
        other.http.stream("GET", f"/api/v1{batch}/events", headers=key, timeout=60) as the_apis,
    ):
        assert {followed.status_code, others.status_code, the_apis.status_code} == {200}
        going_on, also_going_on = others.iter_lines(), the_apis.iter_lines()
        if how == "signed out":
            assert follower.post("/sign-out").status_code == 303
        else:
            with transaction(clean) as session:
                session.execute(
                    text("UPDATE page_sessions SET expires_at = now() WHERE digest = :digest"),
                    {"digest": digest(follower.http.cookies[SESSION])},
                )
        comments = 0
        for line in followed.iter_lines():
            comments += line.startswith(":")
            assert comments < 10, "it goes on"
        for lines in (going_on, also_going_on):
            assert any(line.startswith(":") for line in lines)
            assert next(lines) == ""


def test_signing_in_again_ends_the_session_before(
    member: Browser, nobody: Browser, world: World
) -> None:
    nobody.http.cookies.update(member.http.cookies)
    member.sign_in(world.admin_key)
    assert is_signed_in(member)
    assert not is_signed_in(nobody)


def test_a_revoked_key_ends_it_at_the_next_request(
    member: Browser, clean: Engine, world: World
) -> None:
    assert is_signed_in(member)
    with transaction(clean) as session:
        access.revoke_key(session, world.member_key[:12])
    answer = member.get("/batches")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fbatches&ended=1"
    assert SESSION not in member.http.cookies
    assert "Your session has ended: sign in again." in member.get(answer.headers["location"]).text
    # Who comes for the first time has had none.
    assert member.get("/batches").headers["location"] == "/sign-in?next=%2Fbatches"
    assert "has ended" not in member.get("/sign-in?next=%2Fbatches").text


def test_a_form_after_that_does_nothing(member: Browser, clean: Engine, world: World) -> None:
    token = member.form_token()
    with transaction(clean) as session:
        access.revoke_user(session, "alice")
    answer = member.post("/new", {"ids": world.ours[0], "once": "x"}, token=token)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?ended=1"


def test_it_ends_by_itself(member: Browser, clean: Engine) -> None:
    with transaction(clean) as session:
        session.execute(text("UPDATE page_sessions SET expires_at = now() - interval '1 second'"))
    assert not is_signed_in(member)


def test_who_signs_in_tidies_up(
    member: Browser, nobody: Browser, clean: Engine, world: World
) -> None:
    del member
    with transaction(clean) as session:
        left = session.execute(text("SELECT expires_at - now() FROM page_sessions")).scalar_one()
        assert timedelta(hours=11) < left <= timedelta(hours=12)
        session.execute(text("UPDATE page_sessions SET expires_at = now()"))
    nobody.sign_in(world.member_key)
    with transaction(clean) as session:
        assert session.execute(text("SELECT count(*) FROM page_sessions")).scalar_one() == 1


def test_nobody_signs_in_with_what_the_database_has(member: Browser, settings: Settings) -> None:
    token = member.http.cookies[SESSION]
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        assert not in_rows({"the cookie": token}, connection)
        [(digest,)] = connection.execute(
            "SELECT encode(digest, 'hex') FROM page_sessions"
        ).fetchall()
    member.http.cookies.set(SESSION, digest)
    assert not is_signed_in(member)


def test_the_cookie_opens_no_api(member: Browser, world: World) -> None:
    for path in ("/api/v1/batches", "/api/v1/cvms", "/api/v1/stop-tasks"):
        assert member.get(path).status_code == 401
    answer = member.http.post("/api/v1/cvms/batch-stop", json={"cvm_ids": world.ours[:1]})
    assert answer.status_code == 401


def test_a_key_in_a_header_opens_no_page(nobody: Browser, world: World) -> None:
    answer = nobody.http.get("/batches", headers={"X-API-Key": world.admin_key})
    assert answer.status_code == 303


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.example",
        "/\\evil.example",
        "/\\/evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "\\\\evil.example",
        "/x\r\nSet-Cookie: a=b",
        "/\t/evil.example",
        " //evil.example",
        "evil.example",
        "/%0d%0a" + "\u0000",
    ],
)
def test_signing_in_leads_nowhere_else(nobody: Browser, world: World, wanted: str) -> None:
    answer = nobody.sign_in(world.member_key, next=wanted)
    assert answer.headers["location"] == "/"
    assert httpx.URL(answer.headers["location"]).is_relative_url


def test_signing_in_leads_back(nobody: Browser, world: World) -> None:
    asked = nobody.get("/failures?host=node-1&error_code=host_error")
    page = nobody.get(asked.headers["location"])
    assert 'value="/failures?host=node-1&amp;error_code=host_error"' in page.text
    answer = nobody.sign_in(world.member_key, next="/failures?host=node-1&error_code=host_error")
    assert answer.headers["location"] == "/failures?host=node-1&error_code=host_error"


def test_a_link_from_elsewhere_finds_the_session(member: Browser) -> None:
    """Browsers send no `SameSite=Strict` cookie with it: a page of ours goes on to that place."""
    cookies = dict(member.http.cookies)
    member.http.cookies.clear()
    page = member.get("/batches?cursor=", **{"Sec-Fetch-Site": "cross-site"})
    assert page.status_code == 200
    assert 'http-equiv="refresh" content="0; url=/batches?cursor="' in page.text
    assert member.get("/batches", **{"Sec-Fetch-Site": "same-origin"}).status_code == 303
    member.http.cookies.update(cookies)
    assert is_signed_in(member)


def test_a_form_from_elsewhere_goes_on_to_nothing(nobody: Browser) -> None:
    """It would come back as a request to read what only takes forms."""
    answer = nobody.post("/sign-out", {}, headers={"Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


def test_keys_cannot_be_guessed_at_will(browsers: Callable[[str], Browser], world: World) -> None:
    browser = browsers("")
    statuses = [browser.sign_in("cvmstop_guess").status_code for _ in range(25)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    answer = browser.sign_in(world.member_key)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_by_https_a_cookie_that_came_by_http_counts_for_nothing(
    member: Browser, nobody: Browser
) -> None:
    """Whoever is between a browser and us by HTTP can set one."""
    token = member.http.cookies[SESSION]
    by_https = {"X-Forwarded-Proto": "https"}
    assert member.get("/batches", **by_https).status_code == 303
    nobody.http.cookies.set(SECURE_SESSION, token)
    assert nobody.get("/batches", **by_https).status_code == 200


def test_requests_of_the_page_are_counted_with_the_keys_others(
    api_settings: Settings, world: World
) -> None:
    limited = api_settings.model_copy(update={"rate_limit": "3/hour"})
    with served_api(create_app(limited)) as url, httpx.Client(base_url=url) as http:
        browser = Browser(http)
        browser.sign_in(world.member_key)
        statuses = [browser.get("/batches").status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        answer = browser.get("/batches")
        assert int(answer.headers["retry-after"]) >= 1
        assert "too many requests" in answer.text


def test_a_database_that_is_away_is_a_page(api_settings: Settings) -> None:
    away = SecretStr("postgresql://nobody@127.0.0.1:1/none")
    app = create_app(api_settings.model_copy(update={"database_url": away}))
    # Without its lifespan, which would not start on a database that is away.
    transport = httpx.ASGITransport(app)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            http.cookies.set(SESSION, "x")
            return await http.get("/batches", headers={"Accept": "text/html"})

    answer = asyncio.run(ask())
    app.state.parts.close()
    assert answer.status_code == 503
    assert "the database does not answer" in answer.text
    assert "127.0.0.1" not in answer.text
    assert answer.headers["x-request-id"] in answer.text


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("somewhere", "somewhere"),
    ],
)
def test_whose_attempts_are_counted_together(client: str, counted: str) -> None:
    assert network_of(Request({"type": "http", "client": (client, 1)})) == counted
