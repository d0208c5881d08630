"""What JSON has no word for, on every route of a real server: missing values, infinities, bytes that are no text."""

import base64
import gzip
import json
from contextlib import contextmanager

import numpy as np
import pytest
from e2e_kit import Server, until

import mooring

# y is how many elements are missing, z what has no number in JSON, w bytes that are not UTF-8.
MODEL = """
import numpy as np

def mean(inputs, parameters):
    x = np.asarray(inputs["x"], np.float32)
    return {"missing": np.isnan(x).sum(axis=-1, keepdims=True), "z": np.array([[np.nan, np.inf, 1.0]])}

def flags(inputs, parameters):
    return {"y": inputs["x"]}

def stops(inputs, parameters):
    return {"y": np.array([[str(parameters["stop"])]], object)}

def broken(inputs, parameters):
    raise RuntimeError("no such luck")

def raw(inputs, parameters):
    return {"w": np.array([[b"text", b"\\xff\\xfe\\x00"]], object)}
"""
DATATYPES = {"mean": "FP32", "flags": "INT32", "raw": "FP32", "broken": "FP32", "stops": "FP32"}
NUMBERS = [None, 1, "NaN", "-Infinity"]
MISSING = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": NUMBERS}]}).encode()
NULL = "Accept: application/json; nan=null"


@contextmanager
def serving(folder, *flags: str):
    for name, datatype in DATATYPES.items():
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "1" / "model.py").write_text(MODEL)
        (folder / "models" / name / "config.toml").write_text(
            f'backend = "function"\nentry = "model.py:{name}"\nmax_batch_size = 1\n'
            f'[[inputs]]\nname = "x"\ndatatype = "{datatype}"\nshape = [-1, -1]\n'
        )
    server = Server(folder, f"--model-repository={folder / 'models'}", *flags)
    try:
        yield server.started()
        assert not server.faults()
        server.stop()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("values")) as server:
        yield server


def plain(body: bytes):
    """What a parser of another language reads, which knows no NaN."""
    return json.loads(body, parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))


@pytest.mark.parametrize(
    ("target", "body", "missing"),
    [
        ("/predictions/mean", {"x": NUMBERS}, lambda found: found["missing"]),
        ("/predictions/mean", NUMBERS, lambda found: found["missing"]),
        ("/v1/models/mean:predict", {"instances": [{"x": NUMBERS}]}, lambda found: found["predictions"][0]["missing"]),
        ("/v1/models/mean:predict", {"instances": [NUMBERS]}, lambda found: found["predictions"][0]["missing"]),
        ("/v2/models/mean/generate", {"x": NUMBERS}, lambda found: [found["missing"]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("large", [False, True])
def test_null_is_a_missing_value_on_every_route(served, target, body, missing, large):
    text = json.dumps(body).encode() + b" " * (70_000 if large else 0)
    answer = served.ask("POST", target, text, NULL)
    assert (answer.code, missing(plain(answer.body))) == (200, [2])


@pytest.mark.parametrize("large", [False, True])
def test_v2_answers_with_tokens_as_triton_does_and_with_null_where_the_client_says_so(served, large):
    text = MISSING + b" " * (70_000 if large else 0)
    answer = served.ask("POST", "/v2/models/mean/infer", text)
    assert b'"data":[NaN,Infinity,1.0]' in answer.body
    found = plain(served.ask("POST", "/v2/models/mean/infer", text, NULL).body)
    assert [each["data"] for each in found["outputs"]] == [[2], [None, None, 1.0]]


def test_v1_and_predictions_answer_with_null(served):
    found = plain(served.predict("mean", json.dumps({"x": [1]})).body)
    assert found == {"missing": [0], "z": [None, None, 1.0]}
    found = plain(served.ask("POST", "/v1/models/mean:predict", b'{"instances": [[1]]}').body)
    assert found["predictions"] == [{"missing": [0], "z": [None, None, 1.0]}]


def test_the_setting_says_it_for_every_protocol(tmp_path):
    with serving(tmp_path, "--json-nan=nan") as server:
        for body in (server.predict("mean", json.dumps({"x": [1]})).body,
                     server.ask("POST", "/v1/models/mean:predict", b'{"instances": [[1]]}').body):  # fmt: skip
            assert b"[NaN,Infinity,1.0]" in body


def test_null_everywhere_is_null_in_v2_too(tmp_path):
    with serving(tmp_path, "--json-nan=null") as server:
        found = plain(server.ask("POST", "/v2/models/mean/infer", MISSING).body)
        assert found["outputs"][1]["data"] == [None, None, 1.0]


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/predictions/flags", {"x": [1, 2, None]}),
        ("/v1/models/flags:predict", {"instances": [{"x": [1, 2, None]}]}),
        ("/v2/models/flags/generate", {"x": [1, 2, None]}),
        (
            "/v2/models/flags/infer",
            {"inputs": [{"name": "x", "datatype": "INT32", "shape": [3], "data": [1, 2, None]}]},
        ),
    ],
)
def test_in_another_tensor_null_is_refused_with_its_place(served, target, body):
    answer = served.ask("POST", target, json.dumps(body).encode())
    assert answer.code == 400
    assert "input 'x' holds null at [2]" in answer.body.decode()


def test_our_own_client_sends_and_reads_missing_values_and_bytes(served):
    for binary in (True, False):
        with mooring.Client(served.url, binary=binary) as client:
            array = np.float32([np.nan, 1, np.inf, -np.inf])
            found = client.infer("mean", {"x": array})
            assert found["missing"].tolist() == [1]
            np.testing.assert_array_equal(found["z"], [np.nan, np.inf, 1.0])
            found = client.infer("raw", {"x": np.float32([1])})
            assert found["w"].tolist() == [b"text", b"\xff\xfe\x00"]


def test_bytes_that_are_no_text_are_marked_in_every_answer(served):
    elements = [b"text", b"\xff\xfe\x00"]
    encoded = [base64.b64encode(each).decode() for each in elements]
    objects = [{"b64": each} for each in encoded]
    (output,) = served.ask("POST", "/v2/models/raw/infer", MISSING).json()["outputs"]
    assert (output["data"], output["parameters"]) == (encoded, {"content_type": "base64"})
    assert served.predict("raw", b'{"x": [1]}').json() == {"w": objects}
    assert served.ask("POST", "/v1/models/raw:predict", b'{"instances": [[1]]}').json()["predictions"] == [
        objects
    ]
    assert served.ask("POST", "/v2/models/raw/generate", b'{"x": [1]}').json()["w"] == objects


def test_a_compressed_body_is_inflated_on_every_route(served):
    for target, body in (
        ("/predictions/mean", b'{"x": [null]}'),
        ("/v1/models/mean:predict", b'{"instances": [[null]]}'),
        ("/v2/models/mean/infer", MISSING),
    ):
        packed = gzip.compress(body)
        assert b'"missing"' in served.ask("POST", target, packed, "Content-Encoding: gzip").body
        assert served.ask("POST", target, packed, "Content-Encoding: br").code == 415


@pytest.mark.parametrize("size", [0, 70_000])
def test_inputs_are_instances_in_rows_and_in_columns(served, size):
    for inputs in ([[1], [None]], [{"x": [1]}, {"x": [None]}], {"x": [[1], [None]]}):
        body = json.dumps({"inputs": inputs}).encode() + b" " * size
        found = served.ask("POST", "/v1/models/mean:predict", body).json()["predictions"]
        assert [each["missing"] for each in found] == [[0], [1]]


def test_the_log_calls_a_request_as_its_caller_did(served):
    answer = served.ask("POST", "/v1/models/broken:predict", b'{"instances": [[1]]}', "X-Request-Id: mine-17")
    assert (answer.code, answer.headers["x-request-id"]) == (500, "mine-17")
    until(lambda: "request=mine-17" in served.log)


@pytest.mark.parametrize("padding", [0, 70_000])
def test_a_parameter_that_is_a_list_or_an_object_reaches_the_model(served, padding):
    stop = ["\n", {"token": 7}]
    for target, body, found in (
        (
            "infer",
            json.loads(MISSING) | {"parameters": {"stop": stop}},
            lambda answer: answer["outputs"][0]["data"][0],
        ),
        ("generate", {"x": [1], "stop": stop}, lambda answer: answer["y"]),
    ):
        text = json.dumps(body).encode() + b" " * padding
        assert found(served.ask("POST", f"/v2/models/stops/{target}", text).json()) == str(stop)
