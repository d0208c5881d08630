"""v2's infer bodies: what is written reads back equal, in JSON and in binary, and what is wrong is the caller's fault."""

import base64
import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mooring.codecs import v2_json
from mooring.codecs.packed import with_plain_data
from mooring.codecs.raw import make_tensor
from mooring.codecs.tensor_json import LARGE_DOCUMENT
from mooring.codecs.v2_json import (
    ALL_BINARY,
    JSON_ONLY,
    OutputSelection,
    decode_request,
    decode_response,
    encode_json_output,
    encode_request,
    encode_response,
    select_outputs,
)
from mooring.core.buffers import LARGE, Buffer, Slot, view_of
from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.requests import InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.tensors import DATATYPES, NUMPY_TYPES, JsonOutput, Tensor, release

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


NAMES, BYTES = st.text(max_size=5), st.binary(max_size=9)
UTF8 = st.text(max_size=5).map(str.encode)


@st.composite
def tensors(draw, texts=BYTES):
    """A tensor of any type and shape."""
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        array = draw(hnp.arrays(object, shape, elements=texts))
    elif datatype == "BF16":
        array = draw(hnp.arrays(np.float32, shape))
    else:
        array = draw(hnp.arrays(NUMPY_TYPES[datatype], shape))
    tensor = make_tensor(draw(NAMES), array, datatype)
    tensor.datatype = datatype  # of no elements numpy cannot tell
    return tensor


def joined(pieces):
    return b"".join(map(view_of, pieces))


def unique(found):
    return list({tensor.name: tensor for tensor in found}.values())


def same(found, expected):
    assert [(each.name, each.datatype, each.shape) for each in found] == [
        (each.name, each.datatype, each.shape) for each in expected
    ]
    for one, other in zip(map(with_plain_data, found), expected, strict=True):
        if one.datatype == "BYTES":
            assert [bytes(each) for each in one.data] == [bytes(each) for each in other.data]
        else:
            np.testing.assert_array_equal(one.array(), other.array())


@given(st.lists(tensors(), min_size=1, max_size=4).map(unique), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_is_written_in_binary_reads_back_equal(found, some_as_json, padded):
    json_ones = {each.name: False for each in found[::2] if each.datatype != "BYTES"} if some_as_json else {}
    request = InferenceRequest("m", "", "id é", found, parameters={"k": 1.5})
    pieces, size = encode_request(request, OutputSelection(others=True, named=json_ones))
    body = joined(pieces)
    if padded and size:
        body, size = body[:size] + b" " * LARGE_DOCUMENT + body[size:], size + LARGE_DOCUMENT
    read = decode_request(body, size or None)
    assert (read.id, read.parameters, read.outputs) == ("id é", {"k": 1.5}, None)
    same(read.inputs, found)


@given(st.lists(tensors(texts=UTF8), min_size=1, max_size=4).map(unique))
@settings(max_examples=150, deadline=None)
def test_what_is_written_as_json_reads_back_equal_and_so_does_a_workers_text(found):
    pieces, size = encode_request(InferenceRequest("m", "", "", found), JSON_ONLY)
    assert size == 0
    same(decode_request(joined(pieces)).inputs, found)
    as_text = [encode_json_output(each) for each in found]
    pieces, size = encode_response(InferenceResponse(as_text, model="m", version="1"), ALL_BINARY)
    assert size == 0
    answer = decode_response(joined(pieces))
    assert (answer.model, answer.version, answer.id) == ("m", "1", "")
    same(answer.outputs, found)


@given(st.lists(tensors(), max_size=3).map(unique))
@settings(deadline=None)
def test_an_answer_reads_back_equal(found):
    response = InferenceResponse(found, model="m", version="2", id="7", parameters={"a": True})
    pieces, size = encode_response(response, ALL_BINARY)
    read = decode_response(joined(pieces), size or None)
    assert (read.model, read.version, read.id, read.parameters) == ("m", "2", "7", {"a": True})
    same(read.outputs, found)


DOCUMENTS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["inputs", "name", "shape", "datatype", "data", "parameters", "outputs", "id"]),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=20,
)


@given(DOCUMENTS, st.one_of(st.none(), st.integers(-2, 300)), st.binary(max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_document_is_a_request_or_invalid_input(document, size, behind):
    for inputs in (document, {"inputs": document}, {"inputs": [document]}):
        with contextlib.suppress(InvalidInput):
            decode_request(json.dumps(inputs).encode() + behind, size)


@given(st.binary(max_size=80), st.one_of(st.none(), st.integers(0, 90)))
def test_any_bytes_are_a_request_or_invalid_input(body, size):
    with contextlib.suppress(InvalidInput):
        decode_request(body, size)


@given(st.binary(max_size=80), st.one_of(st.none(), st.integers(0, 90)))
def test_any_bytes_are_an_answer_or_no_answer(body, size):
    with contextlib.suppress(InvalidOutput):
        decode_response(body, size)


def body(**more):
    tensor = {"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2]} | more
    return json.dumps(
        {"inputs": [{key: value for key, value in tensor.items() if value is not ...}]}
    ).encode()


@pytest.mark.parametrize(
    ("datatype", "text"),
    [
        ("UINT64", "18446744073709551615"),
        ("UINT64", "9007199254740993"),
        ("INT64", "-9223372036854775808"),
        ("FP64", "0.1"),
        ("FP64", "5e-324"),
        ("FP64", "1.7976931348623157e308"),
        ("FP32", "16777217.0"),
        ("INT8", "-128"),
        ("BOOL", "true"),
    ],
)
@pytest.mark.parametrize("padding", [0, LARGE_DOCUMENT])
def test_numbers_are_exact_whatever_the_size_of_the_document(datatype, text, padding):
    document = b'{"inputs":[{"name":"x","shape":[1],"datatype":"%s","data":[%s]}]}' % (
        datatype.encode(),
        text.encode(),
    )
    (found,) = decode_request(document + b" " * padding).inputs
    expected = NUMPY_TYPES[datatype].type(json.loads(text))
    assert found.array()[0] == expected
    pieces, _ = encode_response(InferenceResponse([found], model="m", version="1"), JSON_ONLY)
    again = json.loads(joined(pieces))["outputs"][0]["data"][0]
    assert NUMPY_TYPES[datatype].type(again) == expected


def test_null_stands_for_them_where_that_is_asked_for():
    numbers = Tensor.of("x", np.float32([np.nan, np.inf, 1]))
    text = encode_json_output(Tensor.of("y", np.float32([np.nan])), null=True)
    pieces, _ = encode_response(InferenceResponse([numbers, text], model="m"), JSON_ONLY, null=True)
    found = json.loads(joined(pieces), parse_constant=pytest.fail)
    assert [each["data"] for each in found["outputs"]] == [[None, None, 1.0], [None]]


@pytest.mark.parametrize("written_before", [False, True])
def test_texts_that_are_not_utf_8_are_marked_as_base64_all_of_them(written_before):
    elements = [b"plain", b"\xff\xfe\x00"]
    output = Tensor("y", "BYTES", [2], elements, {"kept": 1})
    if written_before:
        output = encode_json_output(output)
    pieces, _ = encode_response(InferenceResponse([output], model="m", version="1"), JSON_ONLY)
    document = joined(pieces)
    (found,) = json.loads(document)["outputs"]
    assert found["parameters"] == {"kept": 1, "content_type": "base64"}
    assert [base64.b64decode(each) for each in found["data"]] == elements
    (back,) = decode_response(document).outputs
    assert (back.data, back.parameters) == (elements, {"kept": 1})


def test_texts_that_say_base64_and_are_none_cannot_be_read():
    output = {
        "name": "y",
        "datatype": "BYTES",
        "shape": [1],
        "data": ["?"],
        "parameters": {"content_type": "base64"},
    }
    with pytest.raises(InvalidOutput, match="'y' says that it is base64"):
        decode_response(json.dumps({"outputs": [output]}).encode())


def test_numbers_that_json_has_not_are_bare_tokens_both_ways():
    document = b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[NaN,Infinity,-Infinity]}]}'
    (found,) = decode_request(document).inputs
    np.testing.assert_array_equal(found.array(), np.float32([np.nan, np.inf, -np.inf]))
    other = Tensor("null", "BYTES", [1], [b"null"])
    pieces, _ = encode_response(InferenceResponse([found, other], model="m", version="1"), JSON_ONLY)
    assert joined(pieces).endswith(
        b'"data":[NaN,Infinity,-Infinity]},{"name":"null","datatype":"BYTES","shape":[1],"data":["null"]}]}'
    )


@pytest.mark.parametrize("document", [b"{}", b'{"inputs":[]}'])
def test_a_request_may_have_no_inputs_for_a_model_that_takes_none(document):
    assert decode_request(document).inputs == []


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "the body is empty"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"inputs":{}}', '"inputs" must be a list of tensors'),
        (b'{"inputs":null}', '"inputs" must be a list of tensors'),
        (b'{"inputs":[1]}', "every input must be an object"),
        (body(name=...), 'needs a "name"'),
        (body(name=3), 'needs a "name"'),
        (body(datatype=...), "input 'x' has no datatype"),
        (body(datatype="INT4"), "unknown datatype 'INT4'"),
        (body(datatype=["INT32"]), "unknown datatype"),
        (body(shape=...), "non-negative integers"),
        (body(shape=[-2]), "non-negative integers"),
        (body(shape=[-1, -1]), "2 elements, which do not tell the size"),
        (body(shape=[-1, 3]), "2 elements, which do not tell the size"),
        (body(shape=[-1, 0]), "2 elements, which do not tell the size"),
        (body(shape=[-1], data=..., parameters={"binary_data_size": 8}), "non-negative integers"),
        (body(shape=[2.0]), "non-negative integers"),
        (body(shape=[True]), "non-negative integers"),
        (body(shape="2"), "non-negative integers"),
        (body(shape=[1] * 33), "non-negative integers"),
        (body(shape=[2**60, 0]), "has a shape of 1152921504606846976 elements in one dimension"),
        (body(data=...), "input 'x' has no data"),
        (body(data=None), "null"),
        (body(data=[1]), "has 1 elements, its shape [2] needs 2"),
        (body(data=[[1], [2, 3]]), "ragged"),
        (body(data=[1, None]), "holds null at [1]"),
        (body(data=[1, "a"]), "numbers and strings"),
        (body(data=[1, 1.5]), "1.5, which INT32 cannot hold"),
        (body(data=[1, 2**31]), "2147483648"),
        (body(data=[1, 10**30]), "which INT32 cannot hold"),
        (body(data=[True, False]), "booleans"),
        (body(datatype="BOOL"), "numbers, not BOOL"),
        (body(datatype="FP32", data=[1e39, 0]), "too large for FP32"),
        (body(datatype="FP16", data=[7e4, 0]), "too large for FP16"),
        (body(datatype="BYTES"), "numbers, not BYTES"),
        (body(parameters={"binary_data_size": 8}), "exactly one of"),
        (body(parameters=[1]), "must be an object"),
        (body(parameters={"a": [1]}), "must be a string, a number or a boolean"),
        (body()[:-1] + b',"parameters":{"a":[1],"triton_x":[1]}}', "are reserved"),
        (body(data=..., parameters={"binary_data_size": "8"}), "must be a number of bytes"),
        (body(data=..., parameters={"binary_data_size": -1}), "must be a number of bytes"),
        (body(data=..., parameters={"binary_data_size": 8}), "the body ends 8 bytes too early"),
        (body(data=..., parameters={"shared_memory_byte_size": 8}), "exactly one of"),
        (
            body(data=..., parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8}),
            "not offered",
        ),
        (b'{"inputs":[%s,%s]}' % ((body()[12:-2],) * 2), "sent twice"),
        (body()[:-1] + b',"id":7}', '"id" must be a string'),
        (body()[:-1] + b',"parameters":3}', "must be an object"),
        (body()[:-1] + b',"parameters":{"triton_x":1}}', "are reserved"),
        (body()[:-1] + b',"outputs":{}}', '"outputs" must be a list'),
        (body()[:-1] + b',"outputs":[{}]}', '"outputs" must be a list'),
        (body()[:-1] + b',"outputs":[{"name":"y"},{"name":"y"}]}', "asked for twice"),
        (b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}", "not JSON"),
        (b"\xff" + body(), "not JSON"),
    ],
)
def test_what_is_wrong_is_said(document, why):
    with pytest.raises(InvalidInput) as caught:
        decode_request(document)
    assert why in caught.value.message


def binary(datatype, shape, size, data, *, header=None, extra=0):
    text = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
            ]
        }
    ).encode()
    return decode_request(text + data, len(text) + extra if header is None else header)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("INT32", [2], 4, b"1234"), "has 4 bytes of data, its shape [2] of INT32 needs 8"),
        (("INT32", [1], 4, b"123"), "1 bytes too early"),
        (("INT32", [1], 4, b"12345"), "1 bytes after its last binary tensor"),
        (("BYTES", [1], 3, b"\1\0\0"), "ends inside an element"),
        (("BYTES", [1], 5, b"\2\0\0\0a"), "ends inside an element"),
        (("BYTES", [2], 5, b"\1\0\0\0a"), "has 1 elements, its shape [2] needs 2"),
        (("BOOL", [2], 2, b"\1\2"), "not a BOOL"),
    ],
)
def test_binary_data_that_does_not_fit_is_refused(arguments, why):
    with pytest.raises(InvalidInput) as caught:
        binary(*arguments)
    assert why in caught.value.message


@pytest.mark.parametrize("header", [0, -1, 10_000])
def test_the_json_must_have_a_size_within_the_body(header):
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        binary("INT32", [1], 4, b"1234", header=header)


def slotted(data):
    freed = []
    return Buffer(memoryview(bytearray(data)), Slot(1, 65536, len(data)), freed.append), freed


def test_a_large_binary_tensor_stays_where_it_lies_and_the_last_one_frees_the_body():
    big = np.arange(LARGE, dtype=np.int32)
    found = [
        Tensor.of("a", big),
        Tensor("b", "BYTES", [2], [b"x" * (LARGE + 1), b"y"]),
        Tensor.of("c", big[:2]),
    ]
    pieces, size = encode_request(InferenceRequest("m", "", "", found))
    whole, freed = slotted(joined(pieces))
    read = decode_request(whole, size).inputs
    same(read, found)
    first, texts = read[0].data, read[1].data
    assert isinstance(first, Buffer)
    assert first.slot == Slot(1, 65536 + size, big.nbytes)
    assert texts.slot.offset == 65536 + size + big.nbytes
    assert isinstance(read[2].data, bytes)
    first.release()
    first.release()
    assert not freed
    release(read)
    assert [slot.offset for slot in freed] == [65536]


@pytest.mark.parametrize("padding", [0, LARGE_DOCUMENT])
def test_parameters_of_a_request_may_be_any_json_and_null_says_nothing(padding):
    given = {"stop": ["a", "b"], "grid": [[1, 2], [3, 4]], "deep": {"x": [1.5, None]}, "k": 1, "none": None}
    document = json.dumps(json.loads(body()) | {"parameters": given}).encode() + b" " * padding
    del given["none"]
    assert decode_request(document).parameters == given
    assert (
        decode_request(json.dumps(json.loads(body()) | {"parameters": {"a": None}}).encode()).parameters
        is None
    )


def test_what_an_answer_does_not_hold_is_given_back_and_what_it_holds_is_not():
    (text, text_freed), (number, number_freed) = slotted(b"a" * 10), slotted(bytes(8))
    (raw, raw_freed), (written, written_freed) = slotted(bytes(4)), slotted(b"[1]")
    outputs = [
        Tensor("text", "BYTES", [1], [text]),
        Tensor("number", "FP64", [1], number),
        Tensor("raw", "FP32", [1], raw),
        JsonOutput("written", "INT8", [1], written),
    ]
    wanted = OutputSelection(named={"text": True, "raw": True})
    pieces, _ = encode_response(InferenceResponse(outputs, model="m", version="1"), wanted)
    assert b"aaaa" in joined(pieces)
    assert (len(text_freed), len(number_freed), raw_freed, written_freed) == (1, 1, [], [])
    assert [piece for piece in pieces if isinstance(piece, Buffer)] == [written, raw]


def test_a_body_that_is_refused_is_given_back_once():
    big = Tensor.of("a", np.zeros(LARGE, np.int32))
    pieces, size = encode_request(InferenceRequest("m", "", "", [big]))
    whole, freed = slotted(joined(pieces) + b"more")
    with pytest.raises(InvalidInput):
        decode_request(whole, size)
    assert len(freed) == 1


def test_regions_are_read_and_given_back_where_the_request_is_refused():
    freed = []

    def regions(name, offset, size):
        assert (name, offset, size) == ("r", 4, LARGE * 2)
        return Buffer(memoryview(bytearray(size)), Slot(1, 0, size), freed.append)

    place = {"shared_memory_region": "r", "shared_memory_byte_size": LARGE * 2, "shared_memory_offset": 4}
    good = {"name": "x", "shape": [LARGE], "datatype": "INT16", "parameters": place}
    (found,) = decode_request(json.dumps({"inputs": [good]}).encode(), regions=regions).inputs
    assert len(found.data) == LARGE * 2
    assert found.parameters is None
    assert not freed
    for wrong in ([good | {"shape": [1]}], [good, {"name": "y"}], [good, good]):
        freed.clear()
        with pytest.raises(InvalidInput):
            decode_request(json.dumps({"inputs": wrong}).encode(), regions=regions)
        assert len(freed) == sum(each.get("shape") is not None for each in wrong)


@pytest.mark.parametrize(
    ("outputs", "parameters", "expected"),
    [
        (None, None, [False, False]),
        (None, {"binary_data_output": True}, [True, True]),
        ([RequestedOutput("a", {"binary_data": True})], None, [True, False]),
        ([RequestedOutput("a", {"binary_data": False})], {"binary_data_output": True}, [False, True]),
    ],
)
def test_an_outputs_own_wish_goes_before_the_requests(outputs, parameters, expected):
    wanted = select_outputs(outputs, parameters)
    assert [wanted.is_binary(Tensor(name, "INT8", [0], b"")) for name in "ab"] == expected


@pytest.mark.parametrize(
    ("outputs", "parameters"),
    [(None, {"binary_data_output": 1}), ([RequestedOutput("a", {"binary_data": "true"})], None)],
)
def test_a_wish_is_true_or_false(outputs, parameters):
    with pytest.raises(InvalidInput, match="must be true or false"):
        select_outputs(outputs, parameters)


def test_an_output_without_data_is_only_described():
    tensor = Tensor("y", "FP32", [2], None, {"a": 1})
    pieces, size = encode_response(InferenceResponse([tensor], model="m", version="1"), ALL_BINARY)
    assert size == 0
    assert json.loads(joined(pieces))["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"a": 1}}
    ]


def test_the_text_of_a_large_output_is_not_copied():
    large = Buffer(memoryview(b"[1,2]"))
    outputs = [JsonOutput("y", "INT8", [2], large), Tensor.of("z", np.int8([3]))]
    pieces, size = encode_response(InferenceResponse(outputs, model="m", version="1"), JSON_ONLY)
    assert any(piece is large for piece in pieces)
    assert [each["data"] for each in json.loads(joined(pieces))["outputs"]] == [[1, 2], [3]]
    assert size == 0


@given(st.lists(tensors(), max_size=4).map(unique), st.sampled_from(["", "7", "é"]), st.data())
@settings(max_examples=150, deadline=None)
def test_outputs_that_are_all_binary_are_written_alike_however_plain_they_are(found, request_id, data):
    named = {each.name: data.draw(st.booleans()) for each in found if data.draw(st.booleans())}
    wanted = OutputSelection(others=True, named=named)

    def write(texts):
        with pytest.MonkeyPatch.context() as patch:
            if not texts:
                patch.setattr(v2_json, "_encode_all_binary", lambda *_: None)
            outputs = [Tensor(each.name, each.datatype, each.shape, each.data) for each in found]
            response = InferenceResponse(outputs, model="m", version="1", id=request_id)
            pieces, size = encode_response(response, wanted)
            return joined(pieces), size

    assert write(True) == write(False)


@pytest.mark.parametrize(
    ("shape", "data", "filled"),
    [
        ([-1], [1, 2, 3], [3]),
        ([-1, 3], [1, 2, 3], [1, 3]),
        ([2, -1], [[1, 2], [3, 4]], [2, 2]),
        ([-1], [], [0]),
    ],
)
def test_a_dimension_of_minus_one_is_as_large_as_the_elements_make_it(shape, data, filled):
    decoded = decode_request(body(shape=shape, data=data))
    assert decoded.inputs[0].shape == filled
