"""`docker-compose.yml`, as far as it can be proved without Docker."""

from __future__ import annotations

import configparser
import fnmatch
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from shared.sealing import Sealer
from shared.settings import Settings
from tests.support.compose import (
    COMPOSE_FILE,
    REQUIRED,
    ROOT,
    ComposeError,
    container_ports,
    read,
    read_env_file,
)


SECRET_NAME = re.compile("PASSWORD|AUTH|TOKEN|KEYS|_URL")
"""Environment variables whose values are secrets, or hold one."""

FOREIGN = {"postgresql", "valkey"}

WATCHERS = {"prometheus", "grafana"}

ONE_SHOTS = {"migrate", "cli", "demo-data"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return read(COMPOSE_FILE, REQUIRED)


@pytest.fixture(scope="module")
def services(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["services"]
    return found


def test_fits_the_schema_of_the_compose_specification() -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("check-jsonschema"),
            "--builtin-schema",
            "vendor.compose-spec",
            COMPOSE_FILE,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("missing", REQUIRED)
@pytest.mark.parametrize("value", [None, ""])
def test_secrets_are_required(missing: str, value: str | None) -> None:
    variables = {name: given for name, given in REQUIRED.items() if name != missing}
    if value is not None:
        variables[missing] = value
    with pytest.raises(ComposeError, match=rf"{missing}.*\.env\.example"):
        read(COMPOSE_FILE, variables)


def test_the_example_names_what_is_required_and_has_no_secret() -> None:
    assert read_env_file(ROOT / ".env.example") == dict.fromkeys(REQUIRED, "")


def test_the_demos_secrets_come_with_its_profile_and_a_project_of_its_own() -> None:
    demo = read_env_file(ROOT / "demo.env")
    assert demo["COMPOSE_PROFILES"] == "demo"
    assert demo["COMPOSE_PROJECT_NAME"] != yaml.safe_load(COMPOSE_FILE.read_text())["name"]
    assert demo["CVMSTOP_API_BIND"] == "127.0.0.1"
    assert demo.keys() >= REQUIRED.keys()
    read(COMPOSE_FILE, demo)
    for name in ("CVMSTOP_SEALING_KEYS", "CVMSTOP_WEBHOOK_KEYS"):
        Sealer(SecretStr(demo[name]))
    text = COMPOSE_FILE.read_text()
    assert not [name for name in REQUIRED if demo[name] in text]


def test_no_secret_outside_the_demo_has_a_default(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if service.get("profiles") == ["demo"]:
            continue
        for variable, value in service.get("environment", {}).items():
            if variable in {"CVMSTOP_METRICS_TOKEN", "CVMSTOP_WEBHOOK_KEYS"}:
                assert value == ""  # none, and so no metrics or no webhooks
            if variable == "CVMSTOP_METRICS_TOKEN":
                assert value == ""  # none, and so no metrics
            elif variable == "CVMSTOP_FLOWER_URL":
                assert "@" not in value  # a link, for people
            elif SECRET_NAME.search(variable):
                assert any(secret in value for secret in REQUIRED.values()), (name, variable)


def test_each_service_gets_only_the_secrets_that_it_needs(services: dict[str, Any]) -> None:
    def holders(variable: str) -> set[str]:
        secret = REQUIRED[variable]
        return {name for name, service in services.items() if secret in str(service)}

    database = {"migrate", "api", "worker", "housekeeping", "cli", "demo-data"}
    broker = {"valkey", "beat", "flower"} | database
    assert holders("CVMSTOP_POSTGRES_PASSWORD") == {"postgresql"} | database
    assert holders("CVMSTOP_SEALING_KEYS") == database - {"migrate", "api"}
    assert holders("CVMSTOP_BROKER_PASSWORD") == broker
    assert holders("CVMSTOP_FLOWER_PASSWORD") == {"flower"}
    for name, service in services.items():
        assert "database" not in service["networks"] or name in {"postgresql"} | database
        assert "broker" not in service["networks"] or name in broker


def test_who_has_the_keys_of_webhooks_and_a_way_out() -> None:
    """The API, which takes endpoints, and who sends; and that one has no way to the VM hosts."""
    services = read(COMPOSE_FILE, {**REQUIRED, "CVMSTOP_WEBHOOK_KEYS": "made-up"})["services"]
    holders = {name for name, service in services.items() if "made-up" in str(service)}
    assert holders == {"api", "housekeeping"}
    assert [name for name, each in services.items() if "outside" in each["networks"]] == [
        "housekeeping"
    ]
    assert "hosts" not in services["housekeeping"]["networks"]


def test_what_can_be_reached_from_outside_and_from_where(
    document: dict[str, Any], services: dict[str, Any]
) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "api": ["127.0.0.1:8000:8000"],
        "flower": ["127.0.0.1:5555:5555"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    assert {name for name, network in document["networks"].items() if network.get("internal")} == {
        "database",
        "broker",
        "monitoring",
    }
    assert "hosts" not in services["api"]["networks"]
    moved = {**REQUIRED, "CVMSTOP_API_BIND": "0.0.0.0", "CVMSTOP_API_PORT": "80"}  # noqa: S104 - on purpose
    moved["CVMSTOP_FLOWER_PORT"] = "81"
    changed = read(COMPOSE_FILE, moved)["services"]
    assert changed["api"]["ports"] == ["0.0.0.0:80:8000"]
    assert changed["flower"]["ports"] == ["127.0.0.1:81:5555"]


def test_what_should_run_is_kept_running_and_watched(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped"), name
        # Beat answers nobody: see its comment.
        assert ("healthcheck" in service) == (name not in ONE_SHOTS | {"beat"}), name
        if name not in FOREIGN | WATCHERS:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_any_number_of_workers_and_each_may_end_its_turns(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert worker.keys().isdisjoint({"container_name", "hostname", "ports"})
    assert (
        float(worker["stop_grace_period"].removesuffix("s"))
        > Settings.model_fields["turn_limit"].get_default()
    )


def test_one_service_builds_the_image_of_all_and_none_pulls_it(services: dict[str, Any]) -> None:
    ours = {name: service for name, service in services.items() if name not in FOREIGN | WATCHERS}
    assert {service["image"] for service in ours.values()} == {"cvmstop:local"}
    assert [name for name, service in ours.items() if "build" in service] == ["migrate"]
    assert {service["pull_policy"] for service in ours.values()} == {"build", "never"}


def test_what_the_dockerfile_copies_is_in_the_build_context() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignore if line.startswith("!")]
    copied = [
        source
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    assert "*" in ignore
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source
    assert not [name for name in (".env", "demo.env", ".git", "tests") if name in kept]


def test_every_port_of_the_file_is_spoken_for(services: dict[str, Any]) -> None:
    listening = {name for name, service in services.items() if container_ports(service)}
    hosts = {f"simulated-host-{number}" for number in (1, 2, 3)}
    workers = {"worker", "housekeeping"}
    assert listening == FOREIGN | WATCHERS | {"api", "flower"} | workers | hosts


class TestMonitoring:
    """Its profile: nothing of it runs unless asked for, and no metrics without a token."""

    def test_it_is_a_profile_of_pinned_images(self, services: dict[str, Any]) -> None:
        for name in WATCHERS:
            assert services[name]["profiles"] == ["monitoring"]
            assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", services[name]["image"])
            assert services[name]["networks"] == ["monitoring", "front"]

    def test_who_has_the_token(self) -> None:
        document = read(COMPOSE_FILE, {**REQUIRED, "CVMSTOP_METRICS_TOKEN": "a-metrics-t0ken"})
        holders = {
            name
            for name, service in document["services"].items()
            if "a-metrics-t0ken" in str(service)
        }
        assert holders == {"api", "worker", "housekeeping"}
        assert document["configs"]["metrics-token"]["content"] == "a-metrics-t0ken"

    def test_files_are_there_and_mounted_where_they_are_looked_for(
        self, document: dict[str, Any]
    ) -> None:
        for config in document["configs"].values():
            assert "content" in config or (ROOT / config["file"]).is_file(), config
        mounted = {
            config["target"]: config["source"]
            for name in WATCHERS
            for config in document["services"][name]["configs"]
        }
        assert set(mounted.values()) == set(document["configs"]) - {"valkey"}
        grafana = configparser.ConfigParser()
        grafana.read(ROOT / "monitoring/grafana/grafana.ini")
        assert grafana["dashboards"]["default_home_dashboard_path"] in mounted
        assert grafana["auth.anonymous"]["org_role"] == "Viewer"
        assert grafana["auth"]["disable_login_form"] == "true"
        provider = self.load("grafana/dashboards.yml")["providers"][0]
        assert provider["options"]["path"] in mounted
        home = document["services"]["grafana"]["environment"]["GF_PATHS_PROVISIONING"]
        assert {f"{home}/datasources/prometheus.yml", f"{home}/dashboards/cvmstop.yml"} <= set(
            mounted
        )

    def test_prometheus_asks_every_process_where_it_listens(self, document: dict[str, Any]) -> None:
        config = self.load("prometheus.yml")
        targets = {}
        for job in config["scrape_configs"]:
            assert job["authorization"]["credentials_file"] == "/etc/prometheus/metrics-token"
            (found,) = job["dns_sd_configs"]
            (service,) = found["names"]
            targets[service] = found["port"]
        assert targets == {"api": 8000, "worker": 9464, "housekeeping": 9464}
        for service, port in targets.items():
            assert port in container_ports(document["services"][service])
            assert "monitoring" in document["services"][service]["networks"]
        assert config["rule_files"] == ["alerts.yml"]
        datasource = self.load("grafana/datasource.yml")["datasources"][0]
        assert datasource["url"] == "http://prometheus:9090"

    @staticmethod
    def load(name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load((ROOT / "monitoring" / name).read_text())
        return loaded
