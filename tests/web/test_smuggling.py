"""The known classes of request smuggling: what two readers might cut in two ways, and the one right outcome of each.

Every message carries a second request inside, to ``/smuggled``. The app may see it only where every reader of the
protocol must; where a message has two readings it is refused, the connection ends, and nothing behind it is heard.
"""

from typing import NamedTuple

import pytest

pytestmark = pytest.mark.sockets

VICTIM = b"GET /victim HTTP/1.1\r\nHost: a\r\n\r\n"
HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /front HTTP/1.1\r\nHost: a\r\n"
END = b"\r\n0\r\n\r\n"
REFUSED = [400]


class Case(NamedTuple):
    """``statuses`` of all the answers, the victim's own request at the end included; ``seen``: targets the app saw."""

    message: bytes
    statuses: list[int] = REFUSED
    seen: tuple[bytes, ...] = ()


def chunked(*lines: bytes, body: bytes = b"0\r\n\r\n" + HIDDEN) -> bytes:
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def sized(*lines: bytes, body: bytes = HIDDEN) -> bytes:
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


WHOLE = b"Content-Length: %d" % len(HIDDEN)
TE = b"Transfer-Encoding: chunked"
BOTH_SEEN = Case(b"", [200, 200, 200], (b"/front", b"/smuggled", b"/victim"))
ONE_BODY = Case(b"", [200, 200], (b"/front", b"/victim"))

CASES = {
    # What there is one reading of: the hidden request is a body, or it is a request.
    "a body that looks like a request": ONE_BODY._replace(message=sized(WHOLE)),
    "no body": BOTH_SEEN._replace(message=sized(b"Content-Length: 0")),
    "neither length nor coding": BOTH_SEEN._replace(message=sized()),
    "leading zeros of a length": ONE_BODY._replace(message=sized(b"Content-Length: 000%d" % len(HIDDEN))),
    "blanks around a length": ONE_BODY._replace(message=sized(b"Content-Length: \t %d \t" % len(HIDDEN))),
    "chunked": BOTH_SEEN._replace(message=chunked(TE)),
    "chunked in capitals": BOTH_SEEN._replace(message=chunked(b"TRANSFER-ENCODING: CHUNKED")),
    "a request in a chunk": ONE_BODY._replace(message=chunked(TE, body=b"%x\r\n" % len(HIDDEN) + HIDDEN + END)),
    "a request in a chunk's extension": ONE_BODY._replace(message=chunked(TE, body=b'1;a="GET /smuggled"\r\nx' + END)),
    "a request in a trailer": ONE_BODY._replace(message=chunked(TE, body=b"0\r\nX: GET /smuggled HTTP/1.1\r\n\r\n")),
    "a length in a trailer": Case(chunked(TE, body=b"0\r\nContent-Length: 40\r\n\r\n" + HIDDEN)),
    "a coding in a trailer": Case(chunked(TE, body=b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + HIDDEN)),
    "zeros before a chunk's size": ONE_BODY._replace(message=chunked(TE, body=b"0001\r\nx" + END)),
    "an absolute target": Case(
        b"GET http://other.example/front HTTP/1.1\r\nHost: a\r\n\r\n", [200, 200], (b"http://other.example/front", b"/victim")
    ),
    # CL.TE and TE.CL, whichever comes first and whatever they say.
    "CL.TE": Case(chunked(b"Content-Length: 6", TE)),
    "TE.CL": Case(chunked(TE, b"Content-Length: 6")),
    "CL.TE with no length": Case(chunked(b"Content-Length: 0", TE)),
    "TE.CL in a chunk": Case(chunked(TE, b"Content-Length: 4", body=b"%x\r\n" % len(HIDDEN) + HIDDEN + END)),
    # TE.TE: a coding that one reader knows and another does not.
    "TE.TE, another coding last": Case(chunked(TE, b"Transfer-Encoding: x")),
    "TE.TE, another coding first": Case(chunked(b"Transfer-Encoding: x", TE)),
    "TE.TE, identity": Case(chunked(b"Transfer-Encoding: identity", b"Content-Length: 5")),
    "TE.TE, a list": Case(chunked(b"Transfer-Encoding: chunked, chunked")),
    "TE.TE, a comma": Case(chunked(b"Transfer-Encoding: ,chunked")),
    "TE.TE, a parameter": Case(chunked(b"Transfer-Encoding: chunked;q=1")),
    "TE.TE, no colon": Case(chunked(b"Transfer-Encoding chunked", b"Content-Length: 5")),
    "TE.TE, a blank before the colon": Case(chunked(b"Transfer-Encoding : chunked", b"Content-Length: 5")),
    "TE.TE, a tab before the colon": Case(chunked(b"Transfer-Encoding\t: chunked", b"Content-Length: 5")),
    "TE.TE, a blank before the name": Case(chunked(b" Transfer-Encoding: chunked", b"Content-Length: 5")),
    "TE.TE, a NUL before the value": Case(chunked(b"Transfer-Encoding: \0chunked")),
    "TE.TE, a vertical tab": Case(chunked(b"Transfer-Encoding:\x0bchunked")),
    "TE.TE, a form feed": Case(chunked(b"Transfer-Encoding:\x0cchunked")),
    "TE.TE, a byte above ASCII": Case(chunked(b"Transfer-Encoding: chunked\xa0")),
    "TE.TE, folded": Case(chunked(b"Transfer-Encoding:\r\n chunked", b"Content-Length: 5")),
    "TE.TE, folded after": Case(chunked(b"Transfer-Encoding: chunked\r\n\t", b"Content-Length: 5")),
    "TE.TE, behind a bare CR": Case(chunked(b"X: y\rTransfer-Encoding: chunked", b"Content-Length: 5")),
    "TE.TE, behind a bare LF": Case(chunked(b"X: y\nTransfer-Encoding: chunked", b"Content-Length: 5")),
    "TE.TE, an underscore": Case(
        sized(b"Transfer_Encoding: chunked", WHOLE), [200, 200], (b"/front", b"/victim")
    ),
    "TE under HTTP/1.0": Case(chunked(TE).replace(b"HTTP/1.1", b"HTTP/1.0", 1)),
    # CL.CL, and lengths that are read in two ways.
    "CL.CL": Case(sized(b"Content-Length: 0", WHOLE)),
    "CL.CL, the same": Case(sized(WHOLE, WHOLE)),
    "CL.CL, in a list": Case(sized(b"Content-Length: 0, %d" % len(HIDDEN))),
    "CL with a sign": Case(sized(b"Content-Length: +%d" % len(HIDDEN))),
    "CL below zero": Case(sized(b"Content-Length: -1")),
    "CL in hexadecimal": Case(sized(b"Content-Length: 0x%x" % len(HIDDEN))),
    "CL in octal": Case(sized(b"Content-Length: 0o%o" % len(HIDDEN))),
    "CL with a fraction": Case(sized(b"Content-Length: %d.0" % len(HIDDEN))),
    "CL with an exponent": Case(sized(b"Content-Length: 4e1")),
    "CL in other digits": Case(sized("Content-Length: \u0664\u0660".encode())),
    "CL that is nothing": Case(sized(b"Content-Length:")),
    "CL beyond 64 bits": Case(sized(b"Content-Length: 18446744073709551616")),
    "CL with a NUL": Case(sized(b"Content-Length: 0\x00%d" % len(HIDDEN))),
    "CL with a quote": Case(sized(b'Content-Length: "%d"' % len(HIDDEN))),
    # Chunks whose size two readers take for two sizes.
    "a chunk's size below zero": Case(chunked(TE, body=b"-1\r\nx" + END)),
    "a chunk's size with 0x": Case(chunked(TE, body=b"0x1\r\nx" + END)),
    "a chunk's size with an underscore": Case(chunked(TE, body=b"1_0\r\n" + b"x" * 16 + END)),
    "a chunk's size with a blank before": Case(chunked(TE, body=b" 1\r\nx" + END)),
    "a chunk's size with a blank behind": Case(chunked(TE, body=b"1 \r\nx" + END)),
    "a chunk's size beyond 64 bits": Case(chunked(TE, body=b"10000000000000001\r\nx" + END)),
    "a chunk's size that is nothing": Case(chunked(TE, body=b";a\r\nx" + END)),
    "a chunk's size ended by LF": Case(chunked(TE, body=b"1\nx" + END)),
    "a chunk's size ended by CR": Case(chunked(TE, body=b"1\rx" + END)),
    "a chunk ended by LF": Case(chunked(TE, body=b"1\r\nx\n0\r\n\r\n")),
    "a chunk longer than it says": Case(chunked(TE, body=b"1\r\nxy" + END)),
    "a chunk ended by other bytes": Case(chunked(TE, body=b"1\r\nxXX0\r\n\r\n")),
    "LF in a chunk's extension": Case(chunked(TE, body=b"1;a\nb\r\nx" + END)),
    "CR in a chunk's extension": Case(chunked(TE, body=b"1;a\rb\r\nx" + END)),
    "a trailer ended by LF": Case(chunked(TE, body=b"0\r\nX: y\n\r\n")),
    # Lines that end in two ways.
    "LF after the request line": Case(b"GET /front HTTP/1.1\nHost: a\r\n\r\n"),
    "LF after a header": Case(b"GET /front HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
    "LF for the head's end": Case(b"GET /front HTTP/1.1\r\nHost: a\r\n\n"),
    "CR for a line's end": Case(b"GET /front HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"),
    "CR CR LF": Case(b"GET /front HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    "a folded line": Case(sized(b"X: y\r\n z")),
    "a folded line at the head's begin": Case(b"GET /front HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n"),
    "a NUL in a header": Case(sized(b"X: \0")),
    # Requests that are cut out of another's parts.
    "a request in a header by CR LF": BOTH_SEEN._replace(message=sized(b"X: y\r\n\r\n" + HIDDEN[:-4], body=b"")),
    "a version behind the target": Case(b"GET /front HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a tab in the request line": Case(b"GET\t/front\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    "two hosts": Case(b"GET /front HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    "hosts in a list": Case(b"GET /front HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    "no host": Case(b"GET /front HTTP/1.1\r\n\r\n"),
    "HTTP/0.9": Case(b"GET /front\r\n"),
    "HTTP/0.9 by its number": Case(b"GET /front HTTP/0.9\r\n\r\n"),
    "HTTP/1.10": Case(b"GET /front HTTP/1.10\r\nHost: a\r\n\r\n"),
    "HTTP/2 without TLS": Case(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a tunnel": Case(b"CONNECT other.example:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
}  # fmt: skip


def echo(exchange):
    exchange.respond(200, exchange.take_body())


def outcome(client, count):
    """The statuses of so many answers, and whether the connection has ended then."""
    statuses = [client.response().status for _ in range(count)]
    return statuses, client.ended() if statuses[-1:] == [400] else False


def check(served, client, case):
    client.send(case.message + VICTIM)
    statuses, ended = outcome(client, len(case.statuses))
    assert statuses == case.statuses
    assert ended == (case.statuses == REFUSED)
    assert tuple(each.target for each in served.seen) == case.seen


@pytest.mark.parametrize("name", CASES)
def test_a_message_has_its_one_outcome(serve, name):
    served = serve(echo)
    check(served, served.connect(), CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_it_has_the_same_outcome_behind_a_head_that_is_known(serve, name):
    """Requests with a known head are not parsed; what follows one must be."""
    served = serve(echo)
    client = served.connect()
    known = POST + b"Content-Length: 3\r\n\r\nabc"
    for _ in range(4):
        assert client.ask(known).body == b"abc"
    assert served.server.known_heads
    served.seen.clear()
    check(served, client, CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_it_has_the_same_outcome_in_one_piece_with_a_known_head_before_it(serve, name):
    served = serve(echo)
    client = served.connect()
    known = POST + b"Content-Length: 3\r\n\r\nabc"
    for _ in range(4):
        client.ask(known)
    served.seen.clear()
    case = CASES[name]
    case = Case(known + case.message, [200, *case.statuses], (b"/front", *case.seen))
    client.send(case.message + VICTIM)
    assert outcome(client, len(case.statuses))[0] == case.statuses
    assert tuple(each.target for each in served.seen) == case.seen


@pytest.mark.parametrize("name", CASES)
def test_it_has_the_same_outcome_byte_by_byte(serve, name):
    served = serve(echo)
    client, case = served.connect(), CASES[name]
    try:
        for byte in case.message + VICTIM:
            client.send(bytes([byte]))
    except OSError:  # refused in the middle
        assert case.statuses == REFUSED
    statuses, _ = outcome(client, len(case.statuses))
    assert statuses == case.statuses
    assert tuple(each.target for each in served.seen) == case.seen
