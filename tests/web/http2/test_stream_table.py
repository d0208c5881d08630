"""Which frames may come on streams that are not open."""

import pytest
from fake_http2 import FakeStream

from mooring.web.http2.errors import ErrorCode, Http2Error
from mooring.web.http2.stream_table import StreamTable


def code_of(table, number):
    try:
        table.check_late_frame(number)
    except Http2Error as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("number", "idle"), [(0, True), (1, False), (2, True), (5, False), (6, True), (7, True)]
)
def test_streams_that_the_client_never_used_are_idle(number, idle):
    table = StreamTable()
    table.last_id = 5
    assert table.is_idle(number) is idle
    assert (code_of(table, number) is ErrorCode.PROTOCOL_ERROR) is idle


def test_a_stream_that_its_client_ended_takes_no_more():
    table = StreamTable()
    table.last_id = 3
    table.by_id[3] = FakeStream(3)
    assert code_of(table, 1) is ErrorCode.STREAM_CLOSED
    assert code_of(table, 3) is ErrorCode.STREAM_CLOSED


def test_frames_for_a_stream_that_the_server_ended_may_have_been_on_their_way():
    table = StreamTable()
    table.last_id = 5
    table.remember_ended_here(3)
    assert code_of(table, 3) is None
    assert code_of(table, 5) is ErrorCode.STREAM_CLOSED


def test_memory_of_ended_streams_is_bounded_and_older_ones_get_the_benefit_of_the_doubt():
    table = StreamTable()
    table.last_id = 10_001
    for number in range(1, 5001, 2):
        table.remember_ended_here(number)
    assert len(table._ended_here) == 1024
    assert code_of(table, 1) is None
    assert code_of(table, 2951) is None  # the youngest that is forgotten
    assert code_of(table, 4999) is None
    assert code_of(table, 5001) is ErrorCode.STREAM_CLOSED
