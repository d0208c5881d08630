"""KServe's own command line for TorchServe, as its pods have it: user 1000, no HOME, a read-only root, 64 MB of shared memory.

Every pod has a network of its own, since KServe's ports are fixed. KServe's clients ask, and its ModelServer with a
transformer in front.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from e2e_kit import DIGITS, PATIENCE, ROOT, SAMPLES, SCRIPTS, until
from kserve_kit import kserve, one_after_another
from onnx_kit import X3, node, write_model
from PIL import Image
from pod_kit import NEEDS_NETWORK, USER, Pod, home

__all__ = ["home", "kserve"]

pytestmark = [
    *NEEDS_NETWORK,
    pytest.mark.timeout(600),
    one_after_another,
]

# ClusterServingRuntime kserve-torchserve, to the letter.
TORCHSERVE = "torchserve --start --model-store=/mnt/models/model-store --ts-config=/mnt/models/config/config.properties"
SNAPSHOT = {
    "name": "startup.cfg",
    "modelCount": 1,
    "models": {
        "digits": {
            "1.0": {
                "defaultVersion": True,
                "marName": "digits.mar",
                "minWorkers": 1,
                "maxWorkers": 5,
                "batchSize": 1,
                "maxBatchDelay": 5000,
                "responseTimeout": 120,
            }
        }
    },
}
# As KServe's own examples have it.
PROPERTIES = f"""
inference_address=http://0.0.0.0:8085
management_address=http://0.0.0.0:8085
metrics_address=http://0.0.0.0:8082
grpc_inference_port=7070
grpc_management_port=7071
enable_metrics_api=true
metrics_format=prometheus
enable_envvars_config=true
install_py_dep_per_model=true
number_of_netty_threads=4
job_queue_size=10
load_models=all
NUM_WORKERS=1
model_store=/mnt/models/model-store
model_snapshot={json.dumps(SNAPSHOT)}
"""
SEVEN = SAMPLES[7]


@pytest.fixture
def storage(home: Path) -> Path:
    """What the storage initializer downloads for TorchServe's format."""
    storage = home / "storage"
    (storage / "config").mkdir(parents=True)
    (storage / "config/config.properties").write_text(PROPERTIES)
    (storage / "model-store").mkdir()
    archiving = [
        SCRIPTS / "mooring", "archive", "--model-name", "digits", "--version", "1.0", "--model-file", "model.py",
        "--serialized-file", "digits.pt", "--handler", "handler.py", "--extra-files", "index_to_name.json",
        "--config-file", "model-config.yaml", "--export-path", storage / "model-store",
    ]  # fmt: skip
    subprocess.run(archiving, cwd=DIGITS, check=True, capture_output=True)
    return storage


def pixels() -> list[float]:
    """A seven, as numbers from 0 to 1."""
    return [value / 255 for value in Image.open(SEVEN).convert("L").tobytes()]


def test_torchserves_command_line_answers_kserves_v1_clients_beside_the_files_addresses(
    home, storage, kserve
):
    pod = Pod(
        home,
        TORCHSERVE,
        storage,
        TS_SERVICE_ENVELOPE="kserve",
        PROTOCOL_VERSION="v1",
        MODEL_LOAD_MAX_TRY="10",
    )
    try:
        pod.ready()
        family = [pod.first, *pod.first.children(recursive=True)]
        assert {each.uids().real for each in family} == {USER}
        found = pod.ask(kserve, "digits", pixels(), "v1")
        for way in ("v1", "v1 through a transformer"):
            assert [each["class"] for each in found[way]] == ["7"], found
        body = json.dumps({"instances": [pixels()]})
        predicted = pod.enter("curl", "-s", "127.0.0.1:8085/predictions/digits", "--json", body)
        assert json.loads(predicted.stdout)["predictions"][0]["class"] == "7"
        assert pod.status("127.0.0.1:8082/metrics") == "200"
        # Whoever reaches the pod may predict, and not manage.
        assert pod.status("127.0.0.1:8085/models/digits", "-X", "DELETE") == "400"
        assert pod.status("127.0.0.1:8080/v2/repository/models/digits/unload", "-X", "POST") == "400"
        assert pod.status("127.0.0.1:8080/console") == "404"
        assert "there is no key file" in pod.log
        assert "MODEL_LOAD_MAX_TRY" in pod.log
        pod.stop()
    finally:
        pod.kill()


def test_a_model_image_that_comes_after_the_start_answers_v2_and_grpc(home, storage, kserve):
    command = f"{TORCHSERVE} --disable-token-auth --enable-model-api"
    pod = Pod(home, command, None, TS_SERVICE_ENVELOPE="kservev2", PROTOCOL_VERSION="grpc-v2")
    try:
        until(lambda: "Waiting for /mnt/models" in pod.log)
        assert pod.enter("ln", "-s", storage, "/mnt/models", mount=True).returncode == 0
        pod.ready()
        found = pod.ask(kserve, "digits", pixels(), "v2", "grpc-v2")
        assert len(found) == 4
        for way, outputs in found.items():
            assert [json.loads(each)["class"] for each in outputs] == ["7"], (way, found)
        assert pod.status("127.0.0.1:8085/models/digits", "-X", "DELETE") == "200"
        pod.stop()
    finally:
        pod.kill()


def test_a_file_of_onnx_answers_under_the_name_of_its_inference_service(home, kserve):
    (home / "storage/1").mkdir(parents=True)
    (kind,) = {X3[1]}
    write_model(
        home / "storage/1/model.onnx",
        inputs=(("data", kind, ["N", 4]),),
        outputs=(("y", kind, ["N", 4]),),
        nodes=[node("Neg", "data", "y")],
    )
    pod = Pod(home, "mooring kserve --model-name=mine --model-dir=/mnt/models", home / "storage")
    try:
        pod.ready()
        found = pod.ask(kserve, "mine", [1.0, 2.0, 3.0, 4.0], "v1", "v2", "grpc-v2")
        assert len(found) == 6
        for way, outputs in found.items():
            numbers = outputs[0] if way.startswith("v1") else outputs
            assert numbers == [-1.0, -2.0, -3.0, -4.0], way
        assert pod.status("127.0.0.1:8082/metrics") == "200"
        assert pod.status("127.0.0.1:8080/v2/repository/models/mine/unload", "-X", "POST") == "401"
        pod.stop()
    finally:
        pod.kill()


def put_repository(storage: Path) -> None:
    for name in ("digits_onnx", "scale"):
        shutil.copytree(ROOT / "examples/repository" / name, storage / name)


def put_pytorch_file(storage: Path) -> None:
    shutil.copytree(ROOT / "examples/repository/digits_pytorch/1", storage / "1")


def put_function(storage: Path) -> None:
    storage.mkdir()
    (storage / "model.py").write_text("def double(x: float) -> float:\n    return 2 * x\n")


@pytest.mark.parametrize(
    ("put", "flags", "environ", "names"),
    [
        (put_repository, "", {"MOORING_DIALECT": "triton"}, ["digits_onnx", "scale"]),
        (put_pytorch_file, "--model-name=mine", {}, ["mine"]),
        (put_function, "--model-name=mine", {}, ["mine"]),
    ],
)
def test_what_lies_in_the_folder_is_ready_when_the_pod_is(home, put, flags, environ, names):
    put(home / "storage")
    pod = Pod(home, f"mooring kserve {flags} --model-dir=/mnt/models", home / "storage", **environ)
    try:
        pod.ready()
        index = pod.enter("curl", "-s", "-X", "POST", "127.0.0.1:8080/v2/repository/index").stdout
        assert [each["name"] for each in json.loads(index) if each["state"] == "READY"] == names
        pod.stop()
    finally:
        pod.kill()


def test_a_folder_that_never_holds_a_model_ends_the_pod_with_what_is_there(home):
    (home / "storage").mkdir()
    (home / "storage/model.joblib").touch()
    pod = Pod(home, "mooring kserve --model-name=mine", home / "storage")
    try:
        assert pod.process.wait(PATIENCE) == 1
        assert "there is model.joblib; KServe's runtime kserve-sklearnserver serves that" in pod.log
    finally:
        pod.kill()


def test_a_pod_that_waits_for_its_models_ends_when_it_is_told_to(home):
    pod = Pod(home, TORCHSERVE, None)
    try:
        until(lambda: "Waiting for /mnt/models" in pod.log)
        pod.stop()
    finally:
        pod.kill()
