"""Packed elements: the loop passes them on, a worker reads them, and both ways they say what plain ones say."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.codecs import protobuf
from mooring.codecs.packed import (
    MAX_UNPACKED,
    join_predictions,
    pack_outputs,
    pack_predictions,
    unpack_tensor,
    with_plain_data,
)
from mooring.codecs.proto import inference_pb2 as pb
from mooring.codecs.protobuf_tensors import ContentsLayout
from mooring.codecs.raw import join_texts
from mooring.codecs.v2_json import decode_request
from mooring.core.buffers import LARGE, Buffer
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import CONTENTS, ESCAPED, PLAIN, RAW, ROWS, Tensor

MANY = MAX_UNPACKED + 1


def raw(*elements, shape=None):
    return Tensor("x", "BYTES", shape or [len(elements)], join_texts(elements), packed=RAW)


@given(st.lists(st.binary(max_size=9), max_size=20))
@settings(max_examples=100, deadline=None)
def test_raw_texts_are_unpacked_as_they_were_packed(elements):
    tensor = raw(*elements)
    unpack_tensor(tensor)
    assert (tensor.data, tensor.packed) == (elements, PLAIN)


def test_a_large_element_is_not_copied():
    tensor = raw(b"a", b"x" * (LARGE + 1))
    unpack_tensor(tensor)
    assert isinstance(tensor.data[0], bytes)
    assert isinstance(tensor.data[1], Buffer)
    assert bytes(tensor.data[1]) == b"x" * (LARGE + 1)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (raw(b"a", b"b", shape=[3]), "has 2 elements, its shape .3. needs 3"),
        (Tensor("x", "BYTES", [1], b"\x09\0\0\0abc", packed=RAW), "ends inside an element"),
        (Tensor("x", "BOOL", [2], b"\x01\x02", packed=RAW), "which is not a BOOL"),
        (Tensor("x", "INT64", [3], b"\x1a\x02\x01\x02", packed=CONTENTS), "has 2 elements"),
        (Tensor("x", "FP32", [1], b"\x1a\x01\x05", packed=CONTENTS), "travels in fp32_contents"),
        (Tensor("x", "INT64", [1], b"\x1a\x09\x05", packed=CONTENTS), "is cut off"),
    ],
)
def test_what_is_wrong_with_elements_is_said_when_they_are_unpacked(tensor, said):
    with pytest.raises(InvalidInput, match=said):
        unpack_tensor(tensor)


def test_what_is_plain_is_its_own_unpacked_form_and_what_is_packed_stays_as_it_is():
    plain, packed = Tensor("x", "BYTES", [1], [b"a"]), raw(b"a")
    assert with_plain_data(plain) is plain
    assert (with_plain_data(packed).data, packed.packed) == ([b"a"], RAW)


@pytest.mark.parametrize("datatype", ["BYTES", "INT64", "INT8", "UINT16", "FP32", "BOOL", "FP16"])
@pytest.mark.parametrize("layout", [ContentsLayout.RAW, ContentsLayout.TYPED, ContentsLayout.WIDENED])
def test_a_packed_answer_is_the_same_message_as_a_plain_one(datatype, layout):
    if datatype == "BYTES":
        tensor = Tensor("y", "BYTES", [MANY], [b"%d" % each for each in range(MANY)])
    else:
        kind = {"FP32": "<f4", "FP16": "<f2", "BOOL": "?", "INT64": "<i8", "INT8": "i1", "UINT16": "<u2"}[
            datatype
        ]
        tensor = Tensor.of("y", (np.arange(40_000) % 100).astype(kind))
    plain = b"".join(protobuf.encode_response(InferenceResponse([tensor], model="m"), layout))
    pack_outputs([tensor], layout)
    assert b"".join(protobuf.encode_response(InferenceResponse([tensor], model="m"), layout)) == plain


def test_a_bare_answer_is_the_bytes_of_its_first_output_alone():
    outputs = [Tensor(name, "BYTES", [MANY], [b"ab"] * MANY) for name in "yz"]
    pack_outputs(outputs, ContentsLayout.BARE)
    assert (outputs[0].data, len(outputs[1].data)) == ([b"ab" * MANY], MANY)


def test_the_value_of_a_form_is_decoded_where_it_is_unpacked():
    tensor = Tensor("data", "BYTES", [1], [b"a+b%2Bc%zz"], packed=ESCAPED)
    unpack_tensor(tensor)
    assert (tensor.data, tensor.packed) == ([b"a b+c%zz"], PLAIN)


def test_few_elements_travel_as_they_are():
    few, output = [b"a"] * MAX_UNPACKED, Tensor("y", "BYTES", [MAX_UNPACKED], [b"a"] * MAX_UNPACKED)
    pack_outputs([output], ContentsLayout.TYPED)
    pack_predictions([output])
    assert (output.data, output.packed) == (few, PLAIN)


def test_many_predictions_are_one_list_of_json():
    output = Tensor("predictions", "BYTES", [MANY], [b"[%d]" % each for each in range(MANY)])
    text = join_predictions(output)
    pack_predictions([output])
    assert (output.packed, output.data) == (ROWS, b"[" + text + b"]")
    assert join_predictions(output) == text


def test_a_large_message_of_grpc_is_not_read_element_by_element():
    message = pb.ModelInferRequest(model_name="m")
    for name, count in (("a", 9000), ("b", 7)):
        message.inputs.add(name=name, datatype="INT32", shape=[count]).contents.int_contents.extend(
            range(count)
        )
    request, layout = protobuf.decode_request(message.SerializeToString())
    assert [tensor.packed for tensor in request.inputs] == [CONTENTS, CONTENTS]
    for tensor in request.inputs:
        unpack_tensor(tensor)
    assert [tensor.array().tolist() for tensor in request.inputs] == [[*range(9000)], [*range(7)]]
    assert layout is ContentsLayout.TYPED


def test_floats_in_the_contents_field_of_a_large_message_are_borrowed():
    values = np.arange(40_000, dtype=np.float32)
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="FP32", shape=[40_000]).contents.fp32_contents.extend(
        values.tolist()
    )
    whole = message.SerializeToString()
    (tensor,) = protobuf.decode_request(Buffer(memoryview(whole)))[0].inputs
    assert (tensor.packed, bytes(tensor.data)) == (PLAIN, values.tobytes())
    assert isinstance(tensor.data, Buffer)


def test_contents_that_come_in_parts_are_one_message():
    first, second = (
        pb.ModelInferRequest.InferInputTensor(contents=pb.InferTensorContents(bytes_contents=[text * 3000]))
        for text in (b"a", b"b")
    )
    head = pb.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[2]).SerializeToString()
    inner = head + first.SerializeToString() + second.SerializeToString()
    size = bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7])
    (tensor,) = protobuf.decode_request(b"\x2a" + size + inner)[0].inputs
    unpack_tensor(tensor)
    assert tensor.data == [b"a" * 3000, b"b" * 3000]


@pytest.mark.parametrize(
    "part",
    [b"\x0a\x00", b"\x2a\x00", b"\x32\x00", b"\x22\x00", b"\x78\x00"],
    ids=["names", "inputs", "outputs", "parameters", "unknown fields"],
)
def test_a_message_of_more_fields_than_any_client_sends_is_refused_after_so_many(part):
    with pytest.raises(InvalidInput, match="has more than 32768 fields"):
        protobuf.decode_request(part * 40_000)
    inner = b"\x18\x01" * 40_000
    with pytest.raises(InvalidInput, match="has more than 32768 fields"):
        protobuf.decode_request(b"\x2a\x80\xf1\x04" + inner)


def test_a_shape_of_more_bytes_than_any_tensor_has_is_not_read():
    inner = b"\x0a\x01x\x1a\x90\x4e" + b"\x01" * 10_000
    with pytest.raises(InvalidInput, match="a shape that no tensor can have"):
        protobuf.decode_request(b"\x2a\x96\x4e" + inner)


@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_a_large_binary_body_is_checked_only_as_far_as_its_size_tells(datatype):
    def decoded(shape):
        entry = {
            "name": "x",
            "datatype": datatype,
            "shape": [shape],
            "parameters": {"binary_data_size": 8000},
        }
        head = json.dumps({"inputs": [entry]}).encode()
        return decode_request(head + bytes(8000), len(head)).inputs

    (tensor,) = decoded(2000 if datatype == "BYTES" else 8000)
    assert tensor.packed == RAW
    unpack_tensor(tensor)
    assert tensor.array().size == (2000 if datatype == "BYTES" else 8000)
    with pytest.raises(InvalidInput, match="8000 bytes of data"):
        decoded(9000)


def test_more_inputs_than_any_model_has_are_refused():
    one = '{"name": "%d", "datatype": "INT8", "shape": [1], "data": [1]}'
    body = '{"inputs": [' + ",".join(one % each for each in range(4097)) + "]}"
    with pytest.raises(InvalidInput, match="4097 inputs; send at most 4096"):
        decode_request(body.encode())
