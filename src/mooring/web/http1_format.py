"""How an answer looks on the wire, and which spellings and values of request fields are sound. No state, no I/O."""

import re
from collections.abc import Iterable
from http import HTTPStatus

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A name or an address, and a port (RFC 9110, 7.2): several, or a port that is no number, may be read in two ways.
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]*)?")
# http://host:8080/path, as it is sent to a proxy; a server must take it too (RFC 9112, 3.2.2).
ORIGIN = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
HTTP = b"HTTP/"
# A request line as llhttp takes it from cameras and radios.
OTHER_PROTOCOL = re.compile(rb" (?:RTSP|ICE)/[0-9.]*\s*\Z")
# What a caller may call its request: whatever can stand in a header and in a line of a log.
REQUEST_ID = re.compile(rb"[!-~]{1,128}")
UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# A request names these at most once: two of them may make two readers see two different requests (RFC 9112, 6.3).
# Of two tokens a proxy before the server may have looked at another one than the server would.
SINGLE = frozenset({b"host", b"content-length", b"transfer-encoding", b"authorization"})

# What says that a body follows.
FRAMING = frozenset({b"content-length", b"transfer-encoding"})

# What asks for more than an answer, or leaves the length of the body open.
SPECIAL = frozenset(
    {b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings"}  # codespell:ignore
)

HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# Names as RFC 2616 had them: what TorchServe sends, in every version of Python.
_NAMES = {413: "Request Entity Too Large", 414: "Request-URI Too Long", 422: "Unprocessable Entity"}
_CLASSES = ("Unknown Status", "Informational", "Success", "Redirection", "Client Error", "Server Error")
_REMEMBERED = 4096


def reason_of(status: int) -> str:
    """The standard reason phrase, or the class with the number where there is none.

    >>> reason_of(404), reason_of(499)
    ('Not Found', 'Client Error (499)')
    """
    if status in _NAMES:
        return _NAMES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"{_CLASSES[status // 100 if status < 600 else 0]} ({status})"


def status_line(status: int, reason: str) -> bytes:
    """A status line with a phrase of the caller's choice, in which nothing can start another line."""
    return b"HTTP/1.1 %d %s\r\n" % (status, UNSAFE.sub(" ", reason).encode("latin-1", "replace"))


class StatusLines(dict[int, bytes]):
    """Status -> status line with its standard phrase."""

    def __missing__(self, status: int) -> bytes:
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is not the status of a final response")
        line = self[status] = status_line(status, reason_of(status))
        return line


class HeadEnds(dict[int, bytes]):
    """Length of a body -> the last lines of the head. Short lengths come again and again and are remembered."""

    def __init__(self, connection: bytes) -> None:
        super().__init__()
        self._connection = connection

    def __missing__(self, size: int) -> bytes:
        end = b"content-length: %d\r\nconnection: %s\r\n\r\n" % (size, self._connection)
        if size < _REMEMBERED:
            self[size] = end
        return end


class Spellings(dict[bytes, bytes]):
    """A field name as somebody spelled it -> in lower case. Common spellings are remembered: hashing is cheaper."""

    def __missing__(self, name: bytes) -> bytes:
        lower = name.lower()
        if len(self) < _REMEMBERED and len(name) < 64:
            self[name] = lower
        return lower


class Methods(dict[bytes, str]):
    """A method as the parser names it -> as text. The parser knows a few dozen and refuses all others."""

    def __missing__(self, method: bytes) -> str:
        text = self[method] = method.decode("ascii")
        return text


STATUS_LINES = StatusLines()
KEPT = HeadEnds(b"keep-alive")
CLOSED = HeadEnds(b"close")
LOWER = Spellings()
METHODS = Methods()
STREAM_KEPT = b"transfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n"
STREAM_CLOSED = b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
UNTIL_CLOSE = b"connection: close\r\n\r\n"


def bodiless(status: int) -> bool:
    """Whether a response of this status never has a body (RFC 9110, 6.4.1)."""
    return status in {204, 304}


def without_upgrade(method: str, target: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of a request once more, without its wish for another protocol."""
    first = b"%s %s HTTP/%s\r\n" % (method.encode(), target, version.encode())
    kept = [b"%s: %s\r\n" % pair for pair in headers if LOWER[pair[0]] != b"upgrade"]
    return first + b"".join(kept) + b"\r\n"


def header_lines(pairs: Iterable[tuple[str, str]]) -> bytes:
    r"""Header fields as lines, each ending in CR LF.

    Raises ``ValueError`` for a name that is no token and for a control character in a value: what a model puts into
    a header must not be able to end it.

    >>> header_lines([("content-type", "text/plain")])
    b'content-type: text/plain\r\n'
    """
    lines = []
    for name, value in pairs:
        if not TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header")
        if UNSAFE.search(value):
            raise ValueError(f"the value of header {name!r} holds a control character")
        try:
            lines.append(f"{name}: {value}\r\n".encode("latin-1"))
        except UnicodeEncodeError:
            lines.append(f"{name}: {value}\r\n".encode())
    return b"".join(lines)
