"""Streams of events: one reading for all who watch, none for nobody, and a slow one holds nothing up."""

import asyncio
import json

import pytest

from mooring.console import event_streams
from mooring.console.event_streams import EventStreams
from mooring.observability.logs import Event
from mooring.observability.metrics import Metrics
from mooring.observability.recent import RecentRecords
from mooring.protocols.responses import Responses
from mooring.protocols.status import FORBIDDEN
from mooring.web.exchange import Exchange


class Page:
    """A client: takes what is written until it is told not to."""

    peer = ""

    def __init__(self, *headers):
        self.written = b""
        self.slow = self.ended = False
        self.exchange = Exchange("GET", b"/console/api/events", [], dict(headers), True, self)

    def write(self, _exchange, pieces, *, last):
        self.written += b"".join(map(bytes, pieces))
        self.ended = last

    def write_whole(self, _exchange, answer):
        self.written += answer
        self.ended = True

    def can_write(self, _exchange):
        return not self.slow

    def abort(self, _exchange):
        self.ended = True

    def events(self):
        """The name and the data of each event."""
        lines = self.written.partition(b"\r\n\r\n")[2].decode().splitlines()
        names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
        data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        return list(zip(names, data, strict=True))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(event_streams, "INTERVAL", 0.01)
    monkeypatch.setattr(event_streams, "_GATHERING", 0.001)


@pytest.fixture
def recent():
    return RecentRecords()


@pytest.fixture
async def streams(recent, quick):
    readings = []

    def read():
        readings.append(len(readings))
        return b'{"reading":%d}' % readings[-1]

    async def read_in_turns():
        return read()

    responses = Responses(Metrics().responses)
    found = EventStreams(responses, recent, read_in_turns, read, lambda documents: documents)
    found.readings = readings
    yield found
    found.end()


def log(recent, text, model="m"):
    import logging

    recent.handle(
        logging.makeLogRecord({"msg": Event(text, {"model": model}), "levelno": 40, "levelname": "ERROR"})
    )


async def until(reached):
    for _ in range(500):
        if reached():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true in time")


async def test_a_stream_begins_with_the_state_and_goes_on_with_it(streams):
    page = Page()
    streams.open(page.exchange)
    assert b"content-type: text/event-stream" in page.written
    assert page.events() == [("state", {"reading": 0})]
    await until(lambda: len(page.events()) >= 3)
    assert [data["reading"] for _, data in page.events()][:3] == [0, 1, 2]


async def test_one_reading_serves_all_pages(streams):
    pages = [Page() for _ in range(5)]
    for page in pages:
        streams.open(page.exchange)
    at_first = len(streams.readings)
    await until(lambda: len(pages[0].events()) >= 4)
    assert len({page.events()[-1][1]["reading"] for page in pages}) == 1
    assert len(streams.readings) - at_first == len(pages[0].events()) - 1


async def test_without_a_page_nothing_is_read_and_nobody_is_told_of_the_log(streams, recent):
    page = Page()
    streams.open(page.exchange)
    page.exchange.abandon()
    assert streams.count == 0
    assert recent.on_change is None
    readings = len(streams.readings)
    await asyncio.sleep(0.05)
    assert len(streams.readings) == readings


async def test_lines_and_errors_come_as_they_are_logged_and_not_those_before(streams, recent):
    log(recent, "before")
    page = Page()
    streams.open(page.exchange)
    log(recent, "one")
    log(recent, "two")
    await until(lambda: [name for name, _ in page.events() if name == "error"] == ["error", "error"])
    lines = [line["message"] for name, data in page.events() if name == "log" for line in data["lines"]]
    assert lines == ["one model=m", "two model=m"]


async def test_a_slow_page_misses_states_and_gets_the_last_lines_when_it_reads_again(streams, recent):
    slow, quick = Page(), Page()
    for page in (slow, quick):
        streams.open(page.exchange)
    slow.slow = True
    before = slow.written
    for number in range(300):
        log(recent, f"line {number}")
    await until(lambda: len(quick.events()) > 5)
    assert slow.written == before  # nothing is kept for it
    slow.slow = False
    await until(lambda: any(name == "log" for name, _ in slow.events()))
    lines = [line["message"] for name, data in slow.events() if name == "log" for line in data["lines"]]
    assert len(lines) == event_streams._MOST_LINES
    assert lines[-1] == "line 299 model=m"


async def test_the_end_of_the_server_ends_every_stream_and_refuses_new_ones(streams):
    page, late = Page(), Page()
    streams.open(page.exchange)
    streams.end()
    assert page.ended
    assert not page.exchange.keep_alive
    streams.open(late.exchange)
    assert late.written.startswith(b"HTTP/1.1 503")
    assert b"stopping" in late.written


async def test_so_many_streams_and_no_more(streams, monkeypatch):
    monkeypatch.setattr(event_streams, "MAX_STREAMS", 2)
    pages = [Page() for _ in range(3)]
    for page in pages:
        streams.open(page.exchange)
    assert pages[2].written.startswith(b"HTTP/1.1 503")
    pages[0].exchange.abandon()
    again = Page()
    streams.open(again.exchange)
    assert again.written.startswith(b"HTTP/1.1 200")


async def test_a_stream_whose_token_holds_no_more_ends(streams):
    tokens = {b"Bearer old"}
    streams.check = lambda given: None if given in tokens else FORBIDDEN
    page = Page((b"authorization", b"Bearer old"))
    streams.open(page.exchange)
    await until(lambda: len(page.events()) > 2)
    assert not page.ended
    tokens.clear()
    await until(lambda: page.ended)
    assert streams.count == 0


async def test_lines_of_other_threads_arrive(streams, recent):
    page = Page()
    streams.open(page.exchange)
    await asyncio.to_thread(log, recent, "from elsewhere")
    await until(lambda: any(name == "log" for name, _ in page.events()))


async def test_a_line_that_comes_while_others_are_written_is_not_passed_over(streams, recent, monkeypatch):
    page = Page()
    streams.open(page.exchange)
    encode = event_streams.encode

    def encode_slowly(document):
        if recent.last_line == 1:
            log(recent, "two")  # as from another thread
        return encode(document)

    monkeypatch.setattr(event_streams, "encode", encode_slowly)
    log(recent, "one")
    await until(lambda: sum(name == "error" for name, _ in page.events()) == 2)
    lines = [line["message"] for name, data in page.events() if name == "log" for line in data["lines"]]
    assert lines == ["one model=m", "two model=m"]


async def test_a_change_that_is_noted_after_the_last_page_left_holds_up_no_later_one(streams, recent):
    page, later = Page(), Page()
    streams.open(page.exchange)
    on_change = recent.on_change
    page.exchange.abandon()
    await asyncio.to_thread(on_change)  # a thread that had read it before
    await asyncio.sleep(0)
    streams.open(later.exchange)
    streams._ticker.cancel()
    log(recent, "one")
    await until(lambda: any(name == "log" for name, _ in later.events()))
