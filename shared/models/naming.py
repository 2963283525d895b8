"""What names, ids and texts may look like, wherever they come from."""

from __future__ import annotations

import re
import secrets

from shared.exceptions import InvalidValueError


NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
"""Names of workspaces, users and hosts: safe in a command, a URL, a log line and a DNS label."""

CVM_ID = re.compile(r"cvm_[A-Za-z0-9_-]{1,60}")
"""Public ids of CVMs."""

NEW_CVM_ID_BYTES = 10
"""Random bytes in the ids that cvmstop makes: no two of a billion CVMs have the same."""

VM_UUID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids that a VM can have on its host. Source: dstack 0.6.0 refuses any other."""

STATUS = re.compile(r"[A-Za-z0-9_-]{1,63}")
"""A CVM's status: one word; of dstack-vmm's, or whatever an inventory says."""

SURROGATE = re.compile("[\ud800-\udfff]")
"""What bytes that are not UTF-8 become (PEP 383), and what `\\ud800` is in JSON."""

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""NUL, which PostgreSQL cannot store, and whatever else would break a line or a terminal."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What stands for a character that is not allowed (Unicode 16, 3.9)."""

TEXT_LENGTH = 200
"""Most characters of a free text (a CVM's name, what a key is for)."""


def new_cvm_id() -> str:
    """Make a public id for a CVM that has none."""
    return f"cvm_{secrets.token_hex(NEW_CVM_ID_BYTES)}"


def as_text(value: str, *, longest: int = TEXT_LENGTH) -> str:
    """Make a free text of what somebody else calls a thing: cut, and without what is not allowed.

    Gives an empty text for one of nothing but white space.
    """
    cut = value.strip()[:longest]
    return CONTROL.sub(REPLACEMENT, SURROGATE.sub(REPLACEMENT, cut))


def text_problem(value: str, *, longest: int = TEXT_LENGTH) -> str | None:
    """Say what is wrong with a free text; None when nothing is."""
    if len(value) > longest:
        return f"has {len(value)} characters, at most {longest} are allowed"
    if SURROGATE.search(value):
        return "is not valid UTF-8"
    if CONTROL.search(value):
        return "has a control character"
    return None


def require_name(value: str, kind: str) -> None:
    """Refuse what is no name.

    Parameters
    ----------
    value
        Any text.
    kind
        What is named, for the message.

    Raises
    ------
    InvalidValueError
        It is no name.
    """
    if not NAME.fullmatch(value):
        msg = (
            f"{kind} name {value[:100]!r}: 1 to 63 of letters, digits, '.', '_' and '-' are wanted"
        )
        raise InvalidValueError(msg)


def require_text(value: str, kind: str) -> None:
    """Refuse a text that is too long or that cannot be shown or stored.

    Raises
    ------
    InvalidValueError
        What is wrong with it.
    """
    if problem := text_problem(value):
        msg = f"{kind} {problem}"
        raise InvalidValueError(msg)
