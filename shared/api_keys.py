"""What an API key looks like, and what is kept of it."""

from __future__ import annotations

import hashlib
import secrets


PREFIX = "cvmstop_"
"""Makes a key that was leaked into a text easy to find and to recognise."""

RANDOM_BYTES = 32
"""256 bits: nobody guesses one, so that a fast digest is enough."""

HINT_LENGTH = len(PREFIX) + 4
"""How much of a key is kept to tell keys apart."""


def new_api_key() -> str:
    """Make a key. It is shown once and kept nowhere."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def digest(api_key: str) -> bytes:
    """SHA-256 of a key: what the database keeps, and what it is found by."""
    return hashlib.sha256(api_key.encode()).digest()


def hint(api_key: str) -> str:
    """Give the part of a key that may be shown."""
    return api_key[:HINT_LENGTH]
