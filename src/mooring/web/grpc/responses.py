"""The frames of a call's answer: its head, its messages and the trailers with its status. Pure functions."""

import struct
from collections.abc import Sequence

from mooring.web.grpc.headers import percent_encode
from mooring.web.grpc.status import Status
from mooring.web.http2 import frames
from mooring.web.http2.hpack import Field, encode
from mooring.web.http2.streams import Part

# Bytes up to which an answer is joined to one piece; above, joining costs more than a vector.
JOIN_LIMIT = 16_384
# Before each message: whether it is compressed, and its length.
MESSAGE_PREFIX = struct.Struct(">BI")
ACCEPTED_ENCODINGS: Field = (b"grpc-accept-encoding", b"identity,deflate,gzip")

_HEAD: list[Field] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_HEAD_BLOCK = encode(_HEAD)
_OK_BLOCK = encode([(b"grpc-status", b"0")])
# An answer of one small message up to it: the frame with the head, the head of the DATA frame, the message's prefix.
_SHORT_ANSWER = struct.Struct(f">IBI{len(_HEAD_BLOCK)}sIBIBI")
_HEAD_LENGTH = len(_HEAD_BLOCK) << 8 | frames.HEADERS
_OK_LENGTH = len(_OK_BLOCK) << 8 | frames.HEADERS
_END = frames.END_HEADERS | frames.END_STREAM


def head_fields(request_id: bytes) -> list[Field]:
    """The fields before the first message; ``request_id`` as the caller gave it, or empty."""
    return [*_HEAD, (b"x-request-id", request_id)] if request_id else _HEAD


def status_fields(status: Status, text: str, retry_after: int = 0) -> list[Field]:
    """The fields that end a call; ``retry_after`` are the seconds after which the client may try again, 0 to say none."""
    fields = [(b"grpc-status", b"%d" % status)]
    if text:
        fields.append((b"grpc-message", percent_encode(text)))
    if retry_after:
        fields.append((b"grpc-retry-pushback-ms", b"%d" % (retry_after * 1000)))
    return fields


def pack_head(stream: int, request_id: bytes) -> bytes:
    """The frame before the first message."""
    block = encode(head_fields(request_id)) if request_id else _HEAD_BLOCK
    return frames.HEAD.pack(len(block) << 8 | frames.HEADERS, frames.END_HEADERS, stream) + block


def pack_ok(stream: int) -> bytes:
    """The frame that ends a call with OK."""
    return frames.HEAD.pack(_OK_LENGTH, _END, stream) + _OK_BLOCK


def ok_trailers(stream: int, fields: list[Field]) -> bytes:
    """The frame that ends a call with OK and with further metadata."""
    block = encode([(b"grpc-status", b"0"), *fields])
    return frames.HEAD.pack(len(block) << 8 | frames.HEADERS, _END, stream) + block


def pack_answer(stream: int, parts: Sequence[Part], size: int, request_id: bytes) -> bytes:
    """A whole answer with one message of ``size`` bytes, from head to status, joined."""
    if request_id:
        content = frames.HEAD.pack(size + 5 << 8, 0, stream) + MESSAGE_PREFIX.pack(0, size)
        head = pack_head(stream, request_id) + content
    else:
        head = _SHORT_ANSWER.pack(
            _HEAD_LENGTH, frames.END_HEADERS, stream, _HEAD_BLOCK,
            size + 5 << 8, 0, stream, 0, size,
        )  # fmt: skip
    return b"".join((head, *parts, frames.HEAD.pack(_OK_LENGTH, _END, stream), _OK_BLOCK))


def prefix_message(parts: Sequence[Part], size: int) -> list[Part]:
    """A message of ``size`` bytes with its prefix, in few parts: small ones are joined, large ones are not copied."""
    prefixed: list[Part] = []
    small: list[Part] = [MESSAGE_PREFIX.pack(0, size)]
    for part in parts:
        if len(part) <= JOIN_LIMIT:
            small.append(part)
        else:
            prefixed += (b"".join(small), part)
            small = []
    return [*prefixed, b"".join(small)]
