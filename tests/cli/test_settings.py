"""`cvmstop settings`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.exceptions import SettingsError
from shared.settings import (
    ApiSettings,
    BrokerSettings,
    DatabaseSettings,
    LifetimeSettings,
    Settings,
)


if TYPE_CHECKING:
    from tests.cli.conftest import Cvmstop


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_lists_variables_defaults_and_meanings(cvmstop: Cvmstop) -> None:
    out = cvmstop.must("settings").out
    assert "CVMSTOP_DATABASE_URL  (required)" in out
    assert "CVMSTOP_API_URL  (required)" in out
    assert "CVMSTOP_API_KEY  (required)" in out
    assert "CVMSTOP_RETENTION  (default 7776000)" in out
    assert "CVMSTOP_STOP_DEADLINE  (default 900)\n    A stop that is not confirmed" in out


def test_a_wrong_value_is_told_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "postgresql://user:hunter2@host/name")
    monkeypatch.setenv("CVMSTOP_LEASE", "hunter3")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    told = str(caught.value)
    assert "CVMSTOP_BROKER_URL is not set" in told
    assert "CVMSTOP_LEASE: " in told
    assert "hunter" not in told + repr(caught.value)


def test_a_turn_must_fit_into_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "postgresql://host/name")
    monkeypatch.setenv("CVMSTOP_BROKER_URL", "redis://host/0")
    monkeypatch.setenv("CVMSTOP_SEALING_KEYS", "x")
    monkeypatch.setenv("CVMSTOP_LEASE", "30")
    with pytest.raises(SettingsError, match="CVMSTOP_TURN_LIMIT must be shorter"):
        Settings.load()


@pytest.mark.parametrize(
    ("kind", "variable", "value"),
    [
        (BrokerSettings, "CVMSTOP_BROKER_URL", "http://:hunter2@host/"),
        (BrokerSettings, "CVMSTOP_BROKER_URL", "hunter2"),
        (DatabaseSettings, "CVMSTOP_DATABASE_URL", "mysql://user:hunter2@host/name"),
    ],
)
def test_a_url_of_another_kind(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BrokerSettings | DatabaseSettings],
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable}: not a URL that begins with") as caught:
        kind.load()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("retention", "words"),
    [
        ("-1", "CVMSTOP_RETENTION: "),
        ("nan", "CVMSTOP_RETENTION: "),
        ("inf", "CVMSTOP_RETENTION: "),
        ("1e12", "CVMSTOP_RETENTION: "),
        ("90", "at least twice CVMSTOP_STOP_DEADLINE"),
        ("1799", "at least twice CVMSTOP_STOP_DEADLINE"),
    ],
)
def test_a_retention_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, retention: str, words: str
) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "postgresql://host/name")
    monkeypatch.setenv("CVMSTOP_RETENTION", retention)
    with pytest.raises(SettingsError, match=words):
        LifetimeSettings.load()


@pytest.mark.parametrize("retention", ["0", "1800"])
def test_a_retention_that_can_be(monkeypatch: pytest.MonkeyPatch, retention: str) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "postgresql://host/name")
    monkeypatch.setenv("CVMSTOP_RETENTION", retention)
    assert LifetimeSettings.load().retention == float(retention)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "flower.example.com",
        "https://user:hunter2@flower.example.com",
        "https://flower.example.com/a b",
        "ftp://flower.example.com",
        "https://",
    ],
)
def test_what_is_no_link_to_flower(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "postgresql://host/name")
    monkeypatch.setenv("CVMSTOP_BROKER_URL", "redis://host/0")
    monkeypatch.setenv("CVMSTOP_FLOWER_URL", url)
    with pytest.raises(SettingsError, match="CVMSTOP_FLOWER_URL: not a URL such as") as caught:
        ApiSettings.load()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("", None),
        (" https://flower.example.com/ ", "https://flower.example.com"),
        ("http://[::1]:5555/flower", "http://[::1]:5555/flower"),
    ],
)
def test_links_to_flower(monkeypatch: pytest.MonkeyPatch, url: str, kept: str | None) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "postgresql://host/name")
    monkeypatch.setenv("CVMSTOP_BROKER_URL", "redis://host/0")
    monkeypatch.setenv("CVMSTOP_FLOWER_URL", url)
    assert ApiSettings.load().flower_url == kept
