"""Model files that nobody configured: their requests share calls only where rows were shown to be independent."""

import json
import subprocess
import threading
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from e2e_kit import SCRIPTS, Wire, request, serving, until
from onnx import TensorProto as Kind
from onnx import helper

CLIENTS = 12
ASKED = 60


def written(file: Path, nodes, constants=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", Kind.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", Kind.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file.write_bytes(model.SerializeToString())
    return file


def centred(file: Path):
    """Every row minus the mean of all."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "all"], ["m"]),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    return written(file, nodes, [("all", np.int64([0]))])


def negative(file: Path):
    return written(file, [helper.make_node("Neg", ["x"], ["y"])])


class Centred(torch.nn.Module):
    def forward(self, x):
        return {"y": x - x.mean(0)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    centred(folder / "centred.onnx")
    negative(folder / "negative.onnx")
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(
        torch.export.export(Centred(), (torch.ones(2, 2),), dynamic_shapes=shapes), folder / "program.pt2"
    )
    script = folder / "repository/script"
    (script / "1").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Centred()).save(str(script / "1/model.pt"))
    tensor = 'datatype = "FP32"\nshape = [-1, 2]\n'
    (script / "config.toml").write_text(
        f'platform = "pytorch_torchscript"\n[[inputs]]\nname = "x"\n{tensor}[[outputs]]\nname = "y"\n{tensor}'
    )
    trusted = folder / "repository/trusted"
    (trusted / "1").mkdir(parents=True)
    centred(trusted / "1/model.onnx")
    (trusted / "config.toml").write_text('platform = "onnx_onnxv1"\nmax_batch_size = 8\n')
    return folder


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    files = [models / name for name in ("centred.onnx", "negative.onnx", "program.pt2")]
    folder = tmp_path_factory.mktemp("server")
    cache = {"MOORING_CACHE_FOLDER": str(folder / "cache")}
    with serving(folder, *files, "--model-repository", models / "repository", **cache) as server:
        yield server


def infer(wire, model, rows):
    tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    wire.send(request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}).encode()))
    (output,) = wire.answer().json()["outputs"]
    return np.float32(output["data"]).reshape(output["shape"])


def ask_at_once(server, model):
    """Many clients, each with rows of its own: every question with its answer."""
    found = []

    def ask(number):
        random = np.random.default_rng(number)
        with Wire(server.port) as wire:
            for _ in range(ASKED):
                rows = random.normal(size=(3, 2)).astype(np.float32)
                found.append((rows, infer(wire, model, rows)))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == CLIENTS * ASKED
    return found


def batching(server, model):
    with Wire(server.ports[1]) as wire:
        wire.send(request("GET", f"/models/{model}"))
        (described,) = wire.answer().json()
    return described["batching"]


def settled(server, model):
    """How requests to the model are batched once that has been tried."""
    until(lambda: batching(server, model)["state"] not in ("untried", "trying"))
    return batching(server, model)


@pytest.mark.parametrize("model", ["centred", "program", "script"])
def test_no_client_of_a_model_whose_rows_depend_on_each_other_gets_a_wrong_answer(server, model):
    for rows, answer in ask_at_once(server, model):
        assert np.allclose(answer, rows - rows.mean(0), atol=1e-5)
    found = settled(server, model)
    assert (found["joined"], found["state"]) == (False, "apart")
    assert "output 'y' differs for the same rows joined; set max_batch_size" in found["reason"]
    for rows, answer in ask_at_once(server, model):
        assert np.allclose(answer, rows - rows.mean(0), atol=1e-5)
    config = server.ask("GET", f"/v2/models/{model}/config").json()
    assert (config["max_batch_size"], "dynamic_batching" in config) == (0, False)
    assert config["parameters"]["batching"]["string_value"].startswith("apart: rows depend on each other")
    (said,) = [line for line in server.log.splitlines() if f"not joined model={model} " in line]
    assert "set max_batch_size" in said


def test_requests_are_joined_once_their_rows_were_shown_to_be_independent(server):
    assert batching(server, "negative")["state"] == "untried"
    ask_at_once(server, "negative")
    assert settled(server, "negative") == {
        "joined": True,
        "state": "shown",
        "reason": "rows gave the same answers alone and joined",
    }
    for rows, answer in ask_at_once(server, "negative"):
        assert np.array_equal(answer, -rows)
    until(lambda: joined_calls(server, "negative"))
    assert server.log.count("requests are joined from now on model=negative ") == 1
    config = server.ask("GET", "/v2/models/negative/config").json()
    assert config["max_batch_size"] == 8


def joined_calls(server, model):
    """Whether the model was called for more rows than a request has."""
    ask_at_once(server, model)
    (usage,) = server.ask("GET", f"/v2/models/{model}/stats").json()["model_stats"]
    return any(each["batch_size"] > 3 for each in usage["batch_stats"])


def test_a_configuration_that_says_max_batch_size_is_believed(server):
    found = batching(server, "trusted")
    assert (found["joined"], found["state"]) == (True, "declared")


def test_the_command_line_says_how_requests_are_batched(server):
    command = [SCRIPTS / "mooring", "models", "describe", "trusted", "--url", server.url]
    described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    lines = [" ".join(line.split()) for line in described.splitlines()]
    assert "batching declared: the configuration says max_batch_size 8" in lines


def test_what_was_found_is_kept_for_the_next_start_by_the_files_contents(models, server, tmp_path):
    ask_at_once(server, "centred")
    settled(server, "centred")
    kept = server.folder / "cache/joining"
    before = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    again = tmp_path / "renamed.onnx"
    again.write_bytes((models / "centred.onnx").read_bytes())
    cache = {"MOORING_CACHE_FOLDER": str(server.folder / "cache")}
    with serving(tmp_path, again, **cache) as other:
        ask_at_once(other, "renamed")
        assert settled(other, "renamed")["state"] == "apart"
    assert {file.name: file.stat().st_mtime_ns for file in kept.iterdir()} == before


def test_every_front_joins_only_what_may_be_joined(models, tmp_path):
    cache = {"MOORING_CACHE_FOLDER": "/dev/null/nowhere"}
    files = models / "centred.onnx", models / "negative.onnx"
    with serving(tmp_path, *files, "--frontends", "2", **cache) as server:
        for _ in range(2):
            for rows, answer in ask_at_once(server, "centred"):
                assert np.allclose(answer, rows - rows.mean(0), atol=1e-5)
        for rows, answer in ask_at_once(server, "negative"):
            assert np.array_equal(answer, -rows)
        assert settled(server, "centred")["state"] == "apart"
        assert settled(server, "negative")["state"] == "shown"
