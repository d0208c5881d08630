"""Functions of values: what a request of each form becomes, what an answer is, streams, batches and the request itself."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring.core.errors import InvalidInput, InvalidOutput, ModelFailed, ModelLoadFailed, Unsupported
from mooring.core.requests import BODY, Form, InferenceRequest, Operation, RequestedOutput
from mooring.core.service import CodeOptions
from mooring.core.tensors import BY_POSITION, Tensor

JSON = "application/json"
HEAD = "import dataclasses, mooring\nfrom typing import Any, Iterator\n"


@pytest.fixture
def served(function, reply):
    """A model out of the text of a function; it is asked with a request and gives its outcome."""

    def load(source, **more):
        model = function(HEAD + source, **{"size_by_default": True, **more})

        def ask(*requests):
            outcomes = list(model.infer(requests, reply))
            return outcomes[0] if len(requests) == 1 else outcomes

        ask.model = model
        return ask

    return load


@pytest.fixture
def echo(served):
    return served("def infer(x: Any) -> Any: return x")


def read(outcome):
    """What the body of an answer says in JSON."""
    if isinstance(outcome, Exception):
        raise outcome
    return json.loads(outcome.outputs[0].data[0])


def plain(data, content_type=""):
    data = data.encode() if isinstance(data, str) else data
    return InferenceRequest(
        "m", "1", "id", [Tensor("body", "BYTES", [1], [data], {"content_type": content_type})], form=BODY
    )


def form(files=(), **fields):
    tensors = [
        Tensor(name, "BYTES", [1], [value], {"content_type": "", **({"file": True} if name in files else {})})
        for name, value in fields.items()
    ]
    return InferenceRequest("m", "1", "id", tensors, form=BODY)


def texts(name, *elements, parameters=None):
    data = [each.encode() if isinstance(each, str) else each for each in elements]
    return InferenceRequest(
        "m", "1", "id", [Tensor(name, "BYTES", [len(data)], data, parameters)], form=Form.TENSORS
    )


# One input


@pytest.mark.parametrize(
    ("source", "body", "answer"),
    [
        ("def infer(x: int) -> int: return x + 1", 5, 6),
        ("def infer(x: int) -> int: return x + 1", {"x": 5}, 6),
        ("def infer(x: int = 7) -> int: return x + 1", {}, 8),
        (
            "def infer(texts: list[str]): return [each.upper() for each in texts]",
            ["grün", "日"],
            ["GRÜN", "日"],
        ),
        ("def infer(texts: list[str]): return texts", {"texts": ["a"]}, ["a"]),
        ("def infer(x: dict): return x", {"x": 5}, {"x": 5}),
        ("def infer(x: Any): return x", {"x": 5}, {"x": 5}),
        ("def infer(x): return x", {"x": 5}, 5),
        ("def infer(x): return x", {"x": 5, "y": 6}, {"x": 5, "y": 6}),
        ("def infer(x): return x", {"y": 6}, {"y": 6}),
        ("def infer(x): return x", [1, None], [1, None]),
        ("def infer(): return {'y': 4}", {}, {"y": 4}),
        ("def infer(inputs: dict): return sorted(inputs)", {"b": 1, "a": 2}, ["a", "b"]),
    ],
)
def test_the_body_is_the_only_input_or_names_it(served, ask, source, body, answer):
    model = served(source)
    assert read(model(ask.body(body))) == answer
    assert [json.loads(each) for each in model(ask.instances(body)).outputs[0].data] == [answer]


@pytest.mark.parametrize(
    ("source", "fields", "answer"),
    [
        ("def infer(**more): return more", {"q": b"1"}, {"q": "1"}),
        ("def infer(a: int = 0, **more: int): return [a, more]", {"q": b"1"}, [0, {"q": 1}]),
        ("def infer(a: int = 0, **more: int): return [a, more]", {"a": b"1"}, [1, {}]),
        ("def infer(**more): return more", {"data": b'{"q": 1}'}, {"q": 1}),
        ("def infer(**more): return more", {"body": b'{"q": 1}'}, {"q": 1}),
    ],
)
def test_the_only_field_of_a_form_may_be_one_of_the_other_names(served, source, fields, answer):
    assert read(served(source)(form(**fields))) == answer


def test_other_names_are_told_as_such(served, ask):
    outcome = served("def infer(**more): return more")(ask.body(1))
    assert (
        outcome.message
        == 'the body must be a JSON object that names its inputs (the model takes any names), such as {"name": ...}'
    )


def test_a_tensor_that_is_no_json_is_told_by_the_name_of_its_input(served):
    source = "from typing import Literal\ndef infer(x: Literal['a', 1]): return x"
    assert served(source)(texts("x", "a")).message == "x takes JSON text, and this is text, not JSON"


def test_a_piece_of_half_a_surrogate_pair_is_told(served, ask):
    outcome = served("def infer(x: int) -> Iterator[str]: yield '\\ud800'")(ask.body(1))
    assert outcome.message == "output holds text with half a surrogate pair, which UTF-8 cannot say"


def test_an_object_may_begin_with_any_space(served):
    assert read(served("def infer(x: int): return x")(plain(" " * 99 + '\n{"x": 5}', JSON))) == 5


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=VALUES)
def test_any_value_comes_back_as_it_was_sent_in_every_form(echo, ask, value):
    text = json.dumps(value).encode()
    assert read(echo(ask.body(text))) == value
    assert json.loads(echo(ask.instances(value)).outputs[0].data[0]) == value
    (output,) = echo(texts("x", text, parameters={"content_type": JSON})).outputs
    if output.parameters:  # it has no form as a tensor
        assert json.loads(output.data[0]) == value


POINT = "@dataclasses.dataclass\nclass Point:\n    x: int\n    y: int = 2\n"


def test_an_object_of_a_class_is_always_the_whole_body(served, ask):
    model = served(POINT + "def infer(p: Point) -> dict: return {'sum': p.x + p.y}")
    assert read(model(ask.body({"x": 1}))) == {"sum": 3}
    assert model(ask.body({"p": {"x": 1}})).message == (
        "p.x is missing; the body is the value of 'p' itself: send it without the name"
    )
    assert model(ask.body({"p": 1, "q": 2})).message == "p.x is missing"
    assert read(model(texts("p", '{"x": 5}'))) == {"sum": 7}


@pytest.mark.parametrize(
    ("source", "body", "says"),
    [
        ("def infer(x: int): return x", "five", "x must be a whole number, not a string"),
        ("def infer(x: int): return x", {"y": 5}, "unexpected input 'y'; the model takes 'x'"),
        (
            "def infer(text: str): return text",
            {"txet": "a"},
            "unexpected input 'txet' (did you mean 'text'?)",
        ),
        ("def infer(x: list[int]): return x", [1, "b"], "x[1] must be a whole number, not a string"),
        ("def infer(a: int, b: int): return a", {"a": 1}, "input 'b' is missing; the model takes 'a', 'b'"),
        ("def infer(a: int, b: int): return a", {"a": 1, "b": 2, "c": 3}, "unexpected input 'c'"),
        (
            "def infer(a: int, b: int): return a",
            [1, 2],
            "must be a JSON object that names its inputs (the model takes 'a', 'b')",
        ),
        ("def infer(a: int, b: int): return a", {"a": 1, "b": "2"}, "b must be a whole number, not a string"),
        ("def infer(): return 1", {"x": 1}, "the model takes no input"),
    ],
)
def test_a_wrong_body_is_refused_with_the_field_and_the_reason(served, ask, source, body, says):
    model = served(source)
    for request in (ask.body(body), ask.instances(body)):
        outcome = model(request)
        assert isinstance(outcome, InvalidInput)
        assert says in outcome.message


def test_among_many_instances_the_wrong_one_is_named(served, ask):
    model = served("def infer(x: int): return x")
    outcome = model(ask.instances(1, 2, "three", undecoded=True))
    assert outcome.message == "instance 2: x must be a whole number, not a string"


# Several inputs, and arguments that are none


def test_defaults_make_inputs_optional_and_other_keys_go_to_kwargs(served, ask):
    model = served("def infer(a: int, b: float = 0.5, **rest): return [a, b, rest]")
    assert read(model(ask.body({"a": 1}))) == [1, 0.5, {}]
    assert read(model(ask.body({"a": 1, "c": ["x"], "b": 2}))) == [1, 2.0, {"c": ["x"]}]
    assert "a must be a whole number" in model(ask.body({"a": "1"})).message
    assert "'a' is missing" in model(ask.body({"c": 1})).message
    assert (
        "'parameters' is not an input"
        in served("def infer(parameters, **rest): ...")(ask.body({"parameters": 1})).message
    )


def test_parameters_are_the_requests_over_those_of_the_configuration(served, ask):
    model = served("def infer(x: int, parameters): return parameters", parameters={"k": 1, "l": 2})
    assert read(model(ask.body(5, parameters={"k": 7}))) == {"k": 7, "l": 2}


def test_the_request_is_an_argument_of_any_name(served, ask):
    model = served(
        "def infer(x: int, asked: 'mooring.Request'):\n"
        "    return [asked.id, asked.headers['x-user'], asked.parameters, asked.model, asked.version, asked.cancelled()]"
    )
    request = ask.body(5, headers=[(b"X-User", b"ann")], parameters={"k": 1})
    assert read(model(request)) == ["id", "ann", {"k": 1}, "m", "1", False]
    assert model.model.metadata.code == CodeOptions(headers=True)
    assert [each.name for each in model.model.metadata.inputs] == ["x"]


def test_a_model_that_asks_for_nothing_tells_the_server_nothing(served):
    assert served("def infer(x: int): return x").model.metadata.code is None


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def infer(*values): ...", "takes *values"),
        ("def infer(x, /): ...", "positional-only"),
        ("def infer(x: 'Missing'): ...", "a hint of 'infer' cannot be understood"),
        ("def infer(a: mooring.Request, b: mooring.Request): ...", "takes the request twice"),
        ("@mooring.batch(max_size=4)\ndef infer(x: int): ...", "write list[int]"),
        (
            "@mooring.batch(max_size=4)\ndef infer(x: list[int], r: mooring.Request): ...",
            "list[mooring.Request]",
        ),
        ("def infer(x: int, r: list[mooring.Request]): ...", "the hint mooring.Request"),
        ("@mooring.batch(max_size=4)\ndef infer(): ...", "has no inputs"),
        ("@mooring.batch(max_size=4)\ndef infer(inputs): ...", "takes tensors"),
        ("@mooring.batch(max_size=4)\ndef infer(a: list[int], **more): ...", "takes **more"),
    ],
)
def test_a_function_that_cannot_be_served_is_refused_when_it_is_loaded(served, source, says):
    with pytest.raises(ModelLoadFailed) as refused:
        served(source)
    assert says in refused.value.message
    assert "model.py: " in refused.value.message


# Bodies that are no JSON, and forms


def test_text_and_bytes_are_the_body_as_it_is(served):
    text = served("def infer(text: str): return text * 2")
    assert read(text(plain("grün ", "text/plain"))) == "grün grün "
    assert read(text(plain("7"))) == "77"
    assert read(text(plain('"7"', JSON))) == "77"
    data = served("def infer(data: bytes): return data[::-1], 'image/x-own'")
    outcome = data(plain(b"\xff\x00", "application/octet-stream"))
    assert (outcome.outputs[0].data, outcome.head.content_type) == ([b"\x00\xff"], "image/x-own")
    assert data(form({"data"}, data=b"abc")).outputs[0].data == [b"cba"]
    assert read(served("def infer(x): return [x]")(plain("5 äpfel", "text/plain"))) == ["5 äpfel"]


def test_a_body_without_a_content_type_is_read_as_json_or_the_header_is_named(served):
    model = served("def infer(x: int): return x")
    assert read(model(plain("5"))) == 5
    for request in (plain("five"), plain("five", "text/plain"), form()):
        assert "send JSON with -H 'content-type: application/json'" in model(request).message


def test_fields_of_a_form_are_inputs_and_a_lone_one_the_body(served):
    model = served("def infer(text: str, k: int = 1, tags: list[str] = []): return [text * k, tags]")
    assert read(model(form(text=b"ab", k=b"2", tags=b'["x"]'))) == ["abab", ["x"]]
    assert read(model(form(data=b'{"text": "ab"}'))) == ["ab", []]
    assert "k must be a whole number" in model(form(text=b"ab", k=b"two")).message
    assert "unexpected input 'txt'" in model(form(txt=b"ab", k=b"2")).message
    assert read(served("def infer(text: str): return text")(form(whatever=b"ab"))) == "ab"
    assert read(served("def infer(x): return x")(form(x=b"ab"))) == "ab"
    assert read(served("def infer(x: dict): return x")(form(x=b'{"x": 1}'))) == {"x": 1}
    assert read(served("def infer(body: list[int]): return body")(plain("[1]"))) == [1]


# Tensors


def test_tensors_are_numbers_lists_and_texts(served, ask):
    model = served("def infer(x) -> str: return repr(x)")
    for array, value in (
        (np.int64([5]), 5),
        (np.float64(2.5), 2.5),
        (np.int32([[5]]), 5),
        (np.float32([1, 2]), [1.0, 2.0]),
        (np.array([[True], [False]]), [[True], [False]]),
    ):
        assert model(ask.tensors(x=array)).outputs[0].data == [repr(value).encode()]
    assert model(texts("x", "日本")).outputs[0].data == ["'日本'".encode()]
    assert model(texts("x", b"\xff")).outputs[0].data == [b"b'\\xff'"]
    assert model(texts("x", "a", "b")).outputs[0].data == [b"['a', 'b']"]
    add = served("def infer(a: int, b: float) -> float: return a + b")
    outcome = add(ask.tensors(a=np.int64([1]), b=np.float32([[0.5]])))
    assert (outcome.outputs[0].name, outcome.outputs[0].array().tolist()) == ("output", [1.5])
    assert "a must be a whole number" in add(ask.tensors(a=np.float64([1.5]), b=np.float64([1]))).message
    assert "unexpected input 'c'" in add(ask.tensors(c=np.int64([1]))).message
    assert add(ask.tensors(a=np.int64([1]))).message == "input 'b' is missing; the model takes 'a', 'b'"
    assert add(ask.tensors()).message == (
        "input 'a' is missing: the request has no inputs, which v2 has as tensors in"
        " a list \"inputs\"; the model takes 'a', 'b'"
    )


def test_a_value_without_a_form_as_a_tensor_is_json_text(served):
    model = served(POINT + "def infer(p: Point) -> Point: return p")
    (output,) = model(texts("p", '{"x": 1}')).outputs
    assert (output.datatype, output.shape, output.parameters) == ("BYTES", [1], {"content_type": JSON})
    assert json.loads(output.data[0]) == {"x": 1, "y": 2}
    assert [(each.datatype, each.shape, each.content_type) for each in model.model.metadata.inputs] == [
        ("BYTES", [1], JSON)
    ]


def test_outputs_may_be_asked_for_by_name(served, ask):
    model = served(
        "import numpy as np\ndef infer(x: int): return {'a': np.int64([x]), 'b': np.int64([x + 1])}"
    )
    found = model(ask.tensors({"outputs": [RequestedOutput("b")]}, x=np.int64([1])))
    assert ask.read(found) == {"b": [2]}
    wrong = model(ask.tensors({"outputs": [RequestedOutput("c")]}, x=np.int64([1])))
    assert wrong.message == "unexpected inference output 'c' for model 'm'"


def test_names_of_tensors_without_one_are_the_inputs_in_their_order(served, ask):
    model = served("def infer(a: int, b: int): return [a, b]")
    request = ask.tensors(x=np.int64([1]), y=np.int64([2]))
    for tensor in request.inputs:
        tensor.name = BY_POSITION
    assert model(request).outputs[0].array().tolist() == [1, 2]


def test_other_tensors_go_to_kwargs(served, ask):
    model = served("def infer(a: int, **rest: float): return [a, rest]")
    assert json.loads(model(ask.tensors(a=np.int64([1]), b=np.float64([2]))).outputs[0].data[0]) == [
        1,
        {"b": 2.0},
    ]


def test_forwarded_headers_are_parameters(served, ask):
    model = served("def infer(x: int, parameters): return parameters", forward_headers="x-.*")
    request = ask.body(1, headers=[(b"X-User", b"ann"), (b"Accept", b"*/*")], parameters={"k": 1})
    assert read(model(request)) == {"X-User": "ann", "k": 1}


# What the function raises, streams, explanations


def test_what_a_function_raises_is_told_as_of_functions_of_tensors(served, ask):
    model = served(
        "def infer(x: int):\n    if x < 0: raise mooring.InvalidInput('below 0')\n    return 1 / x"
    )
    assert isinstance(model(ask.body(-1)), InvalidInput)
    failed = model(ask.body(0))
    assert isinstance(failed, ModelFailed)
    assert "ZeroDivisionError" in failed.message
    assert "model.py" in failed.detail
    assert isinstance(served("def infer(x: int): return object()")(ask.body(1)), InvalidOutput)


STREAM = "def infer(n: int):\n    for each in range(n):\n        yield {}\n"


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    ("piece", "data", "content_type"),
    [
        ("f'tök {each} '", ["tök 0 ".encode(), "tök 1 ".encode()], "text/plain; charset=utf-8"),
        ("b'%d' % each", [b"0", b"1"], "text/plain; charset=utf-8"),
        ("{'i': each}", [b'{"i":0}\n', b'{"i":1}\n'], "application/x-ndjson"),
    ],
)
def test_pieces_are_text_as_it_is_or_lines_of_json(function, reply, ask, kind, piece, data, content_type):
    model = function(HEAD + STREAM.format("ABC").replace("ABC", piece).replace("def", kind, 1))
    request = ask.body(2)
    (outcome,) = (
        model.infer([request], reply)
        if model.overlap is None
        else model.overlap.loop.run_until_complete(model.overlap.infer([request], reply))
    )
    assert [each.outputs[0].data[0] for _, each in reply.pieces] == data
    assert {each.head.content_type for _, each in reply.pieces} == {content_type}
    assert not any(each.final for _, each in reply.pieces)
    assert (outcome.outputs, outcome.final) == ([], True)


def test_the_prediction_of_an_instance_is_the_list_of_its_pieces(served, ask):
    model = served(STREAM.format("each"))
    outcome = model(ask.instances(2, 0, undecoded=True))
    assert [json.loads(each) for each in outcome.outputs[0].data] == [[0, 1], []]


def test_a_stream_without_a_piece_is_an_empty_body_and_no_tensors(served, ask):
    model = served(STREAM.format("each"))
    assert model(ask.body(0)).outputs[0].data == [b""]
    assert isinstance(model(ask.tensors(n=np.int64([0]))), InvalidOutput)
    assert served(STREAM.format("each"), decoupled=True)(ask.tensors(n=np.int64([0]))).outputs == []


def test_a_stream_that_nobody_reads_is_closed(served, ask, reply):
    reply.gone = {0}
    model = served(
        "import sys\n" + STREAM.format("each").replace("yield", "sys.modules['seen_'] = each; yield")
    )
    outcome = model(ask.body(9))
    assert "nobody waits" in outcome.message
    assert len(reply.pieces) == 1


def test_a_class_explains_by_a_method_of_its_own(served, ask):
    model = served(
        "class Model(mooring.Model):\n"
        "    def load(self, context): self.k = context.parameters['k']\n"
        "    def infer(self, text: str) -> int: return len(text) * self.k\n"
        "    def explain(self, text: str, target: int = 0): return [text, target]\n",
        parameters={"k": 3},
    )
    assert read(model(ask.body("ab"))) == 6
    assert read(model(ask.body({"text": "ab", "target": 2}, operation=Operation.EXPLAIN))) == ["ab", 2]
    plain_one = served("def infer(text: str): return text")
    assert isinstance(plain_one(ask.body("a", operation=Operation.EXPLAIN)), Unsupported)


def test_a_class_that_inherits_is_found_by_itself(function, reply, ask):
    source = "from mooring import Model\nclass Echo(Model):\n    def infer(self, x: int): return x\n"
    (outcome,) = function(source).infer([ask.body(3)], reply)
    assert read(outcome) == 3


# Batches

MANY = (
    "calls = []\n@mooring.batch(max_size=4)\ndef infer(texts: list[str], k: list[int] = 1) -> list[str]:\n"
    "    calls.append(list(texts))\n    return [text * n for text, n in zip(texts, k)]\n"
)


def test_requests_of_a_batch_share_a_call_and_each_gets_its_own_result(served, ask):
    model = served(MANY)
    outcomes = model(
        ask.body({"texts": "a"}),
        ask.body({"texts": "b", "k": 2}),
        ask.body({"texts": 5}),
        ask.body({"texts": "日"}),
    )
    assert [read(each) for each in (outcomes[0], outcomes[1], outcomes[3])] == ["a", "bb", "日"]
    assert outcomes[2].message == "texts must be a string, not a whole number"
    assert model.model._code.module.calls == [["a", "b", "日"]]
    assert model.model.metadata.code == CodeOptions(max_batch_size=4)


def test_instances_and_rows_are_samples_of_a_batch_and_no_call_has_too_many(served, ask):
    model = served(MANY)
    outcome = model(ask.instances(*({"texts": str(each)} for each in range(6)), undecoded=True))
    assert [json.loads(each) for each in outcome.outputs[0].data] == list("012345")
    assert list(map(len, model.model._code.module.calls)) == [4, 2]
    assert "has no samples" in model(ask.tensors(texts=np.zeros((0, 1), object))).message
    (output,) = model(texts("texts", "a", "bc", "d")).outputs
    assert (output.shape, output.data) == ([3, 1], [b"a", b"bc", b"d"])
    assert [(each.name, each.shape) for each in model.model.metadata.inputs] == [
        ("texts", [-1, 1]),
        ("k", [-1, 1]),
    ]
    assert model.model.metadata.outputs[0].shape == [-1, 1]


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("['a']", "returned 1 results for a batch of 2"),
        ("'ab'", "must return a list"),
        ("7", "must return a list"),
        ("{'a', 'b'}", "returned a set for a batch of 2: with @mooring.batch it must return a list"),
        ("dict.fromkeys('ab').keys()", "returned a dict_keys for a batch of 2"),
        ("numpy.array(7)", "returned a ndarray for a batch of 2"),
    ],
)
def test_a_batch_must_give_a_result_for_each(served, ask, returned, says):
    model = served(f"import numpy\n@mooring.batch(max_size=4)\ndef infer(x: list[int]): return {returned}")
    with pytest.raises(InvalidOutput) as wrong:
        model(ask.body(1), ask.body(2))
    assert says in wrong.value.message


def test_the_configuration_goes_before_the_decorator(served, ask):
    model = served(MANY, max_batch_size=2, size_by_default=False)
    model(ask.instances({"texts": "a"}, {"texts": "b"}, {"texts": "c"}, undecoded=True))
    assert list(map(len, model.model._code.module.calls)) == [2, 1]


def test_a_batch_streams_lists_of_pieces(served, ask, reply):
    model = served(
        "@mooring.batch(max_size=4)\ndef infer(texts: list[str]) -> Iterator[list[str]]:\n"
        "    for k in range(2): yield [f'{text}{k}' for text in texts]\n"
    )
    model(ask.body("a"), ask.body("b"))
    assert [(row, piece.outputs[0].data[0]) for row, piece in reply.pieces] == [
        (0, b"a0"), (1, b"b0"), (0, b"a1"), (1, b"b1"),
    ]  # fmt: skip
    outcome = model(ask.instances("a", "b", undecoded=True))
    assert [json.loads(each) for each in outcome.outputs[0].data] == [["a0", "a1"], ["b0", "b1"]]


FAILS_LATE = (
    "@mooring.batch(max_size=4)\ndef infer(x: list[int], parameters) -> Iterator[list[int]]:\n"
    "    yield x\n"
    "    if 13 in x: raise ValueError('13')\n"
    "    yield x\n"
)


@pytest.mark.parametrize("retry", [True, False])
def test_a_stream_that_fails_late_fails_no_other_call_of_its_batch(served, ask, reply, retry):
    model = served(FAILS_LATE, retry=retry)
    one, two = {"parameters": {"k": 1}}, {"parameters": {"k": 2}}
    requests = [ask.body(1, **one), ask.body(13, **two), ask.body(2, **two), ask.body(3, **one)]
    first, bad, beside, last = model(*requests)
    assert first.outputs == last.outputs == []  # all their pieces were sent
    assert [row for row, _ in reply.pieces] == [0, 3, 0, 3, 1, 2]
    assert bad.message == beside.message == "the batch failed after a part of the answer was sent"


def test_instances_beside_a_stream_that_fails_late_run_once_more(served, ask):
    model = served(FAILS_LATE)
    one, two = {"parameters": {"k": 1}}, {"parameters": {"k": 2}}
    answered = model(ask.body(1, **one), ask.body(13, **two), ask.instances(5, 6, undecoded=True, **two))[2]
    assert [json.loads(each) for each in answered.outputs[0].data] == [[5, 5], [6, 6]]


def test_a_batch_has_the_requests_of_its_samples_and_shares_only_equal_parameters(served, ask):
    model = served(
        "@mooring.batch(max_size=4)\ndef infer(x: list[int], parameters, asked: list[mooring.Request]):\n"
        "    return [[len(x), parameters.get('k'), each.headers['n']] for each in asked]\n"
    )
    outcomes = model(
        *(
            ask.body(each, parameters={"k": each % 2}, headers=[(b"N", str(each).encode())])
            for each in range(4)
        )
    )
    assert [read(each) for each in outcomes] == [[2, 0, "0"], [2, 1, "1"], [2, 0, "2"], [2, 1, "3"]]
