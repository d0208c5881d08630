"""Form bodies cut into fields: in place where they are large, and given back once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.buffers import LARGE, Buffer, Slot
from mooring.core.errors import InvalidInput
from mooring.protocols.torchserve.forms import form_fields

TYPE = b"multipart/form-data; boundary=xx"


def part(name: str, value: bytes) -> bytes:
    head = f'--xx\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\nContent-Type: a/b\r\n\r\n'
    return head.encode() + value + b"\r\n"


class Memory:
    """An arena of one slot, which begins at 64."""

    def __init__(self, content: bytes) -> None:
        self.memory = bytearray(64) + content
        self.given_back: list[Slot] = []
        slot = Slot(3, 64, len(content))
        self.buffer = Buffer(memoryview(self.memory)[64:], slot, self.given_back.append)

    def read(self, slot: Slot) -> bytes:
        return bytes(self.memory[slot.offset : slot.offset + slot.size])


def test_large_parts_stay_where_they_lie_and_the_last_release_frees_the_body():
    one, two = b"1" * (LARGE + 1), b"2" * (LARGE + 2)
    memory = Memory(part("a", one) + part("b", two) + part("c", b"small") + b"--xx--\r\n")
    a, b, c = (tensor.data[0] for tensor in form_fields(memory.buffer, TYPE))
    assert memory.read(a.slot) == bytes(a) == one
    assert memory.read(b.slot) == bytes(b) == two
    assert a.slot.arena == b.slot.arena == 3
    assert c == b"small"
    a.release()
    a.release()
    assert memory.given_back == []
    b.release()
    assert [slot.offset for slot in memory.given_back] == [64]


def test_a_body_of_small_parts_is_freed_at_once():
    memory = Memory(part("a", b"1") * 1 + part("b", b"2") + b"--xx--\r\n")
    assert [tensor.data[0] for tensor in form_fields(memory.buffer, TYPE)] == [b"1", b"2"]
    assert len(memory.given_back) == 1


def test_of_equal_names_only_the_last_holds_memory():
    memory = Memory(part("a", b"1" * (LARGE + 1)) + part("a", b"2") + b"--xx--\r\n")
    assert [tensor.data[0] for tensor in form_fields(memory.buffer, TYPE)] == [b"2"]
    assert len(memory.given_back) == 1


def test_a_broken_form_gives_its_memory_back():
    memory = Memory(part("a", b"1" * 1000))
    with pytest.raises(InvalidInput):
        form_fields(memory.buffer, TYPE)
    assert len(memory.given_back) == 1


FRAGMENTS = st.sampled_from([
    b"--xx", b"\r\n", b"--", b"xx", b"--xx--\r\n", b'Content-Disposition: form-data; name="a"', b"; filename=f", b"\r\n\r\n",
    b"Content-Type: text/plain", b":", b"=", b"&", b"%", b"+", b'"', b"\x00", b"\xff",
])  # fmt: skip


@given(
    body=st.lists(FRAGMENTS | st.binary(max_size=8), max_size=30).map(b"".join),
    content_type=st.sampled_from([TYPE, b"multipart/form-data", b"application/x-www-form-urlencoded"])
    | st.binary(max_size=20).map(lambda tail: b"multipart/form-data; boundary=" + tail),
    lent=st.booleans(),
)
def test_any_body_is_fields_or_invalid_input_and_no_memory_is_lost(body, content_type, lent):
    memory = Memory(body)
    try:
        fields = form_fields(memory.buffer if lent else body, content_type)
    except InvalidInput:
        fields = []
    names = [tensor.name for tensor in fields]
    assert len(names) == len(set(names))
    assert len(memory.given_back) == lent
