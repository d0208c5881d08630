"""Bytes to requests: the same ones however the bytes are cut, and a refusal for what is no request."""

import pytest
from http1_kit import GET, FakeHttpContext, FakeQueue, ReaderEnd, chunked, feed, post, status_of
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.buffers import LARGE, Buffer, HeapAllocator, view_of
from mooring.core.memory import RESERVE, BodyMemory
from mooring.web.listener import Limits
from mooring.web.request_reader import TRANSITIONS, ReaderState, RequestReader

BIG = bytes(range(256)) * 1200  # 307,200 bytes
AGAIN = post(b"again")


def reader_of(**options):
    context, queue = FakeHttpContext(**options), FakeQueue()
    return RequestReader(context, queue), queue, context


def read(*chunks, **options):
    """What a fresh reader makes of these chunks: the reader and its queue."""
    reader, queue, _ = reader_of(**options)
    for chunk in chunks:
        feed(ReaderEnd(reader), chunk)
    return reader, queue


def refused(*chunks, **options):
    """The status that the client is refused with."""
    reader, queue = read(*chunks, **options)
    assert reader.state is ReaderState.DISCARDING
    assert len(queue.refused) == 1
    return status_of(queue.answers[0])


def told(queue):
    return [
        (each.method, each.target, bytes(view_of(each.body)), each.keep_alive) for each in queue.submitted
    ]


# Requests


def test_a_request_is_what_its_head_and_its_body_say():
    _, queue = read(post(b"body", b"X-A:  1 ", target=b"/m?x=1"))
    (exchange,) = queue.submitted
    assert exchange.headers == [(b"Host", b"a"), (b"Content-Length", b"4"), (b"X-A", b"1")]
    assert exchange.fields[b"x-a"] == b"1"
    assert told(queue) == [("POST", b"/m?x=1", b"body", True)]
    assert exchange.transport is queue


STREAM = GET + post(b"one") + AGAIN + AGAIN + chunked(b"two", b"x" * 70_000) + AGAIN + post(BIG) + AGAIN + GET


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_cuts_between_chunks_make_no_difference(cuts):
    reader, queue, _ = reader_of()
    feed(ReaderEnd(reader), STREAM, cuts)
    assert told(queue) == [
        ("GET", b"/a", b"", True), ("POST", b"/b", b"one", True), *[("POST", b"/b", b"again", True)] * 2,
        ("POST", b"/c", b"two" + b"x" * 70_000, True), ("POST", b"/b", b"again", True), ("POST", b"/b", BIG, True),
        ("POST", b"/b", b"again", True), ("GET", b"/a", b"", True),
    ]  # fmt: skip


SHORT = GET + post(b"body") + chunked(b"ab", trailer=b"x-t: 1\r\n") + GET


@pytest.mark.parametrize("cut", range(len(SHORT) + 1))
def test_the_reader_is_at_rest_between_two_requests_and_nowhere_else(cut):
    ends = {0, len(GET), len(GET + post(b"body")), len(SHORT) - len(GET), len(SHORT)}
    reader, _ = read(SHORT[:cut])
    assert reader.at_rest() == (cut in ends)


@pytest.mark.parametrize("body", [b"", b"body", BIG])
def test_a_head_that_came_twice_is_known_and_its_requests_are_read_alike(body):
    reader, queue, context = reader_of()
    for _ in range(4):
        feed(ReaderEnd(reader), post(body))
    assert len(context.known_heads) == 1
    first, *_, last = queue.submitted
    assert first.head_cache is None
    assert last.head_cache is next(iter(context.known_heads.values())).head_cache
    assert told(queue) == [("POST", b"/b", body, True)] * 4
    assert reader.at_rest()


@pytest.mark.parametrize("cut", range(1, len(post(BIG)) - len(BIG) + 1))
def test_a_part_of_a_known_head_is_not_taken_for_all_of_it(cut):
    reader, queue, _ = reader_of()
    for _ in range(3):
        feed(ReaderEnd(reader), post(BIG))
    feed(
        ReaderEnd(reader), post(BIG), [cut]
    )  # the rest of the head still lies in the buffer, from the one before
    assert told(queue) == [("POST", b"/b", BIG, True)] * 4


def test_trailers_are_no_headers_of_the_next_request():
    _, queue = read(chunked(b"x", trailer=b"x-trailer: 1\r\n") + GET)
    assert queue.submitted[1].headers == [(b"Host", b"a")]


def test_the_root_of_all_paths_is_taken_off():
    assert told(read(GET, root=b"/a")[1])[0][1] == b"/"


def test_a_listener_that_drains_reads_one_request_more_and_no_other():
    reader, queue, context = reader_of()
    context.draining = True
    feed(ReaderEnd(reader), GET)
    feed(ReaderEnd(reader), GET)
    assert told(queue) == [("GET", b"/a", b"", False)]
    assert reader.state is ReaderState.DISCARDING


# Large bodies


def test_a_large_body_is_written_where_it_belongs_and_not_parsed():
    reader, queue, _ = reader_of()
    data = post(BIG)
    feed(ReaderEnd(reader), data[: RESERVE - 1])
    assert reader.state is ReaderState.FILLING
    assert reader.receiving_large
    assert len(reader.buffer) == len(data) - (RESERVE - 1)
    feed(ReaderEnd(reader), data[RESERVE - 1 :] + GET)
    assert reader.state is ReaderState.PARSING
    assert isinstance(queue.submitted[0].body, Buffer)
    assert told(queue) == [("POST", b"/b", BIG, True), ("GET", b"/a", b"", True)]


@pytest.mark.parametrize("data", [post(BIG), chunked(BIG)], ids=["length", "chunked"])
def test_a_body_that_finds_no_memory_is_refused(data):
    allocator = HeapAllocator(BodyMemory(100_000))
    assert refused(data, allocator=allocator) == 503
    assert allocator.memory.used == 0


class NoMemory(HeapAllocator):
    def expect(self, size):
        raise MemoryError


def test_a_body_that_the_system_has_no_memory_for_is_refused():
    assert refused(post(BIG), allocator=NoMemory()) == 507


def test_a_body_without_a_length_counts_while_it_comes():
    allocator = HeapAllocator(BodyMemory(1_000_000))
    reader, _ = read(chunked(BIG)[: -len(b"\r\n0\r\n\r\n")], allocator=allocator)
    assert reader.receiving_large
    assert allocator.memory.used == len(BIG)


def test_what_is_dropped_gives_its_memory_back():
    allocator = HeapAllocator(BodyMemory(1_000_000))
    reader, queue = read(post(BIG)[:100_000], allocator=allocator)
    assert allocator.memory.used > 0
    reader.discard()
    assert allocator.memory.used == 0
    assert not queue.submitted
    assert not reader.receiving


# Refusals

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"nonsense\r\n\r\n"),
        (400, HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (400, b"GET / RTSP/1.0\r\nHost: a\r\n\r\n"),
        (413, HEAD + b"Content-Length: 2000001\r\n\r\n"),
        (413, chunked(*[b"x" * 50_000] * 41)),
        (414, b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (417, HEAD + b"Content-Length: 1\r\nExpect: a-miracle\r\n\r\nx"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 200 + b"\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"x" * 70_000),
        (431, chunked(b"x", trailer=b"t: " + b"x" * 200_000)),
        (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    ],
)
def test_what_is_no_request_is_refused_and_nothing_after_it_is_read(status, data):
    limits = Limits(max_body_bytes=2_000_000)
    assert refused(data, GET, limits=limits) == status


def test_a_head_without_end_is_refused_before_it_ends():
    assert refused(b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"x" * 70_000) == 431


def test_a_refusal_comes_after_the_requests_before_it():
    reader, queue = read(GET + b"nonsense\r\n\r\n")
    assert told(queue) == [("GET", b"/a", b"", True)]
    assert status_of(queue.answers[0]) == 400
    assert reader.unread


@pytest.mark.parametrize("data", [post(BIG), chunked(b"x")])
def test_a_request_that_would_be_refused_whatever_its_body_is_refused_at_its_head(data):
    seen = []
    reader, queue = read(data[:100], GET, admission_check=lambda exchange: seen.append)
    assert seen == queue.refused
    assert len(seen) == 1
    assert not queue.submitted
    assert reader.unread


def test_a_body_is_asked_for_where_the_client_waits_for_that():
    reader, queue = read(post(b"body", b"Expect: 100-continue")[:-4])
    assert queue.continues == 1
    feed(ReaderEnd(reader), b"body")
    assert told(queue) == [("POST", b"/b", b"body", True)]


# What takes too long


def test_a_head_may_take_the_time_for_heads_and_a_body_the_time_for_bodies():
    limits = Limits(header_timeout=3, body_timeout=5)
    reader, _ = read(GET[:10], limits=limits)
    assert reader.receiving
    assert (reader.overdue(0, 3), reader.overdue(0, 3.1)) == ("", "Request header took too long.")
    reader, _ = read(post(b"body")[:-1], limits=limits)
    assert (reader.overdue(0, 5), reader.overdue(0, 5.1)) == ("", "Request body took too long.")


def test_a_body_that_trickles_is_too_slow_unless_the_server_made_it_wait():
    limits = Limits(min_body_rate=500, body_window=30)
    reader, _ = read(post(BIG)[:70_000], limits=limits)
    assert reader.overdue(0, 0) == ""
    feed(ReaderEnd(reader), b"x" * 14_000)
    assert "500 bytes a second" in reader.overdue(30, 0)
    reader.reset_pace()
    assert reader.overdue(31, 0) == ""


def test_only_bytes_that_begin_or_go_on_with_a_request_count_for_the_time_outs():
    reader, _, context = reader_of()
    begun = context.now
    context.now += 1
    feed(ReaderEnd(reader), GET[:5])
    context.now += 1
    feed(ReaderEnd(reader), GET[5:10])
    assert reader.since == begun + 1


# Upgrades

UPGRADE = b"GET /s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"


def test_what_follows_an_upgrade_goes_to_the_other_protocol():
    class Successor:
        data = b""

        def feed(self, data):
            self.data += data

    reader, queue, _ = reader_of()
    successor = Successor()

    def take_up(exchange):
        assert reader.wants_upgrade()
        reader.hand_over(successor)

    queue.submit = take_up
    feed(ReaderEnd(reader), UPGRADE + b"other words")
    assert successor.data == b"other words"
    reader.close()


def test_an_upgrade_that_nobody_takes_up_is_a_request_like_any_other():
    body = b"POST /s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other\r\nContent-Length: 4\r\n\r\nbody"
    _, queue = read(UPGRADE + body + GET)
    assert [each[:3] for each in told(queue)] == [
        ("GET", b"/s", b""),
        ("POST", b"/s", b"body"),
        ("GET", b"/a", b""),
    ]


@pytest.mark.parametrize("before", [b"", GET, UPGRADE])
def test_an_upgrade_that_is_not_taken_up_is_refused_like_any_other_request(before):
    bad = b"POST /s HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: other\r\nContent-Length: 1\r\n\r\nx"  # without a host
    assert refused(before + bad, GET) == 400
    large = bad.replace(b"Content-Length: 1", b"Host: a\r\nContent-Length: 2000000000")
    assert refused(before + large, GET) == 413


def test_a_body_of_the_largest_small_size_is_collected_and_one_byte_more_gets_a_buffer():
    _, queue = read(post(b"x" * LARGE), post(b"x" * (LARGE + 1)))
    assert [type(each.body) is bytes for each in queue.submitted] == [True, False]


def test_a_reader_that_discards_never_reads_again():
    for moves in TRANSITIONS.values():
        assert ReaderState.DISCARDING in moves
    assert TRANSITIONS[ReaderState.DISCARDING] == {ReaderState.DISCARDING}
    reader, _, _ = reader_of()
    reader.discard()
    with pytest.raises(AssertionError):
        reader._enter(ReaderState.PARSING)
