from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import typer

from cli.secret_input import MAX_BYTES, secret_from, text_from


if TYPE_CHECKING:
    from pathlib import Path


def test_line_ends_are_taken_off_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b" two  words \r\n")
    secret = secret_from("--token", variable=None, file=str(file))
    assert secret is not None
    assert secret.get_secret_value() == " two  words "
    assert "words" not in repr(secret)


def test_nothing_asked_for() -> None:
    assert secret_from("--token", variable=None, file=None) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff", "is not a text in UTF-8"),
        (b"x" * (MAX_BYTES + 1), "is too large"),
    ],
)
def test_unusable_file(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(typer.BadParameter, match=f"--ca-file: .*{problem}"):
        text_from("--ca-file", str(file))
