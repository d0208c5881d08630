"""What a worker prints and logs becomes records of the model log."""

import asyncio
import logging
import os

import pytest

from mooring.ipc.log_records import MAX_REQUESTS, ModelRecord, encode_record
from mooring.observability.logs import MODEL_LOG
from mooring.workers import output
from mooring.workers.output import WorkerOutput, shows_debug


@pytest.fixture
async def said(caplog):
    """Writes to a worker's output and returns the records that come of it."""
    caplog.set_level(logging.INFO, MODEL_LOG)
    read, write = os.pipe()
    worker_output = WorkerOutput(read, {"model": "m", "version": "2"})
    worker_output.name_worker("9003")

    ends = [write]

    async def write_all(data: bytes, *, close: bool = False) -> list[logging.LogRecord]:
        os.write(write, data)
        if close:
            os.close(ends.pop())
        while len(data) > 0 and not caplog.records:
            await asyncio.sleep(0)
        return caplog.records

    write_all.output = worker_output
    yield write_all
    for end in ends:
        os.close(end)
    worker_output.close()


async def test_a_printed_line_is_said_at_info(said):
    (record,) = await said(b"hello\n")
    assert (record.levelname, record.name, record.threadName) == ("INFO", MODEL_LOG, "W-9003-m_2-stdout")
    assert record.getMessage() == "model says model=m version=2 text=hello"


async def test_a_record_keeps_its_level_logger_and_requests(said):
    line = encode_record(ModelRecord(40, "ERROR", "a.b", "bad", "Traceback\nKeyError: 1", 2, ["r1", "r2"]))
    (record,) = await said(line)
    assert record.levelname == "ERROR"
    assert record.getMessage() == (
        "model says model=m version=2 logger=a.b request_id=r1,r2 text=bad\nTraceback\nKeyError: 1"
    )
    assert list(said.output.last_lines) == ["ERROR bad", "Traceback", "KeyError: 1"]


async def test_the_ids_of_a_large_batch_are_cut_off_and_its_size_is_there(said):
    ids = [f"r{number}" for number in range(MAX_REQUESTS)]
    (record,) = await said(encode_record(ModelRecord(20, "INFO", "a", "x", "", 100, ids)))
    assert record.msg.facts["request_id"] == ids
    assert record.msg.facts["requests"] == 100


async def test_a_record_after_half_a_line_and_one_that_is_damaged_are_both_kept(said):
    records = await said(b"50%|" + encode_record(ModelRecord(20, "INFO", "a", "x")) + b"\x1e[1,2\n")
    assert [record.msg.text for record in records] == ["50%|", "x", "[1,2"]


async def test_a_last_line_without_an_end_is_said(said):
    (record,) = await said(b"Segmentation fault", close=True)
    assert record.msg.text == "Segmentation fault"


async def test_a_level_of_the_models_own_keeps_its_name(said):
    (record,) = await said(encode_record(ModelRecord(25, "SUCCESS", "a", "x")))
    assert record.levelname == "SUCCESS"


@pytest.mark.parametrize("ends", [False, True], ids=["it falls silent", "it ends"])
async def test_what_a_flood_left_out_is_counted_also_where_nothing_follows(said, monkeypatch, caplog, ends):
    monkeypatch.setattr(output, "_REPORT_AFTER", 600.0 if ends else 0.01)
    await said(b"line\n" * 1200)
    if ends:
        said.output.close()
    async with asyncio.timeout(10):
        while "says too much" not in caplog.text:
            await asyncio.sleep(0.01)
    counts = [record.msg.facts for record in caplog.records if record.msg.name == "model says too much"]
    assert sum(facts["lines_left_out"] for facts in counts) == 1200 - caplog.text.count("text=line")


async def test_debug_is_asked_for_where_the_log_has_that_level(caplog):
    caplog.set_level(logging.INFO, "mooring")
    assert not shows_debug()
    caplog.set_level(logging.DEBUG, "mooring")
    assert shows_debug()


async def test_a_metric_that_is_printed_or_logged_is_recorded_and_not_said(said):
    recorded = []
    said.output.record_values = recorded.extend
    line = "[METRICS]Took.Milliseconds:2.5|#Level:Model|#hostname:h,1700000000"
    logged = encode_record(ModelRecord(20, "INFO", "a", f"{line},id"))
    records = await said(f"{line}\n".encode() + logged + b"[METRICS] no metric\n")
    assert [record.msg.text for record in records] == ["[METRICS] no metric"]
    assert [(each.name, each.values, each.request_id) for each in recorded] == [
        ("Took", [2.5], None), ("Took", [2.5], "id"),
    ]  # fmt: skip
