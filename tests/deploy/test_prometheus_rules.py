"""Prometheus' own tool reads the configurations and the rules, and runs the tests of the alerts."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from board_kit import ROOT
from tls_kit import Authority

FOLDER = ROOT / "deploy/prometheus"
PROMTOOL = shutil.which("promtool")


def needs_promtool(test):
    return pytest.mark.processes(
        pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine")(test)
    )


def promtool(*arguments: str | Path, folder: Path = FOLDER) -> str:
    done = subprocess.run(
        [PROMTOOL, *arguments],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules(name: str) -> list[dict]:
    return [
        rule for group in yaml.safe_load((FOLDER / name).read_text())["groups"] for rule in group["rules"]
    ]


ALERTS = rules("alerts.yml")


@needs_promtool
def test_promtool_reads_the_configuration_of_an_open_server():
    assert "2 rule files found" in promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_promtool_reads_the_configuration_of_a_server_with_tls_and_a_token(tmp_path):
    folder = tmp_path / "prometheus"
    shutil.copytree(FOLDER, folder)
    shutil.copy(Authority(tmp_path / "tls").ca, folder / "ca.pem")
    (folder / "inference.token").write_text("a-token")
    assert "2 rule files found" in promtool("check", "config", "prometheus-secured.yml", folder=folder)


@needs_promtool
@pytest.mark.parametrize("name", ["recording.yml", "alerts.yml"])
def test_promtool_reads_the_rules(name):
    assert f"SUCCESS: {len(rules(name))} rules found" in promtool("check", "rules", name)


@needs_promtool
def test_each_alert_fires_when_it_should_and_only_then():
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_each_alert_is_tested_firing_and_not_firing():
    tested = {}
    for test in yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]:
        for case in test["alert_rule_test"]:
            tested.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert tested == {alert["alert"]: {True, False} for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_read_on(alert):
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert anchor in anchors((ROOT / page).read_text()), f"{page} has no section #{anchor}"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_in_the_guide(alert):
    assert f"`{alert['alert']}`" in (ROOT / "docs/guide-metrics.md").read_text()


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
