"""Functions of Python values, served: the same meaning over every protocol, in German and Japanese too."""

import json
import queue
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from e2e_kit import JSON, PATIENCE, Server, Wire, request, serving, until
from websockets.sync.client import connect

from mooring.codecs.proto import torchserve_inference_pb2 as inference

APP = """
from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator

import mooring


@dataclasses.dataclass
class Post:
    text: str
    stars: int = 3


def count(text: str, k: int = 1) -> dict:
    return {"text": text, "letters": len(text) * k}


def increase(x: int) -> int:
    if x < 0:
        raise mooring.InvalidInput("x is below 0")
    if x == 666:
        os._exit(1)
    return x + 1


def rate(post: Post, asked: mooring.Request) -> dict:
    return {"text": post.text, "stars": post.stars, "user": asked.headers.get("x-user"), "id": asked.id}


def tokens(text: str) -> Iterator[str]:
    for word in text.split():
        yield f"{word} "


async def numbers(n: int) -> AsyncIterator[dict]:
    for each in range(n):
        await asyncio.sleep(0)
        yield {"n": each, "word": "七"}


class Embed(mooring.Model):
    def load(self, context):
        self.sizes = []

    @mooring.batch(max_size=8, max_delay=0.02)
    def infer(self, texts: list[str]) -> list[dict]:
        self.sizes.append(len(texts))
        if "bad" in texts:
            raise ValueError("bad text")
        return [{"text": text[::-1], "most": max(self.sizes)} for text in texts]


class Strict(mooring.Model):
    client_errors = (ValueError,)

    def infer(self, x: int):
        return 1 // x if x > 1 else int("no number")


def halve(inputs):
    if inputs["x"].any():
        raise ValueError("not all zero")
    return inputs


halve.client_errors = ["ValueError"]


async def waiting(x: int, asked: mooring.Request):
    await asyncio.sleep(0.01)
    return [x, asked.headers["n"]]
"""
CHAIN = """
name = "shout"
[[models]]
name = "upper"
entry = "app.py:upper"
[[models]]
name = "mark"
entry = "app.py:mark"
"""
STAGES = """
def upper(text: str) -> str:
    return text.upper()

def mark(output: str) -> str:
    return output + "!"
"""
NAMES = ("count", "increase", "rate", "tokens", "numbers", "Embed", "Strict", "halve", "waiting")
TEXTS = ("Grüße aus Köln", "日本語のテキスト")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("values")
    (folder / "app.py").write_text(APP)
    chain = folder / "models/shout"
    (chain / "1").mkdir(parents=True)
    (chain / "config.toml").write_text(CHAIN)
    (chain / "1/app.py").write_text(STAGES)
    targets = [f"{name.lower()}=app.py:{name}" for name in NAMES]
    with serving(folder, *targets, "--model-repository", folder / "models") as server:
        yield server


def post(server, target, document, *lines):
    body = document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()
    return server.ask("POST", target, body, f"Content-Type: {JSON}", *lines)


def v2(server, model, *inputs, **more):
    return post(server, f"/v2/models/{model}/infer", {"inputs": list(inputs), **more})


def bytes_input(name, *texts):
    return {"name": name, "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_has_one_meaning_over_every_protocol(server, text):
    wanted = {"text": text, "letters": len(text) * 2}
    asked = {"text": text, "k": 2}
    assert post(server, "/predictions/count", asked).json() == wanted
    form = (
        f'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\n{text}\r\n'
        f'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n2\r\n--b--\r\n'
    )
    multipart = "Content-Type: multipart/form-data; boundary=b"
    assert server.ask("POST", "/predictions/count", form.encode(), multipart).json() == wanted
    assert post(server, "/v1/models/count:predict", {"instances": [asked, asked]}).json() == {
        "predictions": [wanted] * 2
    }
    k = {"name": "k", "datatype": "INT64", "shape": [1], "data": [2]}
    answer = v2(server, "count", bytes_input("text", text), k, id="ü7").json()
    (output,) = answer["outputs"]
    assert (answer["id"], output["name"], output["datatype"], output["shape"]) == (
        "ü7",
        "output",
        "BYTES",
        [1],
    )
    assert output["parameters"] == {"content_type": JSON}
    assert json.loads(output["data"][0]) == wanted
    assert post(server, "/v2/models/count/generate", asked).json()["output"] == wanted
    event = post(
        server,
        "/v1/models/count:predict",
        {"instances": [asked]},
        "ce-specversion: 1.0",
        "ce-id: 1",
        "ce-source: t",
        "ce-type: t",
    )
    assert event.json() == {"predictions": [wanted]}
    assert _over_grpc(server, "count", text=text, k=2) == wanted
    message = inference.PredictionsRequest(model_name="count", input={"text": text.encode(), "k": b"2"})
    with grpc.insecure_channel(server.grpc) as channel:
        rpc = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
        found = channel.unary_unary(rpc)(message.SerializeToString(), timeout=PATIENCE)
    assert json.loads(inference.PredictionResponse.FromString(found).prediction) == wanted
    with connect(server.url.replace("http", "ws") + "/models/infer") as socket:
        socket.send(json.dumps({"model": "count", "inputs": [bytes_input("text", text)]}))
        told = socket.recv(timeout=PATIENCE)
    assert json.loads(told)["text"] == text


def _over_grpc(server, model, **inputs):
    with triton.InferenceServerClient(server.grpc) as client:
        return json.loads(client.infer(model, _triton_inputs(inputs)).as_numpy("output")[0])


def _triton_inputs(inputs):
    given = []
    for name, value in inputs.items():
        array = np.array([value.encode()], np.object_) if isinstance(value, str) else np.array([value])
        given.append(
            triton.InferInput(name, list(array.shape), "BYTES" if isinstance(value, str) else "INT64")
        )
        given[-1].set_data_from_numpy(array)
    return given


def test_numbers_are_numbers_in_and_out(server):
    for body in (b"41", b'{"x": 41}', b'{"x":41.0}'):
        assert post(server, "/predictions/increase", body).body == b"42"
    assert post(server, "/v1/models/increase:predict", {"instances": [1, {"x": 2}]}).json() == {
        "predictions": [2, 3]
    }
    many = {"instances": list(range(300))}
    assert post(server, "/v1/models/increase:predict", many).json() == {"predictions": list(range(1, 301))}
    for shape, data in (([1], [41]), ([1, 1], [[41]]), ([], [41])):
        answer = v2(
            server, "increase", {"name": "x", "datatype": "INT32", "shape": shape, "data": data}
        ).json()
        assert answer["outputs"] == [{"name": "output", "datatype": "INT64", "shape": [1], "data": [42]}]
    assert server.ask("GET", "/v2/models/increase").json()["inputs"] == [
        {"name": "x", "datatype": "INT64", "shape": [1]}
    ]


def test_an_object_is_the_argument_and_the_request_has_headers_and_id(server):
    wanted = {"text": "ü", "stars": 3, "user": "ann", "id": "r-1"}
    lines = ("X-User: ann", "X-Request-Id: r-1")
    assert post(server, "/predictions/rate", {"text": "ü"}, *lines).json() == wanted
    assert post(server, "/v1/models/rate:predict", {"instances": [{"text": "ü"}]}, *lines).json() == {
        "predictions": [wanted]
    }
    body = {"inputs": [bytes_input("post", '{"text": "ü"}')]}
    found = post(server, "/v2/models/rate/infer", body, *lines).json()["outputs"][0]["data"][0]
    assert json.loads(found) == wanted
    assert (
        post(server, "/v2/models/rate/generate", {"post": {"text": "ü"}}, *lines).json()["output"] == wanted
    )
    with triton.InferenceServerClient(server.grpc) as client:
        given = _triton_inputs({"post": '{"text": "ü"}'})
        answer = client.infer("rate", given, headers={"x-user": "ann"}, request_id="r-1")
    assert json.loads(answer.as_numpy("output")[0]) == wanted


@pytest.mark.parametrize(
    ("model", "document", "says"),
    [
        ("increase", "five", "x must be a whole number, not a string"),
        ("increase", {"y": 5}, "unexpected input 'y'; the model takes 'x'"),
        ("increase", -1, "x is below 0"),
        ("count", {"k": 2}, "input 'text' is missing; the model takes 'text', 'k'"),
        ("count", {"text": "a", "k": "zwei"}, "k must be a whole number, not a string"),
        ("rate", {"text": 5}, "post.text must be a string, not a whole number"),
    ],
)
def test_a_wrong_body_is_refused_with_field_and_reason_in_each_protocols_form(server, model, document, says):
    answer = post(server, f"/predictions/{model}", document)
    assert (answer.code, answer.json()["code"]) == (400, 400)
    assert says in answer.json()["message"]
    answer = post(server, f"/v1/models/{model}:predict", {"instances": [document]})
    assert answer.code == 400
    assert says in answer.json()["error"]


def test_the_wrong_one_of_many_instances_is_named(server):
    answer = post(server, "/v1/models/increase:predict", {"instances": [1, 2, "drei", 4]})
    assert answer.json()["error"].startswith("instance 2: x must be a whole number, not a string")
    answer = post(server, "/v1/models/embed:predict", {"instances": ["a"] * 11 + [5]})
    assert answer.json()["error"].startswith("instance 11: texts must be a string, not a whole number")


def test_wrong_tensors_are_refused_with_field_and_reason_over_rest_and_grpc(server):
    answer = v2(server, "increase", bytes_input("x", "five"))
    assert answer.code == 400
    assert "x must be a whole number" in answer.json()["error"]
    assert "unexpected input 'z'" in v2(server, "increase", bytes_input("z", "5")).json()["error"]
    with (
        triton.InferenceServerClient(server.grpc) as client,
        pytest.raises(Exception, match="k must be a whole number"),
    ):
        client.infer("count", _triton_inputs({"text": "a", "k": "zwei"}))


def test_exceptions_that_a_model_calls_the_clients_are_400_of_values_and_of_tensors(server):
    answer = post(server, "/predictions/strict", 0)
    assert (answer.code, "invalid literal" in answer.json()["message"]) == (400, True)
    assert post(server, "/predictions/strict", 2).body == b"0"
    answer = post(server, "/predictions/halve", {"x": [1]})
    assert (answer.code, answer.json()["message"]) == (400, "not all zero")


def test_the_header_to_send_is_named_where_curl_sent_a_form(server):
    answer = server.ask(
        "POST", "/predictions/increase", b'{"x": 5}', "Content-Type: application/x-www-form-urlencoded"
    )
    assert answer.code == 400
    assert "content-type: application/json" in answer.json()["message"].lower()
    assert server.ask("POST", "/predictions/increase", b'{"x": 5}').body == b"6"


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_of_text_over_every_protocol(server, text):
    words = [f"{word} " for word in text.split()]
    answer = post(server, "/predictions/tokens", text)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert _chunks(answer.body) == [word.encode() for word in words]
    assert post(server, "/v1/models/tokens:predict", {"instances": [text]}).json() == {"predictions": [words]}
    events = post(server, "/v2/models/tokens/generate_stream", {"text": text}).body.decode()
    assert [
        json.loads(line[6:])["output"] for line in events.splitlines() if line.startswith("data: ")
    ] == words
    assert _stream_over_grpc(server, "tokens", text=text) == [word.encode() for word in words]


def _chunks(body):
    lines = body.split(b"\r\n")
    return [lines[at + 1] for at in range(0, len(lines) - 2, 2) if lines[at] != b"0"]


def _stream_over_grpc(server, model, **inputs):
    found, answers = [], queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(model, _triton_inputs(inputs), enable_empty_final_response=True)
        while True:
            result, error = answers.get(timeout=PATIENCE)
            assert error is None, error
            response = result.get_response()
            if response.outputs:
                found += list(result.as_numpy("output"))
            if response.parameters["triton_final_response"].bool_param:
                break
        client.stop_stream()
    return found


def test_a_stream_of_objects_is_lines_of_json(server):
    wanted = [{"n": 0, "word": "七"}, {"n": 1, "word": "七"}]
    answer = post(server, "/predictions/numbers", 2)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(chunk) for chunk in _chunks(answer.body)] == wanted
    events = post(server, "/v2/models/numbers/generate_stream", {"n": 2}).body.decode()
    assert [
        json.loads(line[6:])["output"] for line in events.splitlines() if line.startswith("data: ")
    ] == wanted


def test_concurrent_clients_share_batches_and_each_gets_its_own_answer_and_error(server):
    texts = [f"{number} ü日" if number % 9 else "bad" for number in range(64)]

    def ask(text):
        return text, post(server, "/predictions/embed", text)

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, texts))
    most = 0
    for text, answer in found:
        if text == "bad":
            assert answer.code in (500, 503)
        else:
            assert answer.json()["text"] == text[::-1]
            most = max(most, answer.json()["most"])
    assert 1 < most <= 8
    (described,) = server_management(server, "/models/embed")
    assert (described["batchSize"], described["maxBatchDelay"]) == (8, 20)


def server_management(server, path):
    with Wire(server.ports[1]) as wire:
        wire.send(request("GET", path))
        return wire.answer().json()


def test_instances_and_first_dimensions_are_samples_of_a_batch(server):
    texts = [f"{number}ß" for number in range(20)]
    found = post(server, "/v1/models/embed:predict", {"instances": texts}).json()["predictions"]
    assert [each["text"] for each in found] == [text[::-1] for text in texts]
    (output,) = v2(server, "embed", bytes_input("texts", *texts)).json()["outputs"]
    assert output["shape"] == [20, 1]
    assert [json.loads(each)["text"] for each in output["data"]] == [text[::-1] for text in texts]
    metadata = server.ask("GET", "/v2/models/embed").json()
    assert [(each["name"], each["shape"]) for each in metadata["inputs"]] == [("texts", [-1, 1])]


def test_calls_of_a_coroutine_overlap_and_are_not_mixed_up(server):
    def ask(number):
        return post(server, "/predictions/waiting", number, f"N: {number}").json()

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(48))) == [[number, str(number)] for number in range(48)]


def test_functions_are_the_stages_of_a_chain(server):
    assert post(server, "/predictions/shout", "grüße").json() == "GRÜSSE!"
    (output,) = v2(server, "shout", bytes_input("text", "grüße")).json()["outputs"]
    assert output["data"] == ["GRÜSSE!"]


def test_a_large_body_is_read_by_the_worker(server):
    text = "日ü" * 200_000
    assert post(server, "/predictions/count", {"text": text}).json() == {"text": text, "letters": len(text)}
    found = post(server, "/v1/models/embed:predict", {"instances": [text, text]}).json()["predictions"]
    assert [each["text"] for each in found] == [text[::-1]] * 2
    (output,) = v2(server, "count", bytes_input("text", text)).json()["outputs"]
    assert json.loads(output["data"][0])["text"] == text
    answer = post(server, "/v2/models/count/generate", {"text": text}).json()
    assert answer["output"]["letters"] == len(text)


def test_a_function_that_ends_its_worker_takes_nobody_with_it(server):
    before = server.workers("increase")
    assert post(server, "/predictions/increase", 666).code >= 500
    until(lambda: server.workers("increase") not in ([], before))
    assert post(server, "/predictions/increase", 1).body == b"2"


def test_frontends_know_what_the_code_asks_for(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    server = Server(tmp_path, "rate=app.py:rate", "embed=app.py:Embed", "--frontends=2")
    try:
        server.started()
        for number in range(8):
            assert post(server, "/predictions/rate", {"text": "ü"}, f"X-User: {number}").json()[
                "user"
            ] == str(number)
        with ThreadPoolExecutor(16) as pool:
            found = list(
                pool.map(lambda text: post(server, "/predictions/embed", text).json(), map(str, range(64)))
            )
        assert [each["text"] for each in found] == [str(number)[::-1] for number in range(64)]
        assert max(each["most"] for each in found) > 1
        assert server.stop() == 0
    finally:
        server.kill()
