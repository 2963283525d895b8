"""`monitoring/`: alerts, dashboard and page name the same metrics, and `docs/monitoring.md` all.

`make monitoring` has promtool check the rules, and try each of them.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from api.metrics import ApiMetrics
from shared.database import transaction
from shared.metrics import make_page
from tests.support.compose import ROOT
from tests.support.scraped import Page
from tests.support.seeds import make_host
from workers.metrics import WorkerMetrics


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

MONITORING = ROOT / "monitoring"

NAME = re.compile(r"\b(?:cvmstop|process)_\w+")
"""Metrics in an expression: ours, and those that every process has."""


@pytest.fixture
def pages(clean: Engine) -> tuple[Page, Page]:
    """Give what the API and a worker serve when there is a host."""
    with transaction(clean) as session:
        make_host(session, name="node-1")
    registries = (ApiMetrics(clean).registry, WorkerMetrics().registry)
    api, worker = (Page.parse(make_page(registry).decode()) for registry in registries)
    return api, worker


@pytest.fixture
def names(pages: tuple[Page, Page]) -> set[str]:
    return {name for page in pages for name in page.names}


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_expressions() -> list[str]:
    def found(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("expr"), str):
                yield value["expr"]
            for part in value.values():
                yield from found(part)
        elif isinstance(value, list):
            for part in value:
                yield from found(part)

    return list(found(json.loads((MONITORING / "dashboard.json").read_text())))


def test_alerts_name_what_there_is(rules: list[dict[str, Any]], names: set[str]) -> None:
    for rule in rules:
        used = set(NAME.findall(rule["expr"]))
        assert used, rule
        assert used <= names, rule


def test_the_dashboard_names_what_there_is(names: set[str]) -> None:
    expressions = dashboard_expressions()
    assert len(expressions) > 20
    for expression in expressions:
        used = set(NAME.findall(expression))
        assert used or "ALERTS" in expression, expression
        assert used <= names, expression


def test_the_dashboard_shows_every_metric_that_is_the_products(names: set[str]) -> None:
    shown = {name for expression in dashboard_expressions() for name in NAME.findall(expression)}
    shown |= {
        name
        for rule in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
        for name in NAME.findall(rule["expr"])
    }
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in names}
    ours = {family for family in families if family.startswith("cvmstop_")} - {"cvmstop_build_info"}
    assert ours == {re.sub("_(bucket|sum|count)$", "", name) for name in shown if name[:3] == "cvm"}


def test_what_the_rows_know_is_never_added_up_over_processes(
    rules: list[dict[str, Any]], pages: tuple[Page, Page]
) -> None:
    """Two API processes say the same: `max` over them comes first."""
    known = {name for name, labels in pages[0].series() if ("host", "node-1") in labels}
    known.add("cvmstop_database_up")
    known.add("cvmstop_oldest_due_webhook_delivery_age_seconds")
    assert len(known) == 7
    for expression in [*dashboard_expressions(), *(rule["expr"] for rule in rules)]:
        for found in re.finditer("|".join(known), expression):
            before = expression[: found.start()]
            assert re.search(r"(max(?: by \([^)]*\))? ?\(|absent\()$", before), expression


def test_every_alert_is_tried_and_explained(rules: list[dict[str, Any]]) -> None:
    alerts = {rule["alert"] for rule in rules}
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    tried = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert tried == alerts
    assert alerts == set(re.findall(r"^\| `(Cvmstop\w+)`", read_document(), re.MULTILINE))


def test_every_metric_is_explained(names: set[str]) -> None:
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in names}
    explained = set(re.findall(r"^\| `(cvmstop_\w+)", read_document(), re.MULTILINE))
    assert explained == {family for family in families if family.startswith("cvmstop_")}


def read_document() -> str:
    return (ROOT / "docs" / "monitoring.md").read_text()
