"""The manifests for Kubernetes: every key is one of the API's, and ports, labels and times fit each other and the server.

Kinds of operators (UNTYPED) have no class in the ``kubernetes`` package: they are not validated here as a whole, only
their parts that are Kubernetes' own, and what must fit.
"""

import copy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
import yaml
from crd_kit import places
from typed_classes import faults

from mooring import __version__
from mooring.cli.serve import serve
from mooring.config.sources.loading import load_config

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
FILES = sorted(FOLDER.rglob("*.yaml"))
VALUES = FOLDER / "overlays/hpa/prometheus-adapter.yaml"  # of a Helm chart, no manifest
PATCH = (
    FOLDER / "overlays/production/deployment.yaml"
)  # a part of one, which is validated where it is applied
KUSTOMIZATIONS = {"Kustomization", "Component"}
UNTYPED = {*KUSTOMIZATIONS, "ScaledObject", "ServiceMonitor", "RayCluster"}
# Maps whose keys are the user's.
FREE = {"labels", "matchLabels", "selector", "requests", "limits", "data", "annotations"}
KUBECTL = shutil.which("kubectl")


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def find_class(name: str) -> Any:
    return getattr(kubernetes.client, name)


def typed_parts(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The class and the value of everything of a document that is Kubernetes' own."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind not in UNTYPED:
        yield document["apiVersion"].rpartition("/")[2].capitalize() + kind, document
        return
    if "metadata" in document:
        yield "V1ObjectMeta", document["metadata"]
    if kind == "RayCluster":
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            yield "V1PodTemplateSpec", group["template"]
    if kind == "ScaledObject":
        yield "V2CrossVersionObjectReference", spec["scaleTargetRef"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        yield "V2HorizontalPodAutoscalerBehavior", behavior
    if kind == "ServiceMonitor":
        yield "V1LabelSelector", spec["selector"]


PARTS = [
    pytest.param(kind, value, id=f"{file.parent.name}-{file.stem}-{kind}")
    for file in FILES
    if file not in (VALUES, PATCH)
    for document in documents(file)
    for kind, value in typed_parts(document)
]


@pytest.mark.parametrize(("kind", "value"), PARTS)
def test_every_key_and_value_is_of_the_api(kind, value):
    assert list(faults(value, kind, find_class)) == []


@pytest.mark.parametrize(("kind", "value"), PARTS)
def test_a_misspelt_key_at_any_depth_is_found(kind, value):
    tried = 0
    for *way, name in places(value):
        if FREE & {*way} and not ({"selector"} & {*way} and name == "matchLabels"):
            continue
        broken = copy.deepcopy(value)
        inner = broken
        for step in way:
            inner = inner[step]
        inner[f"{name}x"] = inner.pop(name)
        assert any(each.endswith(f"{name}x: unknown key") for each in faults(broken, kind, find_class)), (
            *way,
            name,
        )
        tried += 1
    assert tried


def test_a_value_of_a_wrong_type_is_found():
    (deployment,) = documents(FOLDER / "base/deployment.yaml")
    deployment["spec"]["replicas"] = "two"
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["env"][0]["value"] = 5
    container["args"] = "serve"
    assert len(list(faults(deployment, "V1Deployment", find_class))) == 3


def only(kind: str, file: str) -> dict[str, Any]:
    (found,) = [each for each in documents(FOLDER / file) if each["kind"] == kind]
    return found


@pytest.fixture
def pod():
    return only("Deployment", "base/deployment.yaml")["spec"]["template"]


@pytest.fixture
def container(pod):
    return pod["spec"]["containers"][0]


@pytest.fixture
def settings(tmp_path):
    """The settings that the ConfigMap gives the server."""
    file = tmp_path / "config.toml"
    file.write_text(only("ConfigMap", "base/configmap.yaml")["data"]["config.toml"])
    return load_config({}, {}, file)


def test_the_ports_of_the_container_are_those_of_its_settings(container, settings):
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {
        "http": settings.inference_address.port,
        "grpc": settings.grpc_address.port,
        "metrics": settings.metrics_address.port,
    }
    open_to_others = (settings.inference_address, settings.grpc_address, settings.metrics_address)
    assert not any(each.loopback for each in open_to_others)
    assert settings.management_address.loopback
    assert settings.grpc_management_address.loopback


def test_a_pod_has_time_to_end(pod, settings):
    assert settings.pre_stop_delay
    assert settings.pre_stop_delay + settings.drain_timeout < pod["spec"]["terminationGracePeriodSeconds"]
    # It is unready before it refuses anything.
    probe = pod["spec"]["containers"][0]["readinessProbe"]
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) < settings.pre_stop_delay


def test_the_settings_read_what_is_mounted(pod, container, settings):
    mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    assert set(mounted.values()) == set(volumes)
    assert [str(each) for each in settings.model_repository] == ["/models"]
    assert {"/models", "/tmp", "/dev/shm"} <= mounted.keys()
    (config,) = [each["value"] for each in container["env"] if each["name"] == "MOORING_CONFIG"]
    assert str(Path(config).parent) in mounted
    assert Path(config).name in only("ConfigMap", "base/configmap.yaml")["data"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["image"] == f"mooring:{__version__}"


def test_probes_ask_for_life_and_readiness(container):
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")
    }
    assert paths == {
        "startup": "/v2/health/ready",
        "readiness": "/v2/health/ready",
        "liveness": "/v2/health/live",
    }


def test_whatever_selects_the_pods_selects_them(pod, container):
    labels = pod["metadata"]["labels"]
    ports = {each["name"] for each in container["ports"]}
    services = documents(FOLDER / "base/service.yaml")
    for service in services:
        assert service["spec"]["selector"] == labels
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports
    policy = only("NetworkPolicy", "base/networkpolicy.yaml")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports
    budget = only("PodDisruptionBudget", "base/poddisruptionbudget.yaml")["spec"]
    assert budget["selector"]["matchLabels"] == labels
    assert only("Deployment", "base/deployment.yaml")["spec"]["selector"]["matchLabels"] == labels
    monitor = only("ServiceMonitor", "overlays/monitoring/servicemonitor.yaml")["spec"]
    chosen = [
        each
        for each in services
        if monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    named = [port["name"] for each in chosen for port in each["spec"]["ports"]]
    assert named.count(monitor["endpoints"][0]["port"]) == 1
    # Rules and dashboards look for a job of this name.
    assert labels[monitor["jobLabel"]] == "mooring"


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("HorizontalPodAutoscaler", "overlays/hpa/horizontalpodautoscaler.yaml"),
        ("ScaledObject", "overlays/keda/scaledobject.yaml"),
    ],
)
def test_an_autoscaler_scales_the_deployment(kind, file):
    deployment = only("Deployment", "base/deployment.yaml")
    target = only(kind, file)["spec"]["scaleTargetRef"]
    assert target == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_has():
    (metric,) = only("HorizontalPodAutoscaler", "overlays/hpa/horizontalpodautoscaler.yaml")["spec"][
        "metrics"
    ]
    (rule,) = yaml.safe_load(VALUES.read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


def test_every_manifest_is_in_a_kustomization_and_every_kustomization_names_files_that_are_there():
    named = set()
    for file in FOLDER.rglob("kustomization.yaml"):
        (document,) = documents(file)
        for each in [*document.get("resources", []), *document.get("components", [])]:
            place = (file.parent / each).resolve()
            named.add(place / "kustomization.yaml" if place.is_dir() else place)
        named |= {(file.parent / each["path"]).resolve() for each in document.get("patches", [])}
    assert all(each.is_file() for each in named)
    starts = {FOLDER / "overlays/production/kustomization.yaml", FOLDER / "overlays/keda/kustomization.yaml"}
    alone = {VALUES, *(FOLDER / "ray").iterdir()}
    assert {*FILES} - named == starts | alone


@pytest.mark.processes
@pytest.mark.skipif(KUBECTL is None, reason="no kubectl on this machine")
@pytest.mark.parametrize("folder", ["base", "overlays/production"])
def test_kustomize_builds_it(folder):
    built = subprocess.run(
        [KUBECTL, "kustomize", FOLDER / folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert built.returncode == 0, built.stderr
    found = list(yaml.safe_load_all(built.stdout))
    for document in found:
        for kind, value in typed_parts(document):
            assert list(faults(value, kind, find_class)) == []
    (deployment,) = [each for each in found if each["kind"] == "Deployment"]
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.endswith(f"mooring:{__version__}")
    assert ("replicas" in deployment["spec"]) is (folder == "base")


def test_the_ray_cluster_serves_what_the_job_asks_it_to():
    cluster = only("RayCluster", "ray/raycluster.yaml")
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    service = only("Service", "ray/serve.yaml")["spec"]
    labels = {"ray.io/cluster": cluster["metadata"]["name"], **workers["template"]["metadata"]["labels"]}
    assert service["selector"] == labels
    (container,) = workers["template"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert {each["targetPort"] for each in service["ports"]} == ports.keys()
    (submit,) = only("Job", "ray/serve.yaml")["spec"]["template"]["spec"]["containers"]
    assert f"http://{cluster['metadata']['name']}-head-svc:8265" in submit["command"]
    program, command, *arguments = submit["args"]
    assert (program, command) == ("mooring", "serve")
    given = serve.make_context("serve", list(arguments)).params
    assert given["cluster"] == "auto"
    assert given["cluster_nodes"] == (workers["rayStartParams"]["labels"],)
    names = ("host", "metrics_address", "model_repository", "cluster_state")
    config = load_config({name: given[name] for name in names}, {})
    assert ports == {
        "http": config.inference_address.port,
        "grpc": config.grpc_address.port,
        "metrics": config.metrics_address.port,
    }
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    for each in (head, container):
        mounted = {mount["mountPath"] for mount in each["volumeMounts"]}
        assert {str(config.model_repository[0]), config.cluster_state} <= mounted
