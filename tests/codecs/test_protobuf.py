"""ModelInfer's messages by hand against the library's: whatever it writes is read, whatever is written it reads."""

import contextlib
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.codecs import protobuf, protobuf_wire
from mooring.codecs.packed import unpack_tensor
from mooring.codecs.proto import inference_pb2 as pb
from mooring.codecs.protobuf_tensors import ContentsLayout
from mooring.core.buffers import Buffer, HeapAllocator, Slot
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.tensors import NUMPY_TYPES, Tensor

ROOT = Path(__file__).parent.parent.parent
FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "FP16": "fp32_contents",
}  # fmt: skip
INTEGERS = [name for name, dtype in NUMPY_TYPES.items() if dtype.kind in "iu" and name != "BF16"]


def sample(datatype, count):
    """Elements with both ends of the type among them."""
    dtype = NUMPY_TYPES[datatype]
    if datatype == "BOOL":
        return np.arange(count) % 3 == 0
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        ends = np.array([limits.min, limits.max, 0, 1, limits.max // 2, limits.max // 128], dtype)
        return np.resize(ends, count)
    values = np.array([0.1, -1.5, np.inf, 3.25, 1e-3], np.float64)
    return np.resize(values, count).astype(dtype)


def message_of(datatype, array, *, shape=None):
    message = pb.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=array.shape if shape is None else shape)
    getattr(tensor.contents, FIELDS[datatype]).extend(array.ravel().tolist())
    return message


def decoded(message, **how):
    return protobuf.decode_request(message.SerializeToString(), **how)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=200))
def test_packed_numbers_survive_both_ways(values):
    packed = protobuf_wire.encode_varints(np.array(values, np.uint64))
    assert protobuf_wire.read_varints(packed).tolist() == values
    assert packed == b"".join(map(protobuf_wire.encode_varint, values))


@given(st.binary(max_size=120))
def test_any_bytes_are_numbers_or_refused_alike_whatever_the_length(data):
    padding = b"\x01" * 40  # so that the vectorized way is taken
    try:
        few = protobuf_wire._read_varints_one_by_one(data)
    except protobuf_wire.Malformed:
        if data and data[-1] > 0x7F:  # the padding would complete it
            return
        with pytest.raises(protobuf_wire.Malformed):
            protobuf_wire.read_varints(data + padding)
    else:
        assert protobuf_wire.read_varints(data + padding).tolist() == few + [1] * 40


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_invalid_input_and_nothing_else(data):
    with contextlib.suppress(InvalidInput):
        protobuf.decode_request(data)


WHOLE = pb.ModelInferRequest(model_name="m", model_version="1", id="i")
WHOLE.parameters["a"].int64_param = -1
WHOLE.inputs.add(name="x", datatype="INT32", shape=[2]).contents.int_contents.extend([1, -2])
WHOLE.inputs.add(name="y", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"\xff")
WHOLE.outputs.add(name="o").parameters["classification"].int64_param = 3


@settings(max_examples=500)
@given(st.integers(0, len(WHOLE.SerializeToString()) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_as_the_library_reads_it_or_refused(place, byte):
    data = bytearray(WHOLE.SerializeToString())
    data[place] = byte
    try:
        request, _ = protobuf.decode_request(bytes(data))
    except InvalidInput:
        return
    message = pb.ModelInferRequest.FromString(bytes(data))  # raises where ours should have
    assert (request.model, request.version, request.id) == (
        message.model_name,
        message.model_version,
        message.id,
    )
    assert [tensor.name for tensor in request.inputs] == [tensor.name for tensor in message.inputs]
    assert [output.name for output in request.outputs or ()] == [output.name for output in message.outputs]


@pytest.mark.parametrize("cut", range(1, len(WHOLE.SerializeToString())))
def test_a_message_that_ends_early_is_refused_where_the_library_refuses_it(cut):
    data = WHOLE.SerializeToString()[:cut]
    try:
        pb.ModelInferRequest.FromString(data)
    except Exception:
        with pytest.raises(InvalidInput):
            protobuf.decode_request(data)


@pytest.mark.parametrize("count", [3, 5000])
@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents_of_every_datatype_arrive_exactly(datatype, count):
    array = sample(datatype, count)
    request, layout = decoded(message_of(datatype, array))
    (tensor,) = request.inputs
    assert layout is (ContentsLayout.WIDENED if datatype == "FP16" else ContentsLayout.TYPED)
    unpack_tensor(tensor)
    np.testing.assert_array_equal(tensor.array(), array, strict=True)


@pytest.mark.parametrize("count", [3, 50_000])
@pytest.mark.parametrize("datatype", [*NUMPY_TYPES])
def test_raw_contents_of_every_datatype_arrive_exactly(datatype, count):
    array = sample(datatype, count)
    message = pb.ModelInferRequest(model_name="m", raw_input_contents=[array.tobytes()])
    message.inputs.add(name="x", datatype=datatype, shape=[count])
    for allocator in (None, HeapAllocator()):
        request, layout = decoded(message, allocator=allocator)
        (tensor,) = request.inputs
        assert layout is ContentsLayout.RAW
        unpack_tensor(tensor)
        assert isinstance(tensor.data, Buffer) == (array.nbytes > 65_536)
        assert bytes(tensor.data) == array.tobytes()


@pytest.mark.parametrize("layout", [ContentsLayout.TYPED, ContentsLayout.WIDENED])
@pytest.mark.parametrize("count", [0, 3, 5000])
@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_answers_of_every_datatype_are_read_exactly(datatype, count, layout):
    array = sample(datatype, count).reshape(1, count)
    encoded = b"".join(
        protobuf.encode_response(InferenceResponse([Tensor.of("o", array)], model="m"), layout)
    )
    message = pb.ModelInferResponse.FromString(encoded)
    if datatype == "FP16" and layout is ContentsLayout.TYPED:
        assert list(message.raw_output_contents) == [array.tobytes()]
    else:
        assert not message.raw_output_contents
        assert list(message.outputs[0].shape) == [1, count]
        found = getattr(message.outputs[0].contents, FIELDS[datatype])
        np.testing.assert_array_equal(np.array(found, array.dtype), array.ravel())
    np.testing.assert_array_equal(protobuf.decode_response(encoded).outputs[0].array(), array, strict=True)


def test_texts_travel_in_every_layout():
    tensor = Tensor("o", "BYTES", [2, 1], [b"", b"\x00\xff"])
    for layout in ContentsLayout:
        encoded = b"".join(protobuf.encode_response(InferenceResponse([tensor]), layout))
        assert protobuf.decode_response(encoded).outputs[0].data == tensor.data
    raw = pb.ModelInferResponse.FromString(b"".join(protobuf.encode_response(InferenceResponse([tensor]))))
    assert list(raw.raw_output_contents) == [b"\0\0\0\0\x02\0\0\0\x00\xff"]


def test_amds_text_has_its_number_of_bytes_as_its_shape():
    message = pb.ModelInferRequest()
    message.inputs.add(name="x", datatype="BYTES", shape=[5]).contents.bytes_contents.append(b"hello")
    request, _ = decoded(message)
    assert (request.inputs[0].shape, request.inputs[0].data) == ([1], [b"hello"])


def test_what_is_around_the_tensors_arrives():
    message = pb.ModelInferRequest(model_name="é", model_version="1", id="ö")
    for name, kind, value in (
        ("b", "bool_param", False), ("i", "int64_param", -5), ("s", "string_param", ""),
        ("d", "double_param", 0.1), ("u", "uint64_param", 2**64 - 1),
    ):  # fmt: skip
        setattr(message.parameters[name], kind, value)
    message.parameters["none"].SetInParent()
    message.outputs.add(name="o").parameters["classification"].int64_param = 3
    tensor = message.inputs.add(name="x", datatype="INT8", shape=[1, 0, 300])
    tensor.parameters["k"].bool_param = True
    request, _ = decoded(message)
    assert (request.model, request.version, request.id) == ("é", "1", "ö")
    assert request.parameters == {"b": False, "i": -5, "s": "", "d": 0.1, "u": 2**64 - 1}
    assert request.outputs == [RequestedOutput("o", {"classification": 3})]
    assert (request.inputs[0].shape, request.inputs[0].parameters) == ([1, 0, 300], {"k": True})
    again = pb.ModelInferRequest.FromString(protobuf.encode_request(request))
    del message.parameters["none"]
    message.raw_input_contents.append(b"")
    assert again == message


def test_whether_an_output_is_binary_is_no_question_over_grpc():
    message = pb.ModelInferRequest(model_name="m")
    message.outputs.add(name="o").parameters["binary_data"].bool_param = False
    message.outputs.add(name="p").parameters["k"].bool_param = True
    request, _ = decoded(message)
    assert request.outputs == [RequestedOutput("o"), RequestedOutput("p", {"k": True})]


def test_an_answer_says_what_it_is():
    tensor = Tensor("o", "FP32", [200, 1], np.zeros(200, "<f4").tobytes(), {"p": 1.5})
    response = InferenceResponse([tensor], {"final": True}, model="m", version="2", id="i")
    message = pb.ModelInferResponse.FromString(b"".join(protobuf.encode_response(response)))
    assert (message.model_name, message.model_version, message.id) == ("m", "2", "i")
    assert message.parameters["final"].bool_param
    assert message.outputs[0].parameters["p"].double_param == 1.5
    assert list(message.outputs[0].shape) == [200, 1]
    piece = pb.ModelStreamInferResponse.FromString(protobuf.encode_piece(response, error="no"))
    assert piece.infer_response == message
    assert piece.error_message == "no"
    assert protobuf.decode_response(message.SerializeToString()) == response


def test_an_output_in_shared_memory_has_no_raw_entry():
    tensors = [Tensor("a", "INT8", [1], None), Tensor("b", "INT8", [1], b"\x01")]
    message = pb.ModelInferResponse.FromString(b"".join(protobuf.encode_response(InferenceResponse(tensors))))
    assert [tensor.name for tensor in message.outputs] == ["a", "b"]
    assert list(message.raw_output_contents) == [b"\x01"]


def test_an_input_in_shared_memory_is_read_there_and_takes_no_raw_entry():
    message = pb.ModelInferRequest(raw_input_contents=[b"\x02"])
    first = message.inputs.add(name="a", datatype="INT8", shape=[2])
    first.parameters["shared_memory_region"].string_param = "r"
    first.parameters["shared_memory_byte_size"].int64_param = 2
    first.parameters["shared_memory_offset"].int64_param = 8
    message.inputs.add(name="b", datatype="INT8", shape=[1])
    asked = []
    request, layout = decoded(message, regions=lambda *where: asked.append(where) or b"\x05\x06")
    assert asked == [("r", 8, 2)]
    assert [tensor.data for tensor in request.inputs] == [b"\x05\x06", b"\x02"]
    assert request.inputs[0].parameters is None
    assert layout is ContentsLayout.RAW
    with pytest.raises(InvalidInput, match="not offered"):
        decoded(message)


def test_numbers_that_are_not_packed_are_read_as_if_they_were():
    contents = b"\x10\x01" + b"\x10" + protobuf_wire.encode_varint(2**64 - 2) + b"\x12\x02\x03\x04"
    tensor = b"\x0a\x01x\x12\x05INT32\x18\x02\x18\x02" + protobuf_wire.encode_nested(b"\x2a", contents)
    request, _ = protobuf.decode_request(protobuf_wire.encode_nested(b"\x2a", tensor))
    assert request.inputs[0].array().tolist() == [[1, -2], [3, 4]]


def refused(message, text):
    with pytest.raises(InvalidInput, match=text):
        decoded(message)


@pytest.mark.parametrize("datatype", [name for name in INTEGERS if "64" not in name and "32" not in name])
def test_integers_out_of_range_are_refused(datatype):
    limits = np.iinfo(NUMPY_TYPES[datatype])
    refused(
        message_of(datatype, np.array([limits.max + 1])),
        f"holds {limits.max + 1}, which {datatype} cannot hold",
    )


def test_what_does_not_fit_together_is_refused():
    refused(message_of("FP32", np.zeros(3), shape=[2]), "3 elements")
    refused(message_of("FP32", np.zeros(0), shape=[2]), "0 elements")
    refused(message_of("FP32", np.zeros(1), shape=[-1]), "a shape that no tensor can have")
    refused(message_of("FP32", np.zeros(1), shape=[2**62]), "a shape that no tensor can have")
    unknown = message_of("FP32", np.zeros(1))
    unknown.inputs[0].datatype = "FP8"
    refused(unknown, "invalid datatype 'FP8' for input 'x'")
    wrong = message_of("FP32", np.zeros(1))
    wrong.inputs[0].datatype = "INT32"
    refused(wrong, "'x' is INT32, which travels in int_contents; it has fp32_contents")
    twice = message_of("FP32", np.zeros(1))
    twice.inputs.append(twice.inputs[0])
    refused(twice, "sent twice")


def test_raw_contents_that_do_not_fit_are_refused():
    both = message_of("FP32", np.zeros(1))
    both.raw_input_contents.append(b"\0" * 4)
    refused(both, "contents field must not be specified when using raw_input_contents for 'x'")
    surplus = pb.ModelInferRequest(raw_input_contents=[b"\0", b"\0"])
    surplus.inputs.add(name="x", datatype="INT8", shape=[1])
    refused(surplus, "more entries than there are inputs")
    surplus.inputs.add(name="y", datatype="INT8", shape=[2])
    refused(surplus, "byte size mismatch for input 'y'. Expected 2, got 1")
    surplus.inputs.add(name="z", datatype="INT8", shape=[1])
    surplus.inputs[1].shape[:] = [1]
    refused(surplus, "'z' has no entry")
    text = pb.ModelInferRequest(raw_input_contents=[b"\x05\0\0\0abc"])
    text.inputs.add(name="x", datatype="BYTES", shape=[1])
    refused(text, "ends inside an element")
    boolean = pb.ModelInferRequest(raw_input_contents=[b"\x02"])
    boolean.inputs.add(name="x", datatype="BOOL", shape=[1])
    refused(boolean, "not a BOOL")


def test_a_refused_request_gives_back_the_memory_it_took():
    released = []

    class Counting:
        def allocate(self, size):
            return Buffer(
                memoryview(bytearray(size)), Slot(0, 0, size), lambda slot: released.append(slot.size)
            )

    message = pb.ModelInferRequest(raw_input_contents=[b"\0" * 100_000, b"\0"])
    message.inputs.add(name="x", datatype="INT8", shape=[100_000])
    message.inputs.add(name="y", datatype="INT8", shape=[2])
    with pytest.raises(InvalidInput):
        decoded(message, allocator=Counting())
    assert released == [100_000]
    released.clear()
    message = pb.ModelInferRequest(raw_input_contents=[b"x" * 100_000, b"x" * 100_000])
    message.inputs.add(name="x", datatype="BYTES", shape=[1])
    message.inputs.add(name="y", datatype="BYTES", shape=[25_001])  # four bytes at least for each
    with pytest.raises(InvalidInput, match="needs at least 100004"):
        decoded(message, allocator=Counting())
    assert released == [100_000]


def test_an_input_may_have_the_empty_name_as_amds_echo_calls_its_own():
    message = message_of("UINT32", np.array([3]))
    message.inputs[0].name = ""
    request, _ = decoded(message)
    assert request.inputs[0].name == ""


def test_what_a_client_may_add_is_skipped():
    later = b"\xfa\x3e\x03abc" + b"\xf8\x3e\x05" + b"\xfd\x3e\0\0\0\0" + b"\xf9\x3e" + b"\0" * 8
    request, _ = protobuf.decode_request(b"\x0a\x01m" + later + InferenceRequest("", "", "", []).id.encode())
    assert request.model == "m"


@pytest.mark.parametrize("name", ["inference", "health", "reflection"])
def test_the_generated_modules_are_fresh(name, tmp_path):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        importlib.import_module("generate_protos").generate(tmp_path)
    finally:
        sys.path.pop(0)
    folder = ROOT / "src/mooring/codecs/proto"
    for suffix in (".py", ".pyi"):
        fresh, kept = (path / f"{name}_pb2{suffix}" for path in (tmp_path, folder))
        assert kept.read_text() == fresh.read_text(), "run scripts/generate_protos.py"


def test_field_numbers_and_types_are_tritons():
    theirs = importlib.import_module("tritonclient.grpc.service_pb2").DESCRIPTOR
    configs = importlib.import_module("tritonclient.grpc.model_config_pb2").DESCRIPTOR
    compared = 0

    def compare(ours, other):
        nonlocal compared
        for field in ours.fields:
            if field.name in other.fields_by_name:
                twin = other.fields_by_name[field.name]
                kinds = (field.number, field.type, field.is_repeated)
                assert kinds == (twin.number, twin.type, twin.is_repeated), field.full_name
                compared += 1
            else:
                own = {
                    "model_name", "is_loaded", "is_unloaded", "optional", "unknown_rank", "labels", "content_type",
                }  # fmt: skip
                assert field.name in own, field.full_name
        for nested in ours.nested_types:
            compare(nested, other.nested_types_by_name[nested.name])

    file = pb.ModelInferRequest.DESCRIPTOR.file
    for message in file.message_types_by_name.values():
        known = theirs.message_types_by_name.get(message.name) or configs.message_types_by_name.get(
            message.name
        )
        if known is not None:
            compare(message, known)
    assert compared > 120
    assert FileDescriptorProto.FromString(file.serialized_pb).package == theirs.package


@pytest.mark.processes
def test_tritons_client_and_ours_share_a_process():
    code = "import mooring.codecs.proto.inference_pb2, tritonclient.grpc, mooring.codecs.proto.health_pb2, grpc_health.v1.health_pb2"
    subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", code], check=True)


@pytest.mark.processes
def test_what_workers_are_forked_from_has_neither_grpc_nor_protobuf():
    code = (
        "import sys, mooring.worker_process.template, mooring.backends.onnx, mooring.backends.pytorch,"
        " mooring.backends.builtin, mooring.backends.function, mooring.backends.handler.backend;"
        " found = {'grpc', 'google.protobuf'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("texts", "shape", "filled"), [(3, [-1], [3]), (4, [2, -1], [2, 2]), (64, [-1], [64])]
)
def test_a_shape_of_minus_one_counts_the_texts(texts, shape, filled):
    message = pb.ModelInferRequest()
    message.inputs.add(name="x", datatype="BYTES", shape=shape).contents.bytes_contents.extend([b"a"] * texts)
    assert decoded(message)[0].inputs[0].shape == filled


@pytest.mark.parametrize(("texts", "shape"), [(3, [2, -1]), (65, [-1]), (2, [-1, -1]), (2, [-2])])
def test_a_shape_that_the_texts_do_not_fill_is_refused(texts, shape):
    message = pb.ModelInferRequest()
    message.inputs.add(name="x", datatype="BYTES", shape=shape).contents.bytes_contents.extend([b"a"] * texts)
    with pytest.raises(InvalidInput):
        decoded(message)
