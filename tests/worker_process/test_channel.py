"""What a worker with overlapping requests makes of the pieces of an instance, which KServe v1 wants whole."""

import json
import socket

import pytest

from mooring.core.errors import ErrorRecord, ModelFailed
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor
from mooring.ipc.arena import Arena, MappedArena
from mooring.ipc.framing import Frames
from mooring.ipc.messages import Codec, Results
from mooring.worker_process.channel import Channel, join_pieces


def piece(*values):
    elements = [json.dumps(value).encode() for value in values]
    return InferenceResponse([Tensor("predictions", "BYTES", [len(elements)], elements)])


@pytest.mark.parametrize(
    ("pieces", "prediction"),
    [
        ([piece("two "), piece("words")], "two words"),
        ([piece("gr\u00fcn "), piece('"quoted"')], 'gr\u00fcn "quoted"'),
        ([piece({"n": 1}), piece({"n": 2})], [{"n": 1}, {"n": 2}]),
        ([piece("text"), piece(1)], ["text", 1]),
        ([piece("text"), InferenceResponse([])], "text"),
    ],
)
def test_texts_are_joined_and_all_else_is_a_list(pieces, prediction):
    (output,) = join_pieces(pieces).outputs
    assert output.shape == [1]
    assert [json.loads(element) for element in output.data] == [prediction]


def test_an_answer_that_no_message_can_hold_is_an_error_and_the_others_are_sent():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        answers = [piece("one"), piece("two")]
        answers[0].parameters = {"text": "\ud800"}
        failure = ErrorRecord.of(ModelFailed("half a \ud83d"))
        arena = Arena(1 << 20)
        Channel(theirs, MappedArena(arena.fd)).send(Results([1, 2, 3], [*answers, failure], [(3, 0.1, 3)]))
        frames = Frames()
        frames.receive(ours)
        (results,) = [Codec().to_server(frame) for frame in frames]
    assert results.keys == [1, 2, 3]
    assert results.outcomes[0].kind == "InvalidOutput"
    assert "cannot be sent: 'utf-8' codec" in results.outcomes[0].message
    assert results.outcomes[1].outputs[0].data == [b'"two"']
    assert results.outcomes[2].message == r"half a \ud83d"
