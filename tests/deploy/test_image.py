"""The image is built, runs as its user with a read-only root, is asked and stopped. `make containers` runs this."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e_kit import DIGITS, PATIENCE, SAMPLES, SCRIPTS, until
from image_kit import BASE, ROOT, Container, build, buildah, image_config, image_megabytes, make_base, why_not
from port_kit import free_row

from mooring import Client, __version__

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1200)]

TAG = "localhost/mooring-test:latest"
WAIT = """
import time


def wait(seconds: float) -> float:
    print(f"begun to wait {seconds:.0f}", flush=True)
    time.sleep(seconds)
    return seconds
"""
LENGTH = """
def length(data: bytes) -> int:
    return len(data)
"""


@pytest.fixture(scope="module")
def image(pytestconfig, tmp_path_factory) -> str:
    """The image, built from what is here now."""
    if not pytestconfig.getoption("--containers"):
        pytest.skip("building the image takes minutes: make containers does it")
    if reason := why_not():
        pytest.skip(reason)
    make_base()
    build(ROOT / "deploy/Dockerfile", ROOT, TAG, tmp_path_factory.mktemp("pip"), BASE=BASE, TORCH_INDEX="")
    return TAG


@pytest.fixture
def containers(tmp_path) -> Iterator[Callable[..., Container]]:
    """Starts containers, which are gone at the end."""
    made: list[Container] = []

    def run(*arguments, **options) -> Container:
        made.append(Container(arguments[0], tmp_path, *arguments[1:], **options))
        return made[-1]

    yield run
    for each in made:
        each.remove()


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def test_the_image_says_what_it_is(image):
    config = image_config(image)
    assert config["User"] == "1000:1000"
    assert config["Healthcheck"]["Test"] == ["CMD", "python3", "/opt/mooring/healthcheck.py"]
    assert config["Labels"]["org.opencontainers.image.title"] == "Mooring"
    assert list(config["Volumes"]) == ["/tmp"]
    print(f"the image has {image_megabytes(image):.0f} MB, its base {image_megabytes(BASE):.0f} MB")


def test_buildah_runs_it_as_its_user_and_tools_find_its_packages(image):
    container = buildah("from", image)
    try:
        uid = buildah("run", container, "--", "id", "-u")
        assert uid == "1000"
        listed = buildah("run", container, "--", "cat", "/opt/mooring/requirements.txt").splitlines()
        pins = dict(line.split("==") for line in listed)
        found = buildah(
            "run",
            container,
            "--",
            "sh",
            "-c",
            "cd /opt/mooring/lib/python3*/site-packages; ls -d *.dist-info",
        )
        told = {
            re.sub(r"[-_.]+", "-", each.rsplit("-", 1)[0]).lower()
            for each in found.replace(".dist-info", "").split()
        }
        assert {re.sub(r"[-_.]+", "-", name).lower() for name in pins} == told - {"mooring"}
        assert {"torch", "onnxruntime", "numpy"} <= pins.keys()
        for name in ("mooring", "torchserve", "torch-model-archiver", "torch-workflow-archiver"):
            assert buildah("run", container, "--", "which", name) == f"/opt/mooring/bin/{name}"
        assert __version__ in buildah("run", container, "--", "mooring", "--version")
        assert "0.12.0" in buildah("run", container, "--", "torchserve", "--version")
    finally:
        buildah("rm", container)


def test_a_server_is_asked_over_rest_and_grpc_and_drains(image, containers, tmp_path):
    """As process 1, user 1000, without any right or a HOME, with a read-only root and 64 MB of /dev/shm."""
    models = tmp_path / "models"
    models.mkdir(mode=0o755)
    shutil.copy(DIGITS / "digits.mar", models)
    (models / "wait.py").write_text(WAIT)
    (models / "length.py").write_text(LENGTH)
    port = free_row(6)
    grpc = f"127.0.0.1:{port + 5}"
    container = containers(
        image, "serve", *(f"/models/{name}" for name in ("digits.mar", "wait.py", "length.py")),
        "--port", str(port), "--grpc-address", grpc, "--max-request-size", "100000000", shown={"/models": models}, environ={"HEALTHCHECK_URL": f"{url_of(port)}/v2/health/ready"},
    ).started()  # fmt: skip
    family = [container.first, *container.first.children(recursive=True)]
    assert {each.uids().real for each in family} == {1000}
    assert container.execute("touch", "/opt/mooring/new").returncode != 0
    assert container.execute("printenv", "HOME").stdout == ""
    assert container.execute("python3", "/opt/mooring/healthcheck.py").returncode == 0
    assert json.loads(ask(port, "predictions/digits", SAMPLES[7].read_bytes()))["class"] == SAMPLES[7].stem
    # More than /dev/shm has: large bodies lie elsewhere.
    assert json.loads(ask(port, "predictions/length", b"x" * 80_000_000)) == 80_000_000
    with Client(f"grpc://{grpc}") as client:
        assert client.ready("wait")
        assert client.infer("wait", {"seconds": 0.0}).value == 0.0
    with ThreadPoolExecutor() as pool:
        last = pool.submit(ask, port, "predictions/wait", b'{"seconds": 2.0}', "application/json")
        until(lambda: "begun to wait 2" in container.log)
        container.first.terminate()
        assert json.loads(last.result()) == 2.0
    assert container.process.wait(PATIENCE) == 0
    assert "stopped" in container.log


def test_torchserves_own_command_line_runs_as_it_is(image, containers, tmp_path):
    """As KServe gives it to the entry point of the image: process 1 of a container goes to no background."""
    port = free_row(5)
    store = tmp_path / "model-store"
    store.mkdir(mode=0o755)
    shutil.copy(DIGITS / "digits.mar", store)
    (store / "config.properties").write_text(
        f"""inference_address=http://0.0.0.0:{port}
management_address=http://127.0.0.1:{port + 1}
metrics_address=http://127.0.0.1:{port + 2}
grpc_inference_port={port + 3}
grpc_management_port={port + 4}
load_models=all
"""
    )
    words = [
        "torchserve",
        "--start",
        "--ts-config=/mnt/config.properties",
        "--model-store=/mnt",
        "--disable-token-auth",
    ]
    container = containers(image, *words, shown={"/mnt": store}).started("Model server started.")
    assert json.loads(ask(port, "predictions/digits", SAMPLES[3].read_bytes()))["class"] == SAMPLES[3].stem
    container.first.terminate()
    assert container.process.wait(PATIENCE) == 0


def test_an_image_with_models_in_it_is_built_and_serves_them(image, containers, tmp_path):
    project = tmp_path / "project"
    project.mkdir(mode=0o700)
    (project / "app.py").write_text(
        "import humanize\n\n\ndef count(n: int) -> str:\n    return humanize.intcomma(n)\n"
    )
    (project / "requirements.txt").write_text("humanize\n")
    words = ["containerize", "app.py:count", DIGITS / "digits.mar", "-o", tmp_path / "image", "--base", image]
    subprocess.run(
        [SCRIPTS / "mooring", *words], cwd=project, check=True, capture_output=True, timeout=PATIENCE
    )
    tag = f"{image.partition(':')[0]}-models:latest"
    build(tmp_path / "image/Dockerfile", tmp_path / "image", tag, tmp_path)
    command = image_config(tag)["Cmd"]
    assert command[0] == "serve"
    port = free_row(5)
    container = containers(tag, *command, "--port", str(port)).started()
    assert json.loads(ask(port, "predictions/digits", SAMPLES[4].read_bytes()))["class"] == SAMPLES[4].stem
    assert ask(port, "predictions/count", b'{"n": 1234567}', "application/json") == b'"1,234,567"'
    container.first.terminate()
    assert container.process.wait(PATIENCE) == 0


def ask(port: int, path: str, body: bytes, kind: str = "application/octet-stream") -> bytes:
    done = subprocess.run(
        ["curl", "-s", "--fail-with-body", "-H", f"Content-Type: {kind}", f"{url_of(port)}/{path}", "--data-binary", "@-"],
        input=body, capture_output=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    return done.stdout
