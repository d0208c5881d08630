"""How a large message is cut for its way and put together again, whatever its parts are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.cluster import sessions
from mooring.cluster.sessions import PART, Abort, Arrival, Begin, Part, Transfer, Whole
from mooring.core.buffers import LARGE, Buffer
from mooring.core.requests import InferenceRequest
from mooring.core.tensors import Tensor
from mooring.ipc.framing import heap_buffer
from mooring.ipc.messages import AttachingEncoder, MessageDecoder


def request_of(*sizes):
    tensors = []
    for size in sizes:
        buffer = heap_buffer(size)
        buffer.view[:] = bytes(index % 251 for index in range(size))
        tensors.append(Tensor("x", "UINT8", [size], buffer))
    return InferenceRequest("m", "1", "id", tensors)


def contents_of(transfer):
    transfer.first_packet = 0
    contents = []
    while not transfer.finished:
        contents.append(transfer.next_content())
    return contents


def put_together(contents, allocate=heap_buffer):
    if isinstance(contents[0], Whole):
        return contents[0].data, []
    arrival = Arrival(contents[0].sizes, allocate)
    for part in contents[1:]:
        assert not arrival.complete
        arrival.add(memoryview(bytes(part.data)))
    assert arrival.complete
    return arrival.head, arrival.payloads


@given(
    st.lists(st.sampled_from([0, 1, 100, LARGE, LARGE + 1, PART, PART + 1, 3 * PART, 300_001]), max_size=4)
)
def test_what_is_cut_comes_together_as_it_was(sizes):
    request = request_of(*sizes)
    contents = contents_of(Transfer(request, AttachingEncoder()))
    assert all(len(content.data) <= PART for content in contents if isinstance(content, Whole | Part))
    head, payloads = put_together(contents)
    found = MessageDecoder(InferenceRequest).decode(memoryview(head), payloads)
    assert [bytes(tensor.data) for tensor in found.inputs] == [bytes(each.data) for each in request.inputs]
    assert [type(tensor.data) is Buffer for tensor in found.inputs] == [size > LARGE for size in sizes]


def test_a_small_message_travels_in_one_packet():
    (content,) = contents_of(Transfer(request_of(100), AttachingEncoder()))
    assert isinstance(content, Whole)


def test_a_payload_without_memory_is_dropped_and_the_rest_arrives():
    def allocate(size):
        if size > 200_000:
            raise MemoryError
        return heap_buffer(size)

    contents = contents_of(Transfer(request_of(300_000, 100_000), AttachingEncoder()))
    _, payloads = put_together(contents, allocate)
    assert [payload and len(payload) for payload in payloads] == [None, 100_000]


def test_a_transfer_that_is_given_up_says_so_only_where_the_other_end_waits_for_the_rest():
    ends = []
    transfer = Transfer(request_of(300_000), AttachingEncoder(), lambda: ends.append(1))
    assert transfer.abort() is None  # nothing of it has left
    transfer = Transfer(request_of(300_000), AttachingEncoder(), lambda: ends.append(2))
    transfer.first_packet = 5
    begin = transfer.next_content()
    assert isinstance(begin, Begin)
    assert transfer.abort() == Abort(begin.transfer)
    transfer.end()
    assert ends == [1, 2]


@pytest.mark.parametrize("sizes", [[], [-1], [10, -5]])
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(ValueError, match="a message of"):
        Arrival(sizes, heap_buffer)


def test_more_bytes_than_were_announced_are_refused():
    arrival = Arrival([3, 2], heap_buffer)
    with pytest.raises(ValueError, match="more bytes"):
        arrival.add(memoryview(b"four"))
    arrival.add(memoryview(b"abc"))
    arrival.add(memoryview(b"de"))
    with pytest.raises(ValueError, match="more bytes"):
        arrival.add(memoryview(b"f"))


def test_a_part_is_small_enough_for_ray_to_take_it_along_with_a_call():
    assert PART + 1000 < 90_000
    assert sessions.PART is PART
