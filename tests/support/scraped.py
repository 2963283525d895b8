"""A page of metrics, as Prometheus reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families


if TYPE_CHECKING:
    from collections.abc import Iterable

TOKEN = "scrape-me-if-you-can"

METRICS = {"CVMSTOP_METRICS_TOKEN": TOKEN}
"""Environment of a process that may be scraped."""

PARTS = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
    "gauge": ("",),
    "unknown": ("",),
}
"""Of each type: how the names of its series end."""

Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Page:
    """Every series of a page, or of several together."""

    values: dict[Series, float]
    names: frozenset[str]
    """Of all series that there can be, also of families that have none yet."""

    @classmethod
    def parse(cls, text: str) -> Self:
        values: dict[Series, float] = {}
        names = set()
        for family in text_string_to_metric_families(text):
            names |= {f"{family.name}{part}" for part in PARTS[family.type]}
            for sample in family.samples:
                values[sample.name, frozenset(sample.labels.items())] = sample.value
        return cls(values, frozenset(names))

    @classmethod
    def sum(cls, pages: Iterable[Page]) -> Self:
        """Add up what has the same labels, as `sum without (instance)` does."""
        values: dict[Series, float] = {}
        names: frozenset[str] = frozenset()
        for page in pages:
            names |= page.names
            for series, value in page.values.items():
                values[series] = values.get(series, 0) + value
        return cls(values, names)

    def total(self, name: str, **labels: str) -> float:
        """Add up the series of a name that have these labels, whatever others they have."""
        wanted = set(labels.items())
        return sum(
            value for (each, has), value in self.values.items() if each == name and has >= wanted
        )

    def series(self, prefix: str = "cvmstop_") -> set[Series]:
        return {series for series in self.values if series[0].startswith(prefix)}


def scrape(url: str, *, token: str = TOKEN) -> Page:
    """Read a page as Prometheus does."""
    answer = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return Page.parse(answer.text)
