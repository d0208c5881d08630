"""Archives of the real torch-model-archiver, in each of its formats, and the models of our own repository."""

import io
import json
import math

import pytest
from e2e_kit import JSON, answered, refused, streamed

INTERNAL = "500 Internal Server Error"


def ask_json(server, target, document):
    return server.ask("POST", target, json.dumps(document).encode(), f"Content-Type: {JSON}")


def test_an_eager_model_with_its_weights_calculates(server):
    assert ask_json(server, "/predictions/eager", [1, 2, 3, 4]) == answered("[\n  10.0,\n  -1.0\n]", JSON)


def test_an_eager_model_takes_instances(server):
    answer = ask_json(
        server, "/v1/models/eager:predict", {"instances": [[1, 2, 3, 4], {"data": [4, 0, 0, 0]}]}
    )
    assert answer.json() == {"predictions": [[10.0, -1.0], [4.0, 4.0]]}


def test_a_base_handler_without_insights_cannot_explain(server):
    answer = ask_json(server, "/explanations/eager", [1, 2, 3, 4])
    assert answer == refused(INTERNAL, "InternalServerException", "Prediction failed")


@pytest.fixture(scope="module")
def photo():
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (300, 260), (255, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_the_default_image_classifier_names_five_classes_with_the_labels_of_the_archive(server, photo):
    answer = server.ask("PUT", "/predictions/tiny", photo)
    assert answer.headers["content-type"] == JSON
    # The constants 0 to 4, and for the red image (1 - 0.485) / 0.229 = 2.2489 after the normalization.
    logits = {f"label {index}": float(index) for index in range(5)} | {"label 5": 0.515 / 0.229}
    total = sum(math.exp(logit) for logit in logits.values())
    expected = {
        label: math.exp(logits[label]) / total for label in sorted(logits, key=logits.get, reverse=True)[:5]
    }
    assert list(answer.json()) == list(expected)
    assert answer.json() == pytest.approx(expected, abs=1e-5)


def test_the_default_image_classifier_explains_every_pixel(server, photo):
    found = server.ask("PUT", "/explanations/tiny", photo)
    # An explanation of 3 x 224 x 224 numbers is above this server's max_response_size.
    assert found.code == 500
    assert "max_response_size is 1000000" in found.json()["message"]


def test_what_is_no_image_is_the_models_failure(server):
    assert server.predict("tiny", "no image") == refused(
        INTERNAL, "InternalServerException", "Prediction failed"
    )


@pytest.mark.parametrize(
    ("target", "document", "expected"),
    [
        ("/predictions/scale", {"x": [1, 2.5]}, '{"output":[2.0,5.0]}'),
        ("/predictions/scale", {"x": 3, "factor": 10}, '{"output":30}'),
        ("/predictions/scale", [[1], [2]], '{"output":[[2.0],[4.0]]}'),
        ("/predictions/keeper", {"x": [1, 2]}, '{"sum":[101,102]}'),
        ("/predictions/keeper/1", {"x": [1]}, '{"sum":[101]}'),
        ("/explanations/keeper", {"x": [1, 2]}, '{"share":[1,1]}'),
        ("/predictions/typed", {"x": [[1, 2, 3]]}, '{"total":[6.0]}'),
        ("/predictions/typed", {"instances": [[1, 2, 3], [4, 5, 6]]}, '{"predictions":[6.0,15.0]}'),
        ("/predictions/echo", {"input": [3]}, '{"output":[4]}'),
        ("/predictions/echo", {"input": [4294967295]}, '{"output":[0]}'),
        ("/predictions/negative", {"input": [[[0, 1, 255]]]}, '{"output":[[[255,254,0]]]}'),
        (
            "/predictions/echo_multi",
            {"input0": [1], "input1": [2, 3]},
            '{"output0":[1],"output1":[2,3,1,2],"output2":[3,1,2]}',
        ),
    ],
)  # fmt: skip
def test_models_of_arrays_answer_by_output_name(server, target, document, expected):
    answer = ask_json(server, target, document)
    assert answer == answered(expected, JSON)


def test_a_generator_streams_its_pieces(server):
    pieces = [f'{{"n":[{number}]}}' for number in range(3)]
    assert ask_json(server, "/predictions/counter", {"to": 3}) == streamed(*pieces, content_type=JSON)


@pytest.mark.parametrize(
    ("target", "document", "expected"),
    [
        ("/v1/models/scale:predict", [1, 2], {"predictions": [2.0, 4.0]}),
        ("/v1/models/keeper:predict", [{"x": 1}, {"x": 2}], {"predictions": [101, 102]}),
        ("/v1/models/keeper:explain", [{"x": [1, 2]}], {"explanations": [[1, 1]]}),
        ("/v1/models/typed:predict", [[1, 2, 3]] * 40, {"predictions": [6.0] * 40}),
        ("/v1/models/rows:predict", [{"a": 1}, "text", 3], {"predictions": ["{'a': 1}", "'text'", "3"]}),
    ],
)
def test_instances_are_rows(server, target, document, expected):
    answer = ask_json(server, target, {"instances": document})
    assert answer.json() == expected


V1 = [
    # body, status, type, message, error
    (b"", "400 Bad Request", "BadRequestException"),
    (b"{", "400 Bad Request", "BadRequestException"),
    (b"[]", "400 Bad Request", "BadRequestException"),
    (b"{}", "400 Bad Request", "BadRequestException"),
    (b'{"instances": 3}', "400 Bad Request", "BadRequestException"),
    (b'{"instances": {"a": 1}}', "400 Bad Request", "BadRequestException"),
    (b'{"instances": "text"}', "400 Bad Request", "BadRequestException"),
    (b'{"instances": [1', "400 Bad Request", "BadRequestException"),
    (b'\xff\xfe{"instances": []}', "400 Bad Request", "BadRequestException"),
]


@pytest.mark.parametrize(("body", "status", "kind"), V1)
def test_a_v1_body_without_a_list_of_instances_is_refused_in_both_forms(server, body, status, kind):
    answer = server.ask("POST", "/v1/models/rows:predict", body, f"Content-Type: {JSON}")
    assert (answer.status, answer.headers["content-type"]) == (status, JSON)
    document = answer.json()
    assert list(document) == ["code", "type", "message", "error"]
    assert (document["code"], document["type"]) == (400, kind)
    assert document["error"] == document["message"]


@pytest.mark.parametrize(
    ("method", "target", "body", "expected"),
    [
        ("POST", "/v1/models/rows:predict", b'{"instances": []}', answered('{"predictions":[]}', JSON)),
        ("POST", "/v1/models/rows:explain", b'{"instances": []}', answered('{"explanations":[]}', JSON)),
        ("GET", "/v1/models/rows", b"", answered('{\n  "name": "rows",\n  "ready": true\n}\n', JSON)),
        (
            "GET",
            "/v1/models/nobody",
            b"",
            refused(
                "404 Not Found", "ModelNotFoundException", "Model not found: nobody",
                error="Model with name nobody does not exist.",
            ),
        ),
        (
            "POST",
            "/v1/models/nobody:predict",
            b'{"instances": [1]}',
            refused(
                "404 Not Found", "ModelNotFoundException", "Model not found: nobody",
                error="Model with name nobody does not exist.",
            ),
        ),
    ],
)  # fmt: skip
def test_the_edges_of_v1(server, method, target, body, expected):
    assert server.ask(method, target, body) == expected


def test_v1_lists_the_models_that_are_ready(server):
    names = server.ask("GET", "/v1/models").json()["models"]
    assert names == sorted(names)
    assert {"digits", "rows", "answers", "batch", "eager", "tiny", "scale", "keeper", "echo"} <= set(names)


def test_every_answer_of_a_v1_request_keeps_its_place_when_other_requests_share_its_batches(server):
    from concurrent.futures import ThreadPoolExecutor

    def ask(first):
        instances = [{"x": first + number} for number in range(20)]
        return ask_json(server, "/v1/models/keeper:predict", {"instances": instances}).json()

    with ThreadPoolExecutor(6) as clients:
        found = list(clients.map(ask, range(0, 600, 100)))
    assert found == [
        {"predictions": [first + number + 100 for number in range(20)]} for first in range(0, 600, 100)
    ]
