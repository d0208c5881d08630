"""A body behind a known document says what the general way reads in it, or is left to that."""

import json

import numpy as np
import pytest

from mooring.codecs.v2_binary_templates import BinaryTemplates, read_document
from mooring.codecs.v2_json import OutputSelection, decode_request, select_outputs
from mooring.core.buffers import LARGE, HeapAllocator
from mooring.core.errors import InvalidInput
from mooring.core.tensors import release
from mooring.ipc.arena import Arena


def entry(size, name="x", datatype="FP32", **more):
    shape = [size // 4]
    return {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": size},
    } | more


def document(*inputs, **more):
    return json.dumps({"inputs": list(inputs), **more}).encode()


def sent(text, payload, allocator=None):
    """The body, as bytes or where an allocator puts it."""
    if allocator is None:
        return text + payload
    body = allocator.allocate(len(text) + len(payload))
    body.view[:] = text + payload
    return body


def taught(text, payload):
    known = BinaryTemplates()
    for _ in range(2):
        assert known.read(text, text + payload) is None
        known.remember(text, len(text + payload), decode_request(text + payload, len(text)))
    return known


def contents(found):
    return [
        (each.name, each.datatype, each.shape, each.parameters, bytes(each.data)) for each in found.inputs
    ]


TRITONS = {
    "outputs": [
        {"name": "y", "parameters": {"binary_data": True}},
        {"name": "z", "parameters": {"binary_data": False}},
    ],
    "parameters": {"priority": 2},
}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (document(entry(8)), 8),
        (document(entry(8), parameters={"binary_data_output": True}), 8),
        (document(entry(8), **TRITONS), 8),
        (document(entry(8), entry(12, "w", "INT32"), entry(0, "v", "BF16", shape=[0, 3])), 20),
        (document(entry(400_000, parameters={"binary_data_size": 400_000, "a": 1}), **TRITONS), 400_000),
        (document(entry(LARGE), entry(2 * LARGE, "w"), entry(4, "v")), 3 * LARGE + 4),
    ],
)
@pytest.mark.parametrize("allocator", [None, HeapAllocator(), Arena(4 << 20)])
def test_a_document_that_came_twice_is_read_as_in_the_general_way(text, size, allocator):
    random = np.random.default_rng(size)
    known = taught(text, random.bytes(size))
    payload = random.bytes(size)
    right = decode_request(text + payload, len(text))
    read = known.read(text, sent(text, payload, allocator))
    assert read is not None
    found, wanted = read
    assert contents(found) == contents(right)
    assert (found.id, found.outputs, found.parameters) == (right.id, right.outputs, right.parameters)
    assert wanted == select_outputs(right.outputs, right.parameters)
    release(found.inputs)
    if isinstance(allocator, Arena):
        assert allocator.slots_in_use == 0


def test_a_tensor_lies_in_its_body_as_a_worker_finds_it():
    text = document(entry(400_000))
    payload = np.random.default_rng(1).bytes(400_000)
    arena = Arena(4 << 20)
    known = taught(text, payload)
    body = sent(text, payload, arena)
    read = known.read(text, body)
    assert read is not None
    data = read[0].inputs[0].data
    assert (data.slot.offset, data.slot.size) == (body.slot.offset + len(text), 400_000)
    assert arena.slots_in_use == 1
    data.release()
    assert arena.slots_in_use == 0


@pytest.mark.parametrize("change", [-1, 1, 4])
def test_a_body_of_another_length_is_left_to_the_general_way(change):
    text = document(entry(8))
    assert taught(text, bytes(8)).read(text, text + bytes(8 + change)) is None


@pytest.mark.parametrize(
    ("text", "payload"),
    [
        (document(entry(8), id="7"), bytes(8)),
        (document(entry(8)).replace(b"{", b'{"id": "8", "\\u0069d": "8", ', 1), bytes(8)),
        (document(entry(8)).replace(b"{", b'{"id": "", "id": null, ', 1), bytes(8)),
        (document(entry(8)).replace(b"{", b'{"id": "7", "id": "8", ', 1), bytes(8)),
        (document(entry(8)).replace(b"{", b'{"id": "\\u00fc", ', 1), bytes(8)),
        (document(entry(8)).replace(b"{", '{"id": "\u00fc", '.encode(), 1), bytes(8)),
        (document(entry(8), id="8").replace(b"{", b'{"id": "8", ', 1), bytes(8)),
        (document(entry(8), id="8").replace(b"{", b'{"id": "7", ', 1), bytes(8)),
        (document(entry(8, "x", "BOOL", shape=[8])), bytes(8)),
        (document(entry(8, "x", "BYTES", shape=[2])), bytes(8)),
        (document({"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}, entry(8, "w")), bytes(8)),
        (document(entry(8), parameters={"binary_data_output": 1}), bytes(8)),
        (document(entry(8), parameters={"a": "." * 5000}), bytes(8)),
    ],
)
def test_what_says_more_or_must_be_looked_at_is_never_known(text, payload):
    text_kept = read_document(text + payload, len(text))
    known = BinaryTemplates()
    for _ in range(3):
        known.remember(text_kept, len(text + payload), decode_request(text + payload, len(text)))
        assert known.read(text_kept, text + payload) is None


def test_requests_of_one_document_share_nothing_that_one_of_them_may_change():
    text = document(entry(8, parameters={"binary_data_size": 8, "a": 1}), parameters={"b": 2})
    known = taught(text, bytes(8))
    first, second = known.read(text, text + bytes(8)), known.read(text, text + bytes(8))
    assert first is not None
    assert second is not None
    first[0].parameters["b"] = first[0].inputs[0].parameters["a"] = 3
    assert second[0].parameters == {"b": 2}
    assert second[0].inputs[0].parameters == {"a": 1}


@pytest.mark.parametrize("form", [b'{"id": "%b", ', b'{"id":"%b",', b'{ "id" :\t"%b"\n, '])
@pytest.mark.parametrize("size", [8, 100_000])
def test_an_id_that_comes_first_is_read_and_may_be_another_each_time(form, size):
    payload = bytes(size)
    plain = document(entry(size), **TRITONS)
    texts = [plain.replace(b"{", form % each, 1) for each in (b"1", b"two", b"", b"4f[]~ !#")]
    known = BinaryTemplates()
    for text in texts[:2]:
        known.remember(text, len(text + payload), decode_request(text + payload, len(text)))
    for text in [*texts, plain]:
        for allocator in (None, Arena(1 << 20)):
            right = decode_request(text + payload, len(text))
            read = known.read(text, sent(text, payload, allocator))
            assert read is not None
            assert (read[0].id, contents(read[0])) == (right.id, contents(right))
            assert read[0].outputs == right.outputs


@pytest.mark.parametrize(
    "before", [b'{"id": "7"\x0c, ', b'{"id": "7", , ', b'{"id": "7" ', b'{"id": "\n", ', b'{"id": 7, ']
)
def test_what_is_no_json_is_not_taken_for_an_id(before):
    text, payload = document(entry(8)), bytes(8)
    wrong = text.replace(b"{", before, 1)
    with pytest.raises(InvalidInput):
        decode_request(wrong + payload, len(wrong))
    assert taught(text, payload).read(wrong, wrong + payload) is None


def test_no_more_documents_are_kept_than_there_is_room_for():
    known = BinaryTemplates()
    texts = [document(entry(8, f"x{number}")) for number in range(600)]
    for text in texts:
        for _ in range(2):
            known.remember(text, len(text) + 8, decode_request(text + bytes(8), len(text)))
    assert known.read(texts[0], texts[0] + bytes(8)) is not None
    assert known.read(texts[-1], texts[-1] + bytes(8)) is None


def test_nothing_asked_in_binary_is_json():
    text = document(entry(8))
    read = taught(text, bytes(8)).read(text, text + bytes(8))
    assert read is not None
    assert read[1] == OutputSelection()
