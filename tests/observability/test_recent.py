"""The last lines of the log and the last errors: bounded, counted, and made of what is logged anyway."""

import gc
import logging
import sys
import weakref

import pytest

from mooring.observability.logs import MODEL_LOG, Event, get_logger
from mooring.observability.recent import (
    MAX_MESSAGE,
    MAX_NAME,
    MAX_TRACEBACK,
    RecentRecords,
    RecordForwarder,
    as_documents,
)


@pytest.fixture
def recent():
    handler = RecentRecords(max_lines=5, max_errors=3)
    logger = logging.getLogger("mooring.of_this_test")
    logger.addHandler(handler)
    logging.getLogger(MODEL_LOG).addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logging.getLogger(MODEL_LOG).removeHandler(handler)


@pytest.fixture
def log():
    return get_logger("mooring.of_this_test")


def fail(log, reason="ValueError: no", model="m", detail="Traceback ...", **more):
    log.error(
        "prediction failed", model=model, version="1", request="r", reason=reason, detail=detail, **more
    )


def messages(recent):
    return [line.message for line in recent.lines_after(0, 100)]


def test_a_line_says_who_when_and_what(recent, log):
    log.warning("model slow", model="m", request_id="the-one", seconds=3)
    (line,) = recent.lines_after(0, 10)
    assert (line.level, line.logger, line.model, line.request_id) == (
        "WARNING", "mooring.of_this_test", "m", "the-one",
    )  # fmt: skip
    assert line.message == "model slow model=m request_id=the-one seconds=3"
    assert line.time > 1_700_000_000


def test_what_a_model_says_is_its_own_text_under_its_own_logger(recent):
    event = Event("model says", {"model": "m", "version": "1", "logger": "own"}, text="hello\tworld")
    logging.getLogger(MODEL_LOG).error(event)
    (line,) = recent.lines_after(0, 10)
    assert (line.message, line.logger) == ("hello\tworld", "own")
    assert recent.errors_after(0, 10) == []  # whatever its level


def test_only_the_last_lines_are_kept_and_their_numbers_ascend(recent, log):
    for number in range(8):
        log.info("event", number=number)
    assert [line.id for line in recent.lines_after(0, 100)] == [4, 5, 6, 7, 8]
    assert [line.id for line in recent.lines_after(6, 100)] == [7, 8]
    assert [line.id for line in recent.lines_after(0, 2)] == [7, 8]
    assert recent.last_line == 8


def test_long_texts_are_cut_in_their_middle(recent, log):
    fail(log, reason="x" * 100_000, detail="y" * 100_000 + "the end")
    (line,) = recent.lines_after(0, 1)
    (error,) = recent.errors_after(0, 1)
    assert len(line.message) < MAX_MESSAGE + 100
    assert len(error.message) < MAX_MESSAGE + 100
    assert len(error.traceback) < MAX_TRACEBACK + 100
    assert error.traceback.endswith("the end")


def test_names_that_models_and_clients_choose_are_cut_and_escaped(recent, log):
    facts = dict.fromkeys(("model", "version", "request", "logger"), "n" * 10_000 + "\udcff")
    log.error("prediction failed", reason="no", **facts)
    (line,), (error,) = recent.lines_after(0, 10), recent.errors_after(0, 10)
    for name in (line.logger, line.model, line.request_id, error.model, error.version, error.request_id):
        assert len(name) < MAX_NAME + 100
        assert name.endswith("n\\udcff")


def test_equal_errors_in_a_row_are_counted(recent, log):
    for _ in range(3):
        fail(log)
    (error,) = recent.errors_after(0, 10)
    assert (error.count, error.message, error.traceback) == (3, "ValueError: no", "Traceback ...")
    fail(log, reason="ValueError: other")
    fail(log)
    assert [(each.message, each.count) for each in recent.errors_after(0, 10)] == [
        ("ValueError: no", 3), ("ValueError: other", 1), ("ValueError: no", 1),
    ]  # fmt: skip


def test_equal_errors_are_counted_although_another_model_fails_between(recent, log):
    for _ in range(3):
        fail(log)
        fail(log, model="n")
    assert [(each.model, each.count) for each in recent.errors_after(0, 10)] == [("m", 3), ("n", 3)]


def test_an_error_that_came_again_is_told_again_under_its_id(recent, log):
    fail(log)
    (first,) = recent.errors_after(0, 10)
    number = recent.last_error
    fail(log)
    (again,) = recent.errors_after(number, 10)
    assert (again.id, again.count) == (first.id, 2)
    assert recent.errors_after(recent.last_error, 10) == []


def test_failures_that_the_log_left_out_count(recent, log):
    fail(log)
    fail(log, left_out=40)
    (error,) = recent.errors_after(0, 10)
    assert error.count == 42


def test_a_load_that_is_tried_again_is_one_error_with_the_traceback_of_the_first_time(recent, log):
    reason = "RuntimeError: " + "long " * 100
    log.error("worker failed", model="m", version="1", reason=reason, detail="Traceback ...")
    log.error("model failed", model="m", version="1")  # the state, whose reason is known
    shortened = f"{reason[:100]} ... 300 characters left out ... {reason[-100:]}"
    log.error("worker failed again", model="m", version="1", reason=shortened)
    (error,) = recent.errors_after(0, 10)
    assert (error.count, error.traceback) == (2, "Traceback ...")


def test_a_fault_of_the_servers_own_has_its_traceback_and_holds_on_to_nothing():
    class Body:
        pass

    def fault(held):
        raise LookupError("gone wrong")

    def log_fault():
        body = Body()
        try:
            fault(body)
        except LookupError:
            record = logging.makeLogRecord(
                {"msg": Event("request failed", {"target": "/x"}), "levelno": 40, "exc_info": sys.exc_info()}
            )
            recent.handle(record)  # no logger's: pytest keeps the records of those
        return weakref.ref(body)

    recent = RecentRecords()
    seen = log_fault()
    gc.collect()
    assert seen() is None
    (error,) = recent.errors_after(0, 10)
    assert "LookupError: gone wrong" in error.traceback
    assert error.message == "request failed target=/x"


def test_text_that_utf8_cannot_hold_is_escaped(recent, log):
    log.info("event", file="a\udcff")
    assert messages(recent) == ['event file="a\\udcff"']
    assert messages(recent)[0].encode()


def test_a_reader_is_told_of_every_change(recent, log):
    told = []
    recent.on_change = lambda: told.append(recent.last_line)
    log.info("event")
    fail(log)
    assert told == [1, 2]


def test_a_frontends_records_are_kept_until_they_are_taken_and_numbered_anew(recent, log):
    forwarder = RecordForwarder(max_lines=3)
    logger = logging.getLogger("mooring.of_a_frontend")
    logger.addHandler(forwarder)
    try:
        for number in range(4):
            get_logger("mooring.of_a_frontend").error("failed", model="m", version="1", number=number)
    finally:
        logger.removeHandler(forwarder)
    log.info("before")
    taken = forwarder.take()
    assert forwarder.take() == []
    for line, error in taken:
        recent.add(line, error)
    assert [line.id for line in recent.lines_after(0, 10)] == [1, 2, 3, 4]
    assert [error.message.split()[-1] for error in recent.errors_after(0, 10)] == [
        "number=1",
        "number=2",
        "number=3",
    ]


def test_documents_have_what_a_page_shows(recent, log):
    fail(log)
    assert set(as_documents(recent.lines_after(0, 1))[0]) == {
        "id", "time", "level", "logger", "model", "request_id", "message",
    }  # fmt: skip
    assert set(as_documents(recent.errors_after(0, 1))[0]) == {
        "id", "time", "model", "version", "request_id", "message", "traceback", "count",
    }  # fmt: skip


def test_whoever_logs_is_not_broken_by_a_reader_that_is_gone(recent, log, monkeypatch):
    def told():
        raise RuntimeError("the event loop is closed")

    monkeypatch.setattr(logging, "raiseExceptions", False)  # it writes to stderr otherwise
    recent.on_change = told
    log.info("event")
    assert [line.message for line in recent.lines_after(0, 10)] == ["event"]
