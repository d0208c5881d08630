"""The Deployment of deploy/kubernetes as one of its pods has it: its arguments, its settings, its probes and its end."""

import shutil
import time

import pytest
import yaml
from e2e_kit import PATIENCE, ROOT, until
from pod_kit import NEEDS_NETWORK, Pod, home

__all__ = ["home"]

pytestmark = NEEDS_NETWORK
BASE = ROOT / "deploy/kubernetes/base"


@pytest.fixture
def container():
    deployment = yaml.safe_load((BASE / "deployment.yaml").read_text())
    return deployment["spec"]["template"]["spec"]["containers"][0]


def test_a_pod_answers_its_probes_and_serves_on_while_it_is_taken_away(home, container):
    settings = yaml.safe_load((BASE / "configmap.yaml").read_text())["data"]["config.toml"]
    (home / "config.toml").write_text(settings)
    for name in ("digits_onnx", "scale"):
        shutil.copytree(ROOT / "examples/repository" / name, home / "storage" / name)
    environ = {
        "MOORING_CONFIG": str(home / "config.toml"),
        "MOORING_MODEL_REPOSITORY": "/mnt/models",
        "MOORING_PRE_STOP_DELAY": "1.5",
    }
    pod = Pod(home, f"mooring {' '.join(container['args'])}", home / "storage", **environ)
    try:
        pod.ready()
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
        urls = [f"127.0.0.1:{ports[each['port']]}{each['path']}" for each in probes]
        assert [pod.status(url) for url in urls] == ["200", "200", "200"]
        assert pod.status(f"127.0.0.1:{ports['metrics']}/metrics") == "200"
        # Whoever reaches the pod may not manage its models.
        assert pod.status("127.0.0.1:8080/v2/repository/models/scale/unload", "-X", "POST") == "403"
        began = time.monotonic()
        pod.first.terminate()
        until(lambda: pod.status(urls[1]) == "503")
        assert [pod.status(urls[2]), pod.status("127.0.0.1:8080/v2/models/scale")] == ["200", "200"]
        pod.process.wait(PATIENCE)
        assert time.monotonic() - began >= 1.5
        assert pod.process.returncode == 0, pod.log
    finally:
        pod.kill()
