"""Reading `docker-compose.yml` as Compose reads it: anchors, variables, files of variables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from shared.sealing import new_sealing_key


if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]

COMPOSE_FILE = ROOT / "docker-compose.yml"

REQUIRED = {
    "CVMSTOP_POSTGRES_PASSWORD": "postgres-s3cret",
    "CVMSTOP_BROKER_PASSWORD": "broker-s3cret",
    "CVMSTOP_FLOWER_PASSWORD": "flower-s3cret",
    "CVMSTOP_SEALING_KEYS": new_sealing_key(),
}
"""Values for what has no default."""

REFERENCE = re.compile(
    r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<text>(?:[^${}]|\$\{[^{}]*\})*))?\})"
)
"""What Compose replaces, in the forms that the file uses: `$$`, `${A}`, `${A:-b}`, `${A:?b}`, and a
default that has such a reference in it. Source: Compose's documentation, "Interpolation".
"""


class ComposeError(Exception):
    """What `docker compose` would refuse."""


def read(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Read a Compose file: anchors are merged, then variables replaced.

    Raises
    ------
    ComposeError
        A required variable is missing or empty.
    """
    document: dict[str, Any] = _interpolated(yaml.safe_load(path.read_text()), variables)
    return document


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(part, variables) for key, part in value.items()}
    if isinstance(value, list):
        return [_interpolated(part, variables) for part in value]
    return REFERENCE.sub(lambda m: _value(m, variables), value) if isinstance(value, str) else value


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, how, text = match["name"], match["how"], match["text"]
    if name is None:
        return "$"
    if found := variables.get(name):
        return found
    if how == ":?":
        msg = f"required variable {name} is missing a value: {text}"
        raise ComposeError(msg)
    return str(_interpolated(text or "", variables))


def container_ports(service: Mapping[str, Any]) -> dict[int, int | None]:
    """Say what a service listens on: port in the container → published port, if it is."""
    ports: dict[int, int | None] = {int(port): None for port in service.get("expose", [])}
    for entry in service.get("ports", []):
        _, published, inner = entry.rsplit(":", 2)
        ports[int(inner)] = int(published)
    return ports


def read_env_file(path: Path) -> dict[str, str]:
    """Read a file of `NAME=value` lines."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: " ".join(shlex.split(value)) for name, value in pairs}
