"""The frames of answers, held against an independent reader of headers."""

import hpack
import pytest
from fake_http2 import parse_frames
from hypothesis import given
from hypothesis import strategies as st

from mooring.web.grpc import responses
from mooring.web.grpc.responses import JOIN_LIMIT, MESSAGE_PREFIX
from mooring.web.grpc.status import Status
from mooring.web.http2 import frames


def fields(block):
    return dict(hpack.Decoder().decode(block))


@given(st.lists(st.binary(max_size=300), max_size=5), st.sampled_from([b"", b"my-id"]))
def test_a_short_answer_is_a_head_one_message_and_a_status(parts, request_id):
    content = b"".join(parts)
    head, data, end = parse_frames(responses.pack_answer(7, parts, len(content), request_id))
    assert head[:3] == (frames.HEADERS, frames.END_HEADERS, 7)
    expected = {":status": "200", "content-type": "application/grpc"}
    assert fields(head[3]) == (expected | {"x-request-id": "my-id"} if request_id else expected)
    assert data == (frames.DATA, 0, 7, MESSAGE_PREFIX.pack(0, len(content)) + content)
    assert end[:3] == (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 7)
    assert fields(end[3]) == {"grpc-status": "0"}


@pytest.mark.parametrize("request_id", [b"", b"my-id"])
def test_a_short_answer_is_the_same_bytes_as_its_parts(request_id):
    content = responses.prefix_message([b"hello"], 5)
    data = frames.pack_frame(frames.DATA, 0, 3, b"".join(content))
    assert responses.pack_answer(3, [b"hello"], 5, request_id) == (
        responses.pack_head(3, request_id) + data + responses.pack_ok(3)
    )


@given(st.lists(st.sampled_from([0, 1, 100, JOIN_LIMIT, JOIN_LIMIT + 1, 3 * JOIN_LIMIT]), max_size=6))
def test_a_message_is_joined_but_for_its_large_parts(sizes):
    parts = [bytes([number]) * size for number, size in enumerate(sizes)]
    content = b"".join(parts)
    prefixed = responses.prefix_message(parts, len(content))
    assert b"".join(prefixed) == MESSAGE_PREFIX.pack(0, len(content)) + content
    large = [part for part in parts if len(part) > JOIN_LIMIT]
    assert len(prefixed) == 2 * len(large) + 1
    assert all(any(part is each for each in prefixed) for part in large)  # not copied


def test_a_status_has_a_text_that_fits_a_header():
    assert responses.status_fields(Status.NOT_FOUND, "50 % of Ü\n") == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"50 %25 of %C3%9C%0A"),
    ]
    assert responses.status_fields(Status.OK, "") == [(b"grpc-status", b"0")]
