"""``mooring kserve`` serves what lies in KServe's folder, under the name of the InferenceService."""

import pytest

from mooring.config.settings import Address


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def fill(folder, *files):
    for each in files:
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        (folder / each).write_text(
            "def infer(x: float) -> float:\n    return x\n" if each.endswith(".py") else ""
        )


@pytest.mark.parametrize(
    ("files", "targets"),
    [
        (["model.onnx"], ""),
        (["any.onnx", "README.md"], ""),
        (["1/model.onnx"], ""),
        (["1/model.pt", "2/model.pt"], ""),
        (["model.pt2"], ""),
        (["model.py"], ""),
        (["handler.py", "weights.pt"], ""),
        (["config.toml", "code.py"], ""),
        (["mine.mar"], "/mine.mar"),
        (["other/1/model.onnx"], "/other"),
        (["other/config.pbtxt", "other/1/model.onnx"], "/other"),
        (["model.onnx", "..data/model.onnx"], ""),
    ],
)
def test_a_single_model_is_called_as_the_inference_service(mooring, server, folder, files, targets):
    fill(folder, *files)
    done = mooring("kserve", "--model-name", "mine", "--model-dir", str(folder))
    assert done.exit_code == 3, done.output
    assert server.config.targets == (f"mine={folder}{targets}",)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["a/1/model.onnx", "b/1/model.onnx"], ["--model-name=mine"]),
        (["a/1/model.onnx"], []),
        (["models/config.pbtxt", "models/1/model.py"], []),
    ],
)
def test_several_models_are_called_as_their_folders(mooring, server, folder, files, name):
    fill(folder, *files)
    done = mooring("kserve", *name, f"--model-dir={folder}")
    assert done.exit_code == 3, done.output
    assert server.config.targets == ()
    assert server.config.model_repository == (folder,)


def test_the_ports_are_kserves_and_only_managing_needs_a_token(mooring, server, folder):
    fill(folder, "model.onnx")
    mooring("kserve", "--model_name=mine", f"--model_dir={folder}", MOORING_JOB_QUEUE_SIZE="7")
    config = server.config
    assert config.inference_address == Address("0.0.0.0", 8080)
    assert config.grpc_address == Address("0.0.0.0", 8081)
    assert config.metrics_address == Address("0.0.0.0", 8082)
    assert config.management_address.loopback
    assert config.token_authorization == "management"
    assert config.exit_on_error
    assert config.job_queue_size == 7
    mooring("kserve", f"--model-dir={folder}", "--http_port=9000", "--grpc-port=9001", "--insecure")
    assert (server.config.inference_address.port, server.config.grpc_address.port) == (9000, 9001)
    assert server.config.token_authorization == "off"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "there is nothing. Served are model.onnx"),
        (
            ["model.joblib", "README"],
            "there is README, model.joblib; KServe's runtime kserve-sklearnserver serves that.",
        ),
        (["a/weights.bin", "b.txt"], "there is a, b.txt. Served are"),
        (
            ["config/config.properties", "model-store/m.mar"],
            "is laid out for TorchServe: start it as torchserve --start --model-store=",
        ),
    ],
)
def test_what_is_not_served_is_listed_with_what_is(mooring, server, folder, files, told):
    fill(folder, *files)
    done = mooring("kserve", "--model-name", "mine", "--model-dir", str(folder))
    assert done.exit_code == 1
    assert told in done.stderr
    assert server.config is None
