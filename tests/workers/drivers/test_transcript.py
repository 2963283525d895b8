from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.drivers.transcript import MAX_TEXT, Transcriber


@given(st.text(alphabet=st.characters(), max_size=2_000))
def test_every_text_becomes_one_that_everything_takes(text: str) -> None:
    shown = Transcriber([]).clean(text)
    assert shown.isprintable()
    assert len(shown) <= MAX_TEXT
    shown.encode()


@given(st.binary(max_size=2_000))
def test_every_body_can_be_shown(body: bytes) -> None:
    assert Transcriber(["a"]).show(body).isprintable()


def test_plain_text_stays() -> None:
    assert Transcriber([]).show('{\n  "error": "naïve"\n}'.encode()) == '{ "error": "naïve" }'


def test_a_long_text_is_cut() -> None:
    assert Transcriber([]).clean("x" * 600) == "x" * 499 + "…"


def test_a_secret_is_hidden_before_the_text_is_cut() -> None:
    shown = Transcriber(["sesame"]).clean("x" * 496 + "sesame")
    assert "ses" not in shown


def test_a_secret_that_is_part_of_another() -> None:
    assert Transcriber(["abc", "abcdef", ""]).clean("abcdef abc") == "[hidden] [hidden]"
