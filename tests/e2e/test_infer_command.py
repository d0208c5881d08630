"""mooring infer and mooring models, at a real server."""

import json
import re
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner
from e2e_kit import SAMPLES, SCRIPTS, free_ports

from mooring.cli.commands import commands


@pytest.fixture(params=["rest", "grpc"])
def mooring(request, tensors, tmp_path, monkeypatch):
    """Runs a command line in an empty folder, asking the server in one of two ways."""
    monkeypatch.chdir(tmp_path)
    where = ["--url", tensors.url] if request.param == "rest" else ["--url", tensors.grpc_authority, "--grpc"]

    def run(*args, status=0, stdin=None):
        done = CliRunner().invoke(commands, [*map(str, args), *where], prog_name="mooring", input=stdin)
        assert done.exit_code == status, done.output
        return done.output

    return run


@pytest.mark.parametrize("model", ["digits_onnx", "digits_pytorch"])
def test_an_image_becomes_what_the_model_declares(mooring, model):
    for sample in SAMPLES[:3]:
        (scores,) = json.loads(mooring("infer", model, "-i", sample)).values()
        assert int(np.argmax(scores)) == int(sample.stem)


def test_a_handler_gets_the_bytes_of_a_file(mooring):
    (answer,) = json.loads(mooring("infer", "digits", "-i", SAMPLES[7])).values()
    assert json.loads(answer[0])["class"] == "7"


def test_inputs_by_name_from_files_of_every_kind(mooring, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, 2, 3]], np.float64))
    (tmp_path / "factor.json").write_text("[2]")
    expected = {"total": [12.0], "peak": [3.0]}
    assert json.loads(mooring("infer", "sums", "-i", "x=x.npy", "--input", "factor=factor.json")) == expected
    np.savez(tmp_path / "both.npz", x=np.array([[1, 2, 3]], np.float32), factor=np.array([2]))
    assert json.loads(mooring("infer", "sums", "-i", "both.npz")) == expected
    (tmp_path / "both.json").write_text('{"x": [[1, 2, 3]], "factor": [2]}')
    assert json.loads(mooring("infer", "sums", "-i", "both.json")) == expected
    v2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]},
                     {"name": "factor", "datatype": "FP32", "shape": [1], "data": [2]}]}  # fmt: skip
    (tmp_path / "v2.json").write_text(json.dumps(v2))
    assert json.loads(mooring("infer", "sums", "-i", "v2.json")) == expected
    assert json.loads(mooring("infer", "sums", "-i", "v2.json", "--output", "peak")) == {"peak": [3.0]}


def test_a_function_that_declares_nothing_takes_json(mooring, tmp_path):
    (tmp_path / "f.json").write_text('{"x": [1, 2]}')
    (tmp_path / "x.json").write_text("[1, 2]")
    for given in ("f.json", "x=x.json", "x=[1, 2]", '{"x": [1, 2]}'):
        assert json.loads(mooring("infer", "mirror", "-i", given)) == {"x": [1, 2]}
    assert json.loads(mooring("infer", "mirror", stdin='{"x": [1, 2]}')) == {"x": [1, 2]}
    assert json.loads(mooring("infer", "mirror", "-i", "x=-", "-i", "y=5", stdin="[1]")) == {"x": [1], "y": 5}


def test_the_pieces_of_a_stream_are_lines(mooring):
    assert mooring("infer", "steps", "-i", "2", "--stream").splitlines() == ['{"step": [0]}', '{"step": [1]}']


def test_a_name_that_is_not_there_brings_the_nearest(mooring):
    assert "'sums'" in mooring("infer", "sum", "-i", "x=1", status=1)
    assert "did you mean 'mirror'?" in mooring("models", "describe", "mirr", status=1)
    assert "the server has 'counted', " in mooring("infer", "quite_another", "-i", "x=1", status=1)


def test_outputs_are_saved(mooring, tmp_path):
    (tmp_path / "both.json").write_text('{"x": [[1, 2, 3]], "factor": [2]}')
    assert mooring("infer", "sums", "-i", "both.json", "--save", "all.npz") == "wrote all.npz\n"
    assert np.load(tmp_path / "all.npz")["total"].tolist() == [12]
    mooring("infer", "sums", "-i", "both.json", "--output", "peak", "--save", "peak.npy")
    assert np.load(tmp_path / "peak.npy").tolist() == [3]
    said = mooring("infer", "sums", "-i", "both.json", "--save", "all.npy", status=2)
    assert "the model gave 2 outputs" in said


def test_parameters_are_what_they_read_as(mooring, tmp_path):
    (tmp_path / "x.txt").write_text("hello")
    said = mooring(
        "infer", "told", "-i", "x.txt", "--parameter", "a=1", "--parameter", "b=true", "--parameter", "c=d e"
    )
    assert json.loads(json.loads(said)["told"][0]) == {"a": 1, "b": True, "c": "d e"}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["nobody", "-i", "x.json"], "nobody"),
        (["sums", "-i", "gone.json"], "gone.json: No such file or directory"),
        (["sums", "-i", "x.json"], "name the inputs, as in --input NAME=FILE: the model takes 'x', 'factor'"),
        (["sums", "-i", "y=x.json"], "unexpected input 'y'"),
        (["sums", "-i", "x=x.json"], "factor"),
        (["sums", "-i", "x=image.png"], "does not say how an image becomes that"),
    ],
)
def test_a_mistake_is_one_line(mooring, tmp_path, args, text):
    (tmp_path / "x.json").write_text("[[1, 2, 3]]")
    (tmp_path / "image.png").write_bytes(SAMPLES[0].read_bytes())
    said = mooring("infer", *args, status=1)
    assert said.startswith("Error: ")
    assert text in said
    assert said.count("\n") == 1


def test_models_are_listed_unloaded_loaded_and_described(mooring):
    head, *rows = mooring("models", "list").splitlines()
    assert head.split() == ["MODEL", "VERSION", "STATE", "REASON"]
    assert ["told", "1", "READY"] in [row.split() for row in rows]
    assert mooring("models", "unload", "told") == "told is unloaded\n"
    assert ["told", "1", "READY"] not in [row.split() for row in mooring("models", "list").splitlines()]
    assert mooring("models", "load", "told") == "told is ready\n"
    assert "nobody" in mooring("models", "load", "nobody", status=1)
    described = [line.split() for line in mooring("models", "describe", "sums").splitlines()]
    for line in (["name", "sums"], ["versions", "1"], ["max", "batch", "size", "8"],
                 ["input", "x", "FP32", "[-1,", "3]"], ["output", "peak", "FP32", "[-1]"]):  # fmt: skip
        assert line in described
    untold = mooring("models", "describe", "told")
    assert "It declares no tensors: " in untold


def test_a_url_that_contradicts_is_refused(tensors):
    done = CliRunner().invoke(commands, ["models", "list", "--grpc", "--url", tensors.url])
    assert done.exit_code == 2
    assert "--grpc speaks with a grpc:// or grpcs:// URL" in done.output


def test_an_address_without_models_is_said_to_be_the_wrong_one(tensors):
    url = f"http://127.0.0.1:{tensors.ports[1]}"
    done = CliRunner().invoke(commands, ["models", "list", "--url", url])
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {url} has no /v2/repository/index; give the inference address")
    assert done.output.count("\n") == 1


def test_a_server_that_is_not_there_is_one_line_and_status_1():
    (port,) = free_ports(1)
    done = subprocess.run(
        [SCRIPTS / "mooring", "models", "list", "--url", f"http://127.0.0.1:{port}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the server cannot be reached")
    assert done.stderr.count("\n") == 1


def test_timing_is_beside_the_answer(mooring):
    told = mooring("infer", "mirror", "-i", "x=[1, 2]", "--timing")
    answer, timing = told.splitlines()
    assert json.loads(answer) == {"x": [1, 2]}
    assert re.fullmatch(
        r"queue [\d.]+ ms, batch [\d.]+ ms, model [\d.]+ ms, encode [\d.]+ ms, total [\d.]+ ms, 1 row in the call",
        timing,
    )
    assert "does not go with --stream" in mooring("infer", "mirror", "--timing", "--stream", status=2)
