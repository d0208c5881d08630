"""TorchServe bodies: the row a handler gets (2.1), the bytes its client gets (1.2), and its refusals (1.3)."""

import json

import pytest
from handler_kit import answer, request

from mooring.core.buffers import Buffer
from mooring.core.errors import InvalidOutput, ModelFailed, ModelRefused, OutOfResources
from mooring.core.requests import Form, InferenceRequest
from mooring.core.tensors import Tensor

REPEAT = """
def handle(data, context):
    return None if data is None else [f"{type(row['body']).__name__} {row['body']!r}" for row in data]
"""


def returning(expression):
    return f"import math\ndef handle(data, context):\n    return None if data is None else {expression}\n"


@pytest.mark.parametrize(
    ("payload", "content_type", "seen"),
    [
        (b"\x00\xff", "", r"bytearray bytearray(b'\x00\xff')"),
        (b"plain", "application/octet-stream", "bytearray bytearray(b'plain')"),
        (b'{"a": [1, 2.5, null]}', "application/json", "dict {'a': [1, 2.5, None]}"),
        (b"[NaN]", "application/json", "list [nan]"),
        (b"7", "application/json; charset=utf-8", "int 7"),
        (b'{"a"', "application/json", "bytearray bytearray(b'{\"a\"')"),
        (b"{}", "Application/JSON", "bytearray bytearray(b'{}')"),
        (b"{}", "application/vnd.x+json", "bytearray bytearray(b'{}')"),
        ("é".encode(), "text/plain", "str 'é'"),
        (b"<a>", "text/html; charset=latin-1", "str '<a>'"),
        (b"\xff", "text/plain", r"bytearray bytearray(b'\xff')"),
        (b"t", "Text/plain", "bytearray bytearray(b't')"),
        (b"", "", "bytearray bytearray(b'')"),
        (b"", "application/json", "bytearray bytearray(b'')"),
    ],
)
def test_a_body_is_decoded_by_its_content_type(load, payload, content_type, seen):
    assert load(REPEAT).body(payload, content_type).decode() == seen


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_decoding_can_be_switched_off_for_the_whole_server(load, content_type):
    assert load(REPEAT, decode_input=False).body(b"{}", content_type) == b"bytearray bytearray(b'{}')"


def test_a_borrowed_buffer_is_copied_into_a_bytearray_of_the_handlers_own(load):
    source = "def handle(data, context):\n    data and data[0]['body'].extend(b'!')\n    return data and [data[0]['body']]\n"
    memory = bytearray(b"large")
    assert load(source).body(Buffer(memoryview(memory))) == b"large!"
    assert memory == b"large"


def test_every_field_of_a_form_is_a_key_and_files_are_decoded_by_their_own_type(load):
    fields = [
        Tensor("a", "BYTES", [1], [b"[1]"], {"content_type": "application/json", "file": True}),
        Tensor("b", "BYTES", [1], [b"[1]"], {"content_type": "application/json", "file": False}),
        Tensor("c", "BYTES", [1], [b"[1]"], {"content_type": ""}),
        Tensor("c", "BYTES", [1], [b"last"], None),
    ]
    model = load(returning("[repr(data[0])]"))
    outcome = model.infer(InferenceRequest("m", "", "r", fields, form=Form.BODY))[0]
    assert answer(outcome).decode() == "{'a': [1], 'b': bytearray(b'[1]'), 'c': bytearray(b'last')}"


def test_a_form_without_fields_is_an_empty_dict(load):
    outcome = load(returning("[repr(data[0])]")).infer(InferenceRequest("m", "", "r", [], form=Form.BODY))[0]
    assert answer(outcome) == b"{}"


@pytest.mark.parametrize(
    ("item", "body", "content_type"),
    [
        ("b'raw'", b"raw", ""),
        ("bytearray(b'raw')", b"raw", ""),
        ("'téxt'", "téxt".encode(), ""),
        ("{'y': 2.0}", b'{\n  "y": 2.0\n}', "application/json"),
        (
            "{'é': [1, (2, 3)]}",
            b'{\n  "\\u00e9": [\n    1,\n    [\n      2,\n      3\n    ]\n  ]\n}',
            "application/json",
        ),
        ("7", b"7", "application/json"),
        ("0.5", b"0.5", "application/json"),
        ("True", b"true", "application/json"),
        ("None", b"null", "application/json"),
        ("math.nan", b"NaN", "application/json"),
        ("1e-7", b"1e-07", "application/json"),
        ("[]", b"[]", "application/json"),
    ],
)
def test_an_item_becomes_a_body_by_its_type(load, item, body, content_type):
    (outcome,) = load(returning(f"[{item}]")).infer(request())
    assert answer(outcome) == body
    assert (outcome.head.content_type if outcome.head else "") == content_type


@pytest.mark.parametrize("returned", ["('a',)", "{'a': 1}", "None", "'text'", "b'bytes'"])
def test_anything_but_a_list_is_no_answer(load, returned):
    with pytest.raises(InvalidOutput, match=r"^Invalid model predict output$"):
        load(returning(returned)).body()


@pytest.mark.parametrize("returned", ["[]", "[1, 2]"])
def test_a_list_of_another_length_than_the_batch_is_no_answer(load, returned):
    with pytest.raises(InvalidOutput, match=r"^number of batch response mismatched$"):
        load(returning(returned)).body()


@pytest.mark.parametrize("item", ["{1, 2}", "object()", "{(1, 2): 3}", "'\\ud800'"])
def test_what_is_not_json_is_refused(load, item):
    with pytest.raises(InvalidOutput, match=r"^Unsupported model output data type\.$"):
        load(returning(f"[{item}]")).body()


def test_one_row_that_cannot_be_written_does_not_fail_the_others(load):
    model = load(returning("['good', {1}, 'good']"), max_batch_size=3)
    first, second, third = model.infer(request(), request(), request())
    assert answer(first) == answer(third) == b"good"
    assert isinstance(second, InvalidOutput)


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        ("ValueError('wrong shape')", ModelFailed, "ValueError: wrong shape"),
        ("KeyError('a')", ModelFailed, "KeyError: 'a'"),
        ("AssertionError", ModelFailed, "AssertionError"),
        ("MemoryError()", OutOfResources, "MemoryError"),
        ("RuntimeError('CUDA out of memory')", OutOfResources, "RuntimeError: CUDA out of memory"),
    ],
)
def test_what_a_handler_raises_is_kept_with_its_traceback(load, raised, kind, message):
    model = load(f"def handle(data, context):\n    if data is not None:\n        raise {raised}\n")
    with pytest.raises(kind) as caught:
        model.body()
    assert type(caught.value) is kind
    assert caught.value.message == message
    assert "handler.py" in caught.value.detail


@pytest.mark.parametrize(("arguments", "code"), [("'not today', 418", 418), ("'not today'", 500)])
def test_a_handler_may_refuse_with_a_code_and_a_text_of_its_own(load, arguments, code):
    source = f"""
        from ts.utils.util import PredictionException
        def handle(data, context):
            if data is not None:
                raise PredictionException({arguments})
    """
    with pytest.raises(ModelRefused, match=r"^not today$") as caught:
        load(source).body()
    assert caught.value.code == code


def test_an_exception_without_a_text_of_its_own_is_still_an_answer(load):
    source = """
        class Broken(Exception):
            def __str__(self):
                raise ValueError
        def handle(data, context):
            if data is not None:
                raise Broken
    """
    with pytest.raises(ModelFailed, match=r"^Broken: "):
        load(source, "handler.py:handle").body()


def test_the_end_of_the_process_is_not_an_answer(load):
    with pytest.raises(SystemExit):
        load("def handle(data, context):\n    if data is not None:\n        raise SystemExit(1)\n").body()


def test_a_whole_batch_is_one_call_with_its_rows_in_order(load):
    model = load(returning("[[len(data), bytes(row['body']).decode()] for row in data]"), max_batch_size=3)
    outcomes = model.infer(*(request(word) for word in (b"a", b"b", b"c")))
    assert [json.loads(answer(outcome)) for outcome in outcomes] == [[3, "a"], [3, "b"], [3, "c"]]


def test_a_batch_that_raises_raises_so_that_its_rows_are_tried_singly(load):
    model = load(returning("[1 / len(row['body']) for row in data]"), max_batch_size=2)
    with pytest.raises(ModelFailed, match="ZeroDivisionError"):
        model.infer(request(b"x"), request(b""))
    assert model.body(b"x") == b"1.0"


def test_a_torch_tensor_is_the_bytes_of_torch_save(load):
    import io

    import torch

    model = load("import torch\ndef handle(data, context):\n    return data and [torch.arange(3)]\n")
    saved = torch.load(io.BytesIO(model.body()), weights_only=True)
    assert saved.tolist() == [0, 1, 2]
