"""What the REST client sends, and what it makes of answers, without a socket."""

import json

import msgspec
import numpy as np
import pytest

from mooring.client.address import Address
from mooring.client.conversion import request_of
from mooring.client.documents import index_of, metadata_of, usage_of
from mooring.client.rest_calls import (
    answer_of,
    error_of,
    event_of,
    infer_call,
    load_body,
    model_path,
    stream_call,
)
from mooring.client.result import Result
from mooring.core import errors
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor, TensorSpec

JSON = {"content_type": "application/json"}


def request(**how):
    given = {"version": "", "request_id": "", "parameters": None, "outputs": (), **how}
    return request_of("m", {"x": np.array([1.5, 2], np.float32)}, **given)


def test_binary_tensors_follow_the_json_and_its_length_is_said():
    call = infer_call(request(), binary=True)
    size = int(call.headers["inference-header-content-length"])
    head = json.loads(call.body[:size])
    assert head["parameters"] == {"binary_data_output": True}
    assert head["inputs"][0]["parameters"] == {"binary_data_size": 8}
    assert call.body[size:] == np.array([1.5, 2], np.float32).tobytes()


def test_other_servers_look_at_every_output_for_how_it_is_wanted():
    call = infer_call(request(outputs=["a", "b"]), binary=True)
    head = json.loads(call.body[: int(call.headers["inference-header-content-length"])])
    assert [each["parameters"] for each in head["outputs"]] == [{"binary_data": True}] * 2
    assert "parameters" not in head


def test_json_has_no_length_to_say():
    call = infer_call(request(parameters={"a": 1}), binary=False)
    assert call.headers == {"content-type": "application/json"}
    assert json.loads(call.body)["parameters"] == {"a": 1}
    assert json.loads(call.body)["inputs"][0]["data"] == [1.5, 2.0]


def test_bytes_that_are_no_text_are_refused_where_json_would_change_them():
    asked = request_of("m", {"x": b"\xff"})
    with pytest.raises(errors.InvalidInput, match=r"input 'x' holds bytes .* binary=True, or ask over gRPC"):
        infer_call(asked, binary=False)
    with pytest.raises(errors.InvalidInput, match=r"input 'x' holds bytes .*: ask over gRPC"):
        stream_call(asked)
    assert asked.inputs[0].parameters is None
    assert infer_call(asked, binary=True).body.endswith(b"\x01\0\0\0\xff")
    assert json.loads(stream_call(request_of("m", {"x": b"a"})).body)["inputs"][0]["data"] == ["a"]


def test_names_are_quoted_in_paths_and_slashes_stay():
    assert model_path("a b/\u00fc", "1/2", "/infer") == "/v2/models/a%20b/%C3%BC/versions/1%2F2/infer"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, errors.InvalidInput), (413, errors.InvalidInput), (404, errors.ModelNotFound), (429, errors.QueueFull),
     (500, errors.ModelFailed), (501, errors.Unsupported), (502, errors.ModelFailed), (503, errors.ModelNotReady),
     (504, errors.DeadlineExceeded), (507, errors.OutOfResources)],
)  # fmt: skip
def test_every_status_is_an_error_of_a_kind(status, kind):
    error = error_of(status, {}, b'{"error": "why"}', model="m", version="1")
    assert type(error) is kind
    assert (error.message, error.code, error.model, error.version) == ("why", status, "m", "1")


def test_a_conflict_that_a_model_answers_with_is_no_model_that_exists():
    assert type(error_of(409, {}, b"")) is errors.ModelExists
    assert type(error_of(409, {}, b"", inference=True)) is errors.ModelFailed


def test_503_with_a_time_to_come_again_is_a_full_queue():
    assert type(error_of(503, {"retry-after": "1"}, b"")) is errors.QueueFull


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"plain text", "plain text"), (b'{"code": 404, "message": "no"}', "no"), (b"", "the server answered 400"),
     (b'{"detail": "x"}', "{'detail': 'x'}"), (b"[1]", "[1]"), (b"\xff", "\ufffd")],
)  # fmt: skip
def test_the_reason_is_found_wherever_a_server_puts_it(body, text):
    assert error_of(400, {}, body).message == text


def test_a_page_of_a_proxy_is_not_shown():
    error = error_of(502, {"content-type": "text/html"}, b"<html>")
    assert error.message == "the server answered 502 with a page, as proxies do"


def test_outputs_that_hold_json_are_the_values_that_it_says():
    texts = [b'{"a": [1, null]}', b"NaN"]
    tensors = [Tensor("one", "BYTES", [1], texts[:1], JSON), Tensor("two", "BYTES", [2], texts, JSON),
               Tensor("plain", "BYTES", [1], texts[:1])]  # fmt: skip
    result = Result(InferenceResponse(tensors, model="m", version="1"))
    assert result["one"] == {"a": [1, None]}
    assert result["two"][0] == {"a": [1, None]}
    assert result["plain"].tolist() == texts[:1]
    with pytest.raises(KeyError, match="model 'm' has no output 'tow'; it has 'one', 'two', 'plain'"):
        result["tow"]
    with pytest.raises(errors.InvalidOutput, match="output 'x' is not the JSON that it says it is"):
        Result(InferenceResponse([Tensor("x", "BYTES", [1], [b"{"], JSON)]))


@pytest.mark.parametrize(
    ("tensor", "shape", "value"),
    [
        (Tensor("y", "BYTES", [1], [b"a"]), [1], "a"),
        (Tensor("y", "BYTES", [1], [b"\xff"]), [1], b"\xff"),
        (Tensor("y", "INT64", [1], bytes(8)), [1], 0),
    ],
)
def test_the_value_of_an_output_of_one_element_is_the_element(tensor, shape, value):
    response = InferenceResponse([tensor], model="m", version="1")
    assert Result(response, [TensorSpec("y", tensor.datatype, shape)]).value == value
    assert Result(response, [TensorSpec("y", "", [], unknown_rank=True)]).value == value
    for open_shape in ([TensorSpec("y", tensor.datatype, [-1])], []):
        assert Result(response, open_shape).value.shape == (1,)


def test_an_answer_with_bare_tokens_is_read():
    body = b'{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[NaN,-Infinity]}]}'
    result = Result(answer_of({}, body))
    assert np.array_equal(result["y"], [np.nan, -np.inf], equal_nan=True)
    piece = event_of("data: " + body.decode(), model="m", version="")
    assert piece is not None
    assert np.isnan(piece.outputs[0].array()[0])


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"outputs":[{"name":"y"}]}', b'{"outputs":[7]}'])
def test_an_answer_that_is_none_is_said_to_be(body):
    with pytest.raises(errors.InvalidOutput, match="cannot be read"):
        answer_of({}, body)
    with pytest.raises(errors.InvalidOutput):
        answer_of({"inference-header-content-length": "abc"}, body)


def test_events_are_the_lines_that_say_data():
    for line in ("", ": a comment", "event: message", "id: 7"):
        assert event_of(line, model="m", version="") is None
    with pytest.raises(errors.ModelFailed, match="why"):
        event_of('data: {"error": "why"}', model="m", version="")


def test_a_load_says_configuration_files_and_parameters():
    assert load_body(None, None, None) == b"{}"
    said = msgspec.json.decode(load_body({"a": 1}, {"1/m.py": b"x"}, {"p": True}))
    assert said == {"parameters": {"p": True, "config": '{"a":1}', "file:1/m.py": "eA=="}}


def test_documents_are_read_with_numbers_as_numbers_or_as_texts():
    assert metadata_of(
        {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", 3]}]}
    ).inputs[0].shape == [-1, 3]
    assert index_of([{"name": "m"}, {"name": "n", "version": "1", "state": "READY"}])[1].ready
    (usage,) = usage_of({"model_stats": [{"name": "m", "inference_count": "7", "inference_stats": {"success": {"count": "2", "ns": 9}}}]})  # fmt: skip
    assert (usage.inferences, usage.success.count, usage.success.ns, usage.fail.count) == (7, 2, 9, 0)
    with pytest.raises(errors.InvalidOutput, match="cannot be read"):
        metadata_of({"name": 7})


@pytest.mark.parametrize(
    ("url", "authority", "grpc"),
    [("http://h:1", "h:1", False), ("h:1", "h:1", False), ("grpc://h", "h:7070", True), ("grpcs://[::1]:2", "[::1]:2", True)],
)  # fmt: skip
def test_a_url_says_how_to_speak(url, authority, grpc):
    address = Address.of(url)
    assert (address.authority, address.grpc) == (authority, grpc)
