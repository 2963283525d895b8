"""The figures run, every side finishes, every stop succeeds; how fast is not judged here.

`measure` ends the program (`SystemExit`) when a side does not finish or a stop does not succeed.
"""

from __future__ import annotations

from bench.accept import measure_accept
from bench.drain import make_sides
from bench.drain import measure as measure_drain


def test_accept() -> None:
    figure = measure_accept(small=True)
    measured = {value.name: value.value for value in figure.values if value.unit == "ms"}
    assert set(measured) == {"floor", "stock", "cvmstop"}
    assert all(value > 0 for value in measured.values())


def test_drain() -> None:
    figure = measure_drain(small=True)
    measured = {value.name: value.value for value in figure.values if value.unit == "stops/s"}
    assert set(measured) == {side.name for side in make_sides()}
    assert all(value > 0 for value in measured.values())
