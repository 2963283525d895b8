"""`cvmstop settings`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.exceptions import SettingsError
from shared.settings import Settings, load_settings


if TYPE_CHECKING:
    from tests.cli.conftest import Cvmstop


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_lists_variables_defaults_and_meanings(cvmstop: Cvmstop) -> None:
    out = cvmstop.must("settings").out
    assert "CVMSTOP_DATABASE_URL  (required)" in out
    assert "CVMSTOP_STOP_DEADLINE  (default 900.0)\n    A stop that is not confirmed" in out


def test_a_wrong_value_is_told_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "postgresql://user:hunter2@host/name")
    monkeypatch.setenv("CVMSTOP_LEASE", "hunter3")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    told = str(caught.value)
    assert "CVMSTOP_BROKER_URL is not set" in told
    assert "CVMSTOP_LEASE: " in told
    assert "hunter" not in told + repr(caught.value)


def test_a_turn_must_fit_into_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "BROKER_URL", "SEALING_KEYS"):
        monkeypatch.setenv(f"CVMSTOP_{name}", "x")
    monkeypatch.setenv("CVMSTOP_LEASE", "30")
    with pytest.raises(SettingsError, match="CVMSTOP_TURN_LIMIT must be shorter"):
        load_settings()
