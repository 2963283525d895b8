"""What a process asks the database about all that is followed on it, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from shared.database import transaction
from shared.models.callers import Caller
from shared.storage import stop_changes as storage
from shared.storage.callers import find_callers
from shared.storage.page_sessions import find_open_sessions


if TYPE_CHECKING:
    from sqlalchemy import Engine

WATCH_LIFETIME = 60.0
"""Seconds for which PostgreSQL tells of a batch after a process has died. Prolonged in time."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is asked, and what is to be done."""

    watch: list[UUID] = field(default_factory=list)
    """Batches that PostgreSQL is to tell of."""
    unwatch: list[UUID] = field(default_factory=list)
    """Batches that it is to tell of no longer."""
    count: list[UUID] = field(default_factory=list)
    """Batches whose changes are to be counted."""
    keys: list[UUID] = field(default_factory=list)
    """Ids of API keys that may have become invalid."""
    sessions: list[bytes] = field(default_factory=list)
    """Digests of sessions of the page that may have ended."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What was found."""

    changes: dict[UUID, int]
    """By batch: how many are written; those without any are left out."""
    callers: set[Caller]
    """The holders of those of the keys that are valid."""
    sessions: set[bytes]
    """Those of the sessions that have not ended."""


def ask(engine: Engine, watcher: UUID, questions: Questions) -> Answers:
    """Ask, for a process that calls itself `watcher`.

    Raises
    ------
    DatabaseUnavailableError
        It does not answer.
    """
    if questions == Questions():
        return Answers(changes={}, callers=set(), sessions=set())
    lifetime = timedelta(seconds=WATCH_LIFETIME)
    changes: dict[UUID, int] = {}
    callers: set[Caller] = set()
    sessions: set[bytes] = set()
    with transaction(engine) as session:
        if questions.watch:
            storage.watch(session, watcher, questions.watch, lifetime=lifetime)
        if questions.unwatch:
            storage.unwatch(session, watcher, questions.unwatch)
        if questions.count:
            storage.delete_expired_watches(session)
            changes = storage.count_changes(session, questions.count)
        if questions.keys:
            callers = find_callers(session, questions.keys)
        if questions.sessions:
            sessions = find_open_sessions(session, questions.sessions)
    return Answers(changes=changes, callers=callers, sessions=sessions)
