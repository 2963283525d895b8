"""The yard of `tests/shared`, for what works on its stops."""

from tests.shared.conftest import yard


__all__ = ["yard"]
