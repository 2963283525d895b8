"""Looks for secrets where none may be: logs, rows, messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import psycopg
    from redis import Redis


def in_files(secrets: Mapping[str, str], files: Iterable[Path]) -> list[str]:
    """Give a sentence for each secret in each file that has it."""
    return [
        f"{name} is in {file.name}"
        for file in files
        for text in [file.read_bytes()]
        for name, secret in secrets.items()
        if secret.encode() in text
    ]


def in_rows(
    secrets: Mapping[str, str], connection: psycopg.Connection[tuple[Any, ...]]
) -> list[str]:
    """Give a sentence for each secret in each table that has it in any column."""
    tables = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    ).fetchall()
    found = []
    for (table,) in tables:
        query = sql.SQL("SELECT count(*) FROM {} AS row WHERE strpos(row::text, %s) > 0")
        for name, secret in secrets.items():
            [(count,)] = connection.execute(query.format(sql.Identifier(table)), [secret])
            if count:
                found.append(f"{name} is in {count} rows of {table}")
    return found


def in_messages(secrets: Mapping[str, str], broker: Redis) -> list[str]:
    """Give a sentence for each secret in the name or the value of a key of the broker's."""
    found = []
    for key in broker.scan_iter():
        value = f"{key!r} {_value(broker, key)!r}"
        found += [f"{name} is in {key!r}" for name, secret in secrets.items() if secret in value]
    return found


def _value(broker: Redis, key: Any) -> object:
    """Read a key, whatever it is; what DUMP gives may be compressed."""
    match broker.type(key):
        case b"string":
            return broker.get(key)
        case b"list":
            return broker.lrange(key, 0, -1)
        case b"set":
            return broker.smembers(key)
        case b"hash":
            return broker.hgetall(key)
        case b"zset":
            return broker.zrange(key, 0, -1)
        case kind:
            msg = f"a key of type {kind!r}: who wrote that?"
            raise AssertionError(msg)
