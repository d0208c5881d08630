"""The headers of gRPC calls: what a request's header block says, and how texts and bytes travel in headers.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import base64
import re
from collections.abc import Mapping

import msgspec

from mooring.core.timing import HEADER, asks_for_timing
from mooring.web.grpc.status import Status
from mooring.web.http1_format import REQUEST_ID
from mooring.web.http2.hpack import Field

_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_CONTENT_TYPE = re.compile(rb"application/grpc(\+proto)?\s*(;.*)?", re.IGNORECASE)
_TO_ESCAPE = re.compile(rb"[^ -$&-~]")
_ENCODINGS = frozenset({"identity", "gzip", "deflate"})
_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[^\x00\r\n]*")
_PSEUDO_HEADERS = frozenset({b":method", b":scheme", b":path", b":authority"})
_REQUIRED = frozenset({b":method", b":scheme", b":path"})
# What belongs to the connections of HTTP/1 (RFC 9113, 8.2.2).
_CONNECTION_HEADERS = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
# Not the caller's own, beside those that begin with grpc-.
_CALL_HEADERS = frozenset({b"content-type", b"te", b"user-agent"})


class CallHead(msgspec.Struct, frozen=True):
    """What a header block says of a call. Calls with the same block share one.

    ``timeout`` is in seconds. ``malformed`` says why the block is no request's head (RFC 9113, 8.1.1), ``http_status`` is
    that of an HTTP request which is no call, and ``error`` what ends a call that cannot be served.
    """

    path: bytes = b""
    metadata: tuple[Field, ...] = ()
    timeout: float | None = None
    encoding: str = "identity"
    malformed: str = ""
    http_status: bytes = b""
    error: tuple[Status, str] | None = None
    request_id: bytes = b""  # the caller's own, of x-request-id
    custom_metadata: tuple[Field, ...] = ()  # without the headers of gRPC and HTTP
    timed: bool = False  # the client asks where the time goes

    def header(self, name: bytes) -> bytes | None:
        """The last value of a name, in lower case; of one that ends in ``-bin`` the bytes that it stands for."""
        for each, value in reversed(self.metadata):
            if each == name:
                return decode_binary_header(value) if name.endswith(b"-bin") else value
        return None


def parse_head(fields: list[Field]) -> CallHead:
    """Read the fields of a header block; never raises."""
    named: dict[bytes, bytes] = {}
    ordinary = 0
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            return CallHead(malformed="a header has a character that it cannot have")
        if name.startswith(b":"):
            if ordinary or name in named or name not in _PSEUDO_HEADERS:
                return CallHead(
                    malformed=f"the pseudo-header {name.decode()} is unknown, repeated or out of place"
                )
        else:
            ordinary += 1
            if name in _CONNECTION_HEADERS or (name == b"te" and value.lower() != b"trailers"):
                return CallHead(malformed=f"the header {name.decode()} is not one of HTTP/2's")
        named[name] = value
    if not named.keys() >= _REQUIRED or not named[b":path"]:
        return CallHead(malformed="a pseudo-header is missing", metadata=tuple(fields))
    return _parse_call(fields, named)


def _parse_call(fields: list[Field], named: Mapping[bytes, bytes]) -> CallHead:
    if named[b":method"] != b"POST":
        return CallHead(http_status=b"405")
    if not _CONTENT_TYPE.fullmatch(named.get(b"content-type", b"")):
        return CallHead(http_status=b"415")
    encoding = named.get(b"grpc-encoding", b"identity").decode("latin-1")
    timeout, error = None, None
    if encoding not in _ENCODINGS:
        error = Status.UNIMPLEMENTED, f"messages in the encoding '{encoding}' cannot be read here"
    if b"grpc-timeout" in named:
        matched = _TIMEOUT.fullmatch(named[b"grpc-timeout"])
        if matched is None:
            error = Status.INVALID_ARGUMENT, "the header grpc-timeout is not a number with a unit"
        else:
            timeout = int(matched[1]) * _SECONDS[matched[2].decode()]
    metadata = tuple(field for field in fields if not field[0].startswith(b":"))
    request_id = named.get(b"x-request-id", b"")
    return CallHead(
        named[b":path"],
        metadata,
        timeout,
        encoding,
        error=error,
        request_id=request_id if REQUEST_ID.fullmatch(request_id) else b"",
        custom_metadata=tuple(
            field for field in metadata if field[0] not in _CALL_HEADERS and not field[0].startswith(b"grpc-")
        ),
        timed=asks_for_timing(named.get(HEADER)),
    )


def is_trailers(head: CallHead) -> bool:
    """Whether a header block can end a request: it has no pseudo-headers (RFC 9113, 8.1)."""
    return not head.path and all(name[:1] != b":" for name, _ in head.metadata)


def percent_encode(text: str) -> bytes:
    """A text as the header grpc-message carries it.

    >>> percent_encode("50 % of Ü")
    b'50 %25 of %C3%9C'
    """
    return _TO_ESCAPE.sub(lambda found: b"%%%02X" % found[0][0], text.encode("utf-8", "replace"))


def decode_binary_header(value: bytes) -> bytes | None:
    """The bytes of a header whose name ends in ``-bin``, padded or not; None where it is not base64."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except ValueError:
        return None
