"""The compose file: every key of it is known, and what it mounts, publishes and scrapes is there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from board_kit import ROOT
from compose_spec import PyCompose

from mooring.config.settings import DEFAULTS
from mooring.config.sources.loading import load_config

FOLDER = ROOT / "deploy/compose"
# As compose fills the variables: with their defaults, and with a folder for the one that has to be given.
TEXT = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", (FOLDER / "compose.yaml").read_text())
TEXT = TEXT.replace("${MODELS:?the folder of models}", "/srv/models")
SERVICES = yaml.safe_load(TEXT)["services"]
PROMTOOL = shutil.which("promtool")


def mounts(service: str) -> dict[str, Path]:
    """The files and folders of the repository that a service sees, by their places in it."""
    found = {}
    for each in SERVICES[service]["volumes"]:
        source, place, *_ = each.split(":")
        if source.startswith("."):
            found[place] = (FOLDER / source).resolve()
    return found


def test_every_key_is_one_of_compose_files():
    assert PyCompose.from_yaml(TEXT).service_names() == list(SERVICES)


@pytest.mark.parametrize(
    ("known", "typed"),
    [
        ("stop_grace_period", "stop_grace_periode"),
        ("read_only", "readonly"),
        ("pids", "pid"),
        ("tmpfs", "tmps"),
    ],
)
def test_a_misspelt_key_is_found(known, typed):
    assert TEXT.count(f" {known}:") == 1
    with pytest.raises(ValueError, match=typed):
        PyCompose.from_yaml(TEXT.replace(f" {known}:", f" {typed}:"))


def test_every_file_that_is_mounted_is_there_and_nothing_can_write_to_it():
    for name in SERVICES:
        for place, file in mounts(name).items():
            assert file.exists(), f"{name}: {place}"
        written = [each for each in SERVICES[name]["volumes"] if each[0] in "./" and not each.endswith(":ro")]
        assert written == []


def test_the_server_is_as_the_image_says_and_without_rights():
    server = SERVICES["mooring"]
    build = server["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).resolve() == ROOT / "deploy/Dockerfile"
    assert server["read_only"]
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert float(server["stop_grace_period"].removesuffix("s")) > DEFAULTS.drain_timeout
    published = [each.rpartition(":")[2] for each in server["ports"]]
    assert published == [str(DEFAULTS.inference_address.port), str(DEFAULTS.grpc_address.port)]
    assert all(each.startswith("127.0.0.1:") for name in SERVICES for each in SERVICES[name]["ports"])


def test_prometheus_reads_the_rules_and_scrapes_the_server_where_it_tells_its_metrics():
    there = mounts("prometheus")
    config = yaml.safe_load(there["/etc/prometheus/prometheus.yml"].read_text())
    assert {f"/etc/prometheus/{each}" for each in config["rule_files"]} <= there.keys()
    (job,) = config["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, _, port = target.rpartition(":")
    settings = load_config({}, {"MOORING_CONFIG": str(ROOT / "deploy/container/config.toml")})
    assert host in SERVICES
    assert port == str(settings.metrics_address.port)
    assert not settings.metrics_address.loopback
    open_one = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert job["job_name"] == open_one["scrape_configs"][0]["job_name"]
    assert config["rule_files"] == open_one["rule_files"]


@pytest.mark.processes
@pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine")
def test_promtool_reads_what_prometheus_is_given(tmp_path):
    for place, file in mounts("prometheus").items():
        shutil.copy(file, tmp_path / Path(place).name)
    done = subprocess.run(
        [PROMTOOL, "check", "config", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_asks_that_prometheus_and_shows_the_dashboards():
    there = mounts("grafana")
    (source,) = yaml.safe_load(there["/etc/grafana/provisioning/datasources/mooring.yaml"].read_text())[
        "datasources"
    ]
    name, _, port = source["url"].removeprefix("http://").partition(":")
    assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert source["type"] == "prometheus"  # what the dashboards' variable looks for
    (boards,) = yaml.safe_load(there["/etc/grafana/provisioning/dashboards/mooring.yaml"].read_text())[
        "providers"
    ]
    folder = there[boards["options"]["path"]]
    assert sorted(folder.glob("*.json"))
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (folder / home.name).exists()
    assert str(home.parent) == boards["options"]["path"]


def test_images_of_others_have_a_version():
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["image"].rpartition(":")[2].removeprefix("v")[0].isdigit()
