"""What a worker with overlapping requests makes of the pieces of an instance, which KServe v1 wants whole."""

import json

import pytest

from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor
from mooring.worker_process.channel import join_pieces


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
