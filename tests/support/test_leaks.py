"""Whoever looks for secrets must find them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from redis import Redis

from tests.support import leaks
from tests.support.seeds import make_workspace


if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr
    from sqlalchemy.orm import Session

SECRETS = {"the key": "s3cr3t"}


def test_in_files(tmp_path: Path) -> None:
    for name, text in (("good", "nothing"), ("bad", "now s3cr3t is out")):
        (tmp_path / name).write_text(text)
    assert leaks.in_files(SECRETS, tmp_path.iterdir()) == ["the key is in bad"]


def test_in_rows(session: Session, database_url: SecretStr) -> None:
    make_workspace(session, "has-s3cr3t-in-it")
    session.commit()
    with psycopg.connect(database_url.get_secret_value()) as connection:
        assert leaks.in_rows(SECRETS, connection) == ["the key is in 1 rows of workspaces"]
        assert leaks.in_rows({"another": "else"}, connection) == []


def test_in_messages(valkey: str) -> None:
    with Redis.from_url(valkey) as client:
        client.lpush("good", "nothing")
        client.lpush("bad", "s3cr3t")
        assert leaks.in_messages(SECRETS, client) == ["the key is in b'bad'"]
