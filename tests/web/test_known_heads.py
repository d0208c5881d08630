"""Which heads are known again, and where one is looked for: the rules, without a parser."""

import pytest

from mooring.web.exchange import Exchange
from mooring.web.known_heads import HeadRecognizer

HOST = (b"host", b"a")
LENGTH = (b"content-length", b"3")
A, B = (b"POST %s HTTP/1.1\r\n\r\nabc" % target for target in (b"/a", b"/b"))


def exchange(*headers, version="1.1", keep_alive=True):
    made = Exchange("POST", b"/a", list(headers), dict(headers), keep_alive, None)
    made.version = version
    return made


class Bench:
    """A recognizer, and chunks that a parser has read before it hears of them."""

    def __init__(self):
        self.known = {}
        self.recognizer = HeadRecognizer(self.known)

    def parsed(self, chunk, begun=None, *, expected=3):
        if begun is not None:
            self.recognizer.note(begun)
        self.recognizer.advance(memoryview(bytearray(chunk)), len(chunk), expected)

    def match(self, chunk):
        return self.recognizer.find(memoryview(bytearray(chunk)), len(chunk))


def test_a_head_is_known_once_it_came_twice_in_a_row():
    bench = Bench()
    for chunk in (A, B, A):
        bench.parsed(chunk, exchange(HOST, LENGTH))
    assert bench.match(A) is None
    bench.parsed(A, exchange(HOST, LENGTH))
    known = bench.match(A)
    assert (known.head, known.size, known.fields) == (A[:-3], 3, dict([HOST, LENGTH]))
    assert bench.match(B) is None
    assert bench.match(A[:-3] + b"xyz") is known
    assert bench.match(A[:-5]) is None  # a head that has not come whole


def test_the_connections_of_a_listener_share_what_they_know():
    first, second = Bench(), Bench()
    second.recognizer = HeadRecognizer(first.known)
    for _ in range(2):
        first.parsed(A, exchange(HOST, LENGTH))
    assert second.match(A) is first.match(A)


@pytest.mark.parametrize(
    "head",
    [
        exchange(HOST),
        exchange(HOST, LENGTH, keep_alive=False),
        exchange(HOST, LENGTH, version="1.0"),
        exchange(HOST, LENGTH, (b"expect", b"100-continue")),
        exchange(HOST, LENGTH, (b"connection", b"close")),
    ],
)
def test_a_head_that_says_more_is_never_known(head):
    bench = Bench()
    for _ in range(3):
        bench.parsed(A, head)
    assert not bench.known


def test_the_next_request_begins_after_the_body_of_the_one_before():
    bench = Bench()
    assert bench.recognizer.at_start
    bench.parsed(A[:-3], exchange(HOST, LENGTH))
    assert not bench.recognizer.at_start
    bench.parsed(b"ab")
    assert not bench.recognizer.at_start
    bench.parsed(b"c")
    assert bench.recognizer.at_start


@pytest.mark.parametrize(
    ("chunk", "begun", "expected"),
    [(A + A, exchange(HOST, LENGTH), 3), (A, exchange(HOST, LENGTH), -1), (A[:9], None, 0)],
    ids=["two in a chunk", "chunked", "half a head"],
)
def test_where_a_request_begins_may_be_lost_and_is_found_again_after_a_large_body(chunk, begun, expected):
    bench = Bench()
    bench.parsed(chunk, begun, expected=expected)
    assert not bench.recognizer.at_start
    bench.parsed(A, expected=3)
    assert not bench.recognizer.at_start
    bench.recognizer.restart()
    assert bench.recognizer.at_start
