"""Frames and messages: whatever is sent in whatever pieces arrives once, whole and in order."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from mooring.core.buffers import Buffer, Slot
from mooring.core.errors import ErrorRecord, InvalidInput, ModelFailed
from mooring.core.requests import BodyKind, Form, InferenceRequest, InferenceResponse, UndecodedBody
from mooring.core.service import ModelMetadata, ValueDescription
from mooring.core.tensors import JsonOutput, Tensor, TensorSpec
from mooring.ipc.framing import Frames
from mooring.ipc.messages import Batch, Codec, InAnswerSlot, Loaded, Piece, Results, has_lost_payload


@given(st.lists(st.binary(max_size=5000), min_size=1, max_size=8), st.integers(16, 4096))
def test_frames_survive_any_way_of_cutting_them(payloads, capacity):
    codec = Codec()
    stream = b"".join(
        bytes(codec.frame(Piece(n, InferenceResponse([Tensor("t", "BYTES", [1], [data])]))))
        for n, data in enumerate(payloads)
    )
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        frames = Frames(capacity)
        received = []
        while stream or len(received) < len(payloads):
            stream = stream[left.send(stream) :] if stream else stream
            frames.receive(right)
            received.extend(codec.to_server(frame) for frame in frames)
    assert [piece.response.outputs[0].data[0] for piece in received] == payloads
    assert [piece.key for piece in received] == list(range(len(payloads)))


def test_a_slot_travels_as_its_handle_and_other_memory_inline():
    codec = Codec()
    slot = Buffer(memoryview(bytearray(9)), Slot(0, 65536, 9))
    heap = Buffer(memoryview(bytearray(b"heap")))
    request = InferenceRequest("m", "", "id", [Tensor("body", "BYTES", [2], [slot, heap])], form=Form.BODY)
    frame = bytes(codec.frame(Batch([1], [request])))
    (copy,) = codec.to_worker(memoryview(frame)[4:]).requests
    assert copy.inputs[0].data == [Slot(0, 65536, 9), b"heap"]


def test_an_undecoded_body_travels_as_the_handle_of_its_slot_with_all_that_is_known_of_it():
    codec = Codec()
    slot = Buffer(memoryview(bytearray(9)), Slot(0, 65536, 9))
    body = UndecodedBody(BodyKind.GENERATE, slot, declared=[TensorSpec("x", "FP32", [-1])])
    frame = bytes(codec.frame(Batch([1], [InferenceRequest("m", "", "id", [], body=body)])))
    (copy,) = codec.to_worker(memoryview(frame)[4:]).requests
    assert copy.body == UndecodedBody(BodyKind.GENERATE, Slot(0, 65536, 9), declared=body.declared)


def test_a_request_is_lost_where_there_was_no_memory_for_its_body():
    kept, lost = (UndecodedBody(BodyKind.V2, data) for data in (b"{}", None))
    assert not has_lost_payload(InferenceRequest("m", "", "id", [], body=kept))
    assert has_lost_payload(InferenceRequest("m", "", "id", [], body=lost))


def test_a_worker_sends_back_the_bytes_of_a_slot_and_not_its_handle():
    slot = Buffer(memoryview(bytearray(b"lent bytes")), Slot(0, 65536, 10))
    frame = bytes(
        Codec(lends=False).frame(Piece(1, InferenceResponse([Tensor("body", "BYTES", [1], [slot])])))
    )
    assert Codec().to_server(memoryview(frame)[4:]).response.outputs[0].data == [b"lent bytes"]


def test_a_payload_in_its_grant_travels_as_its_size():
    codec = Codec()
    response = InferenceResponse([Tensor("body", "BYTES", [1], [InAnswerSlot(700_000)])])
    frame = bytes(codec.frame(Results([5], [response, ErrorRecord("InvalidInput", "no")], [(1, 0.5, 1)])))
    results = codec.to_server(memoryview(frame)[4:])
    assert results.outcomes[0].outputs[0].data[0].size == 700_000
    assert isinstance(results.outcomes[1].error(model="m"), InvalidInput)


def test_an_error_of_a_kind_the_other_side_does_not_know_is_the_models_failure():
    assert type(ErrorRecord("Surprise", "text").error()) is ModelFailed


def test_outputs_that_are_json_text_are_told_from_tensors():
    outputs = [Tensor("a", "INT8", [1], b"\1"), JsonOutput("b", "INT8", [1], b"[1]", {"k": 1})]
    frame = bytes(Codec().frame(Results([5], [InferenceResponse(outputs)], [])))
    (copy,) = Codec().to_server(memoryview(frame)[4:]).outcomes
    assert copy.outputs == outputs


def test_what_a_model_takes_and_gives_reaches_the_server_with_its_metadata():
    codec = Codec()
    values = ValueDescription(
        {"type": "object", "$defs": {"A": {"enum": [1, None]}}}, {}, streams=True, text="t"
    )
    inputs = [TensorSpec("x", "BYTES", [1], content_type="application/json")]
    loaded = Loaded(ModelMetadata("m", ["1"], "python", inputs, values=values))
    assert codec.to_server(memoryview(bytes(codec.frame(loaded)))[4:]).metadata == loaded.metadata
