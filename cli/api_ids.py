"""Ids of what the API has: looked at before they are sent, to say where the right ones are."""

from __future__ import annotations

from urllib.parse import quote
from uuid import UUID


LISTS = {
    "batches": ("a batch", "cvmstop batches list"),
    "stop-tasks": ("a stop", "cvmstop failures list"),
    "webhooks": ("a webhook", "cvmstop webhooks list"),
    "deliveries": ("a delivery", "cvmstop webhooks deliveries"),
}
"""Of the last part of a path: what is there, and the command that shows their ids."""


def why_no_id(things: str, thing_id: str) -> str | None:
    """Say in a line why a text cannot be the id of one of those things; None if it can."""
    try:
        UUID(thing_id)
    except ValueError:
        what, command = LISTS[things.rpartition("/")[2]]
        # As repr: it may be anything, and must not steer the terminal.
        return f"{thing_id!r} is not the id of {what}; `{command}` shows them"
    return None


def path_of(things: str, thing_id: str) -> str:
    """Give the path of one thing."""
    return f"/api/v1/{things}/{quote(thing_id, safe='')}"
