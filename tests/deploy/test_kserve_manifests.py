"""The manifests for KServe: every key is one of its CRDs', and of its SDK's types; and they fit the server and each other."""

import copy
import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from crd_kit import CustomResource, places
from kserve_kit import kserve, one_after_another

from mooring import __version__
from mooring.cli.kserve import kserve as kserve_command
from mooring.cli.torchserve import torchserve
from mooring.config.settings import SETTINGS, Config

__all__ = ["kserve"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kserve"
CRDS = ROOT.parent / "shared/data/kserve_crds"
RUNTIMES = sorted(FOLDER.glob("*.yaml"))
FILES = [*RUNTIMES, *sorted((FOLDER / "examples").glob("*.yaml"))]
# The key whose name a test misspells, in maps of names that the user chooses.
FREE = {"annotations", "labels", "requests", "limits"}
COMMANDS = {"torchserve": torchserve, "kserve": kserve_command}


def documents(file):
    return list(yaml.safe_load_all(file.read_text()))


def runtimes():
    return [document for file in RUNTIMES for document in documents(file)]


@pytest.fixture(scope="module")
def definitions():
    if not CRDS.is_dir():
        pytest.skip(f"KServe's CustomResourceDefinitions are not at {CRDS}")
    found = [CustomResource(file) for file in CRDS.glob("*.yaml")]
    return {each.kind: each for each in found}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_api_server_would_take_it(definitions, file):
    for document in documents(file):
        assert definitions[document["kind"]].faults(document) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_misspelt_key_at_any_depth_is_found(definitions, file):
    tried = 0
    for document in documents(file):
        for *way, name in places(document):
            if way[:1] == ["metadata"] or name in ("kind", "apiVersion", "metadata") or FREE & {*way}:
                continue
            broken = copy.deepcopy(document)
            inner = broken
            for step in way:
                inner = inner[step]
            inner[f"{name}x"] = inner.pop(name)
            assert any(f"{name}x" in each for each in definitions[document["kind"]].faults(broken)), (
                *way,
                name,
            )
            tried += 1
    assert tried > 5


def test_a_value_of_a_wrong_type_is_found(definitions):
    runtime = documents(FOLDER / "onnx.yaml")[0]
    runtime["spec"]["containers"][0]["env"][0]["value"] = 5
    runtime["spec"]["supportedModelFormats"][0]["priority"] = 0
    found = definitions["ClusterServingRuntime"].faults(runtime)
    assert found == [
        "spec.supportedModelFormats[0].priority: 0 is below 1",
        "spec.containers[0].env[0].value: 5 is no string",
    ]


@pytest.mark.timeout(600)
@one_after_another
def test_the_types_of_the_sdk_have_every_key(kserve):
    every = [document for file in FILES for document in documents(file)]
    broken = copy.deepcopy(every[0])
    broken["spec"]["containers"][0]["env"][0]["values"] = ""
    versions = {"serving.kserve.io/v1alpha1": "V1alpha1", "serving.kserve.io/v1beta1": "V1beta1"}
    given = [[versions[each["apiVersion"]] + each["kind"], each] for each in (*every, broken)]
    checking = [kserve, ROOT / "tests/deploy/typed_classes.py", "kserve", "kubernetes.client"]
    done = subprocess.run(
        checking, input=json.dumps(given), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    *found, planted = json.loads(done.stdout)
    assert found == [[]] * len(every)
    assert planted == ["spec.containers[0].env[0].values: unknown key"]


@pytest.mark.parametrize("runtime", runtimes(), ids=lambda each: each["metadata"]["name"])
def test_the_server_understands_a_runtimes_arguments_and_variables(runtime):
    (container,) = runtime["spec"]["containers"]
    assert container["image"] == f"mooring:{__version__}"
    command, *arguments = container["args"]
    COMMANDS[command].make_context(command, list(arguments))  # raises for a flag that it does not have
    names = [each["name"] for each in container["env"]]
    settings = {name.removeprefix("MOORING_").lower() for name in names if name.startswith("MOORING_")}
    assert settings <= SETTINGS.keys()
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == str(Config().metrics_address.port)


@pytest.mark.parametrize("runtime", runtimes(), ids=lambda each: each["metadata"]["name"])
def test_a_pod_ends_within_its_grace(runtime):
    env = {each["name"]: each["value"] for each in runtime["spec"]["containers"][0]["env"]}
    assert float(env["MOORING_PRE_STOP_DELAY"]) + float(env["MOORING_DRAIN_TIMEOUT"]) < 30


def test_the_command_for_torchserve_is_kserves_own():
    (runtime,) = documents(FOLDER / "pytorch.yaml")
    given = "torchserve --start --model-store=/mnt/models/model-store --ts-config=/mnt/models/config/config.properties"
    assert runtime["spec"]["containers"][0]["args"] == shlex.split(given)


def test_every_example_has_a_runtime_that_serves_its_format():
    served = {each["name"] for runtime in runtimes() for each in runtime["spec"]["supportedModelFormats"]}
    examples = [each for file in FILES if file not in RUNTIMES for each in documents(file)]
    named = {
        each["spec"]["predictor"]["model"]["modelFormat"]["name"]
        for each in examples
        if "model" in each["spec"]["predictor"]
    }
    assert named == {"pytorch", "onnx", "triton", "mooring"}
    assert named <= served
