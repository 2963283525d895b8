"""Browsers, as far as these tests want them: they keep cookies, and say where a form comes from."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import httpx
import pytest


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.api.conftest import World

TOKEN = re.compile(r'name="form_token" value="([0-9a-f]+)"')


class Browser:
    """Somebody's browser."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.origin = str(http.base_url).rstrip("/")

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.http.get(path, headers={"Accept": "text/html", **headers})

    def post(
        self,
        path: str,
        fields: dict[str, Any] | None = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Send a form as one of our pages would, unless told otherwise."""
        token = self.form_token() if token is None else token
        sent = {"form_token": token, **(fields or {})}
        return self.http.post(
            path,
            content=urlencode(sent, doseq=True),
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept": "text/html",
                **({"Origin": self.origin} if headers is None else headers),
            },
        )

    def form_token(self) -> str:
        """Read it from a page; empty for who is not signed in."""
        found = TOKEN.search(self.get("/new").text)
        return found[1] if found else ""

    def sign_in(self, key: str, **fields: str) -> httpx.Response:
        return self.post("/sign-in", {"api_key": key, **fields}, token="")


@pytest.fixture
def browsers(api_url: str, world: World) -> Iterator[Callable[[str], Browser]]:  # noqa: ARG001 - its keys
    """Make browsers; with a key, signed in."""
    opened = []

    def open_one(key: str = "") -> Browser:
        http = httpx.Client(base_url=api_url)
        opened.append(http)
        browser = Browser(http)
        if key:
            assert browser.sign_in(key).status_code == 303
        return browser

    yield open_one
    for http in opened:
        http.close()


@pytest.fixture
def member(browsers: Callable[[str], Browser], world: World) -> Browser:
    return browsers(world.member_key)


@pytest.fixture
def boss(browsers: Callable[[str], Browser], world: World) -> Browser:
    return browsers(world.admin_key)


@pytest.fixture
def stranger(browsers: Callable[[str], Browser], world: World) -> Browser:
    return browsers(world.stranger_key)


@pytest.fixture
def nobody(browsers: Callable[[str], Browser]) -> Browser:
    return browsers("")


class Reader(HTMLParser):
    """What a page says, and what it is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return unescape(" ".join(self.words))
