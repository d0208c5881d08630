"""Lines of which there are many: they come to every output in their order, and a slow one holds nobody up."""

import json
import logging
import os
import re
import threading
import time

import pytest
from logging_kit import logging_restored

from mooring.config.settings import Config
from mooring.observability.call_log import CallLog
from mooring.observability.calls import CLIENT_GONE, ModelCall, path_for_log
from mooring.observability.log_output import line_writer
from mooring.observability.log_output.line_writer import LineWriter, is_written
from mooring.observability.log_output.patterns import PatternLayout
from mooring.observability.log_output.setup import setup_logging
from mooring.observability.logs import ACCESS_LOG, MODEL_METRICS, TS_METRICS


@pytest.fixture(autouse=True)
def _as_before():
    with logging_restored():
        yield


def end_call(writer, target=b"/ping", status=200, **known):
    call = CallLog(writer, access=True, metrics=None).begin("127.0.0.1:5", "GET", target, "HTTP/1.1")
    call.status = status
    for name, value in known.items():
        setattr(call, name, value)
    call.end()


def test_lines_are_in_torchserves_files_and_in_order(tmp_path, capfd):
    setup_logging(Config(log_folder=tmp_path, log_format="torchserve", metrics_mode="both"))
    writer = LineWriter()
    for number in range(3):
        end_call(writer, b"/%d" % number)
        writer.add(TS_METRICS, (f"m{number}", "n"))
    writer.add(MODEL_METRICS, ("own",))
    writer.close()
    head = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
    accessed = (tmp_path / "access_log.log").read_text().splitlines()
    for number, line in enumerate(accessed):
        assert re.fullmatch(rf'{head} - /127\.0\.0\.1:5 "GET /{number} HTTP/1\.1" 200 \d+', line)
    assert len(accessed) == 3
    assert re.fullmatch(rf"({head} - m\d\n{head} - n\n){{3}}", (tmp_path / "ts_metrics.log").read_text())
    whole = (tmp_path / "ts_log.log").read_text()
    assert re.findall(r"(?:/(\d) HTTP|(m\d|own)$)", whole, re.MULTILINE) == [
        ("0", ""), ("", "m0"), ("1", ""), ("", "m1"), ("2", ""), ("", "m2"), ("", "own"),
    ]  # fmt: skip
    assert re.search(rf"^{head} \[INFO \] main ACCESS_LOG - /127", whole, re.MULTILINE)
    assert capfd.readouterr().out == whole


@pytest.mark.parametrize("form", ["text", "json"])
def test_our_own_lines_have_the_facts(capsys, form):
    setup_logging(Config(log_format=form))
    writer = LineWriter()
    end_call(writer, b"/models?a=b", 499, broken_off=True)
    end_call(
        writer, model="m", version="1", request_id="id", requests=2, model_call=ModelCall(0.25, 1, 4, 0.5)
    )
    writer.close()
    gone, answered = capsys.readouterr().err.splitlines()
    if form == "json":
        fields = json.loads(answered)["fields"]
        assert fields.pop("ms") >= 0
        assert fields == {
            "method": "GET", "path": "/ping", "protocol": "HTTP/1.1", "status": 200, "client": "127.0.0.1:5",
            "model": "m", "version": "1", "request": "id", "requests": 2, "queue_ms": 250.0, "rows": 1,
            "batch_rows": 4, "inference_ms": 500.0,
        }  # fmt: skip
        return
    assert re.search(
        r" INFO  request method=GET path=/ping protocol=HTTP/1\.1 status=200 ms=[\d.]+ client=127\.0\.0\.1:5"
        r" model=m version=1 request=id requests=2 queue_ms=250\.000 rows=1 batch_rows=4 inference_ms=500\.000$",
        answered,
    )
    assert re.search(
        rf'path="/models\?a=b" protocol=HTTP/1\.1 status={CLIENT_GONE} ms=\S+ client=\S+ broken_off=True$',
        gone,
    )


def test_a_pattern_that_names_facts_has_them(tmp_path):
    handler = logging.FileHandler(tmp_path / "log")
    handler.setFormatter(PatternLayout("%X{status} %m%n"))
    logging.getLogger(ACCESS_LOG).addHandler(handler)
    logging.getLogger(ACCESS_LOG).setLevel(logging.INFO)
    writer = LineWriter()
    end_call(writer)
    writer.close()
    assert (tmp_path / "log").read_text().startswith('200 /127.0.0.1:5 "GET /ping HTTP/1.1" 200 ')


def test_a_log_that_is_off_is_not_written():
    logging.getLogger(ACCESS_LOG).setLevel(logging.CRITICAL + 1)
    assert not is_written(ACCESS_LOG)


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_costs_lines_that_are_counted(monkeypatch, caplog):
    monkeypatch.setattr(line_writer, "_MAX_WAITING", 50)
    reading, writing = os.pipe()
    taken = threading.Event()

    class Stuck(logging.Handler):
        def emit(self, record):
            taken.wait()
            os.write(writing, b"x")

    logger = logging.getLogger(TS_METRICS)
    logger.setLevel(logging.INFO)
    logger.addHandler(Stuck())
    writer = LineWriter()
    began = time.monotonic()
    for _ in range(10_000):
        writer.add(TS_METRICS, ("line",))
    assert time.monotonic() - began < 1.0
    assert writer.left_out >= 9_000
    with caplog.at_level(logging.WARNING):
        taken.set()
        writer.close()
    assert 50 <= len(os.read(reading, 100_000)) < 1000
    assert "log lines left out" in caplog.text
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/models?url=https://me:secret@h/a.mar?sig=secret", "/models?url=https://h/a.mar"),
        (
            b"/models?url=https%3A%2F%2Fme%3Asecret%40h%2Fa.mar%3Fsig%3Dsecret&x=1",
            "/models?url=https://h/a.mar&x=1",
        ),
        (b"/models?url=https://h/a.mar&initial_workers=1", "/models?url=https://h/a.mar&initial_workers=1"),
        (b"/models?initial_workers=1&url=m.mar", "/models?initial_workers=1&url=m.mar"),
        (
            b"/predictions/m?token=secret&x=1&X-Amz-Signature=secret",
            "/predictions/m?token=...&x=1&X-Amz-Signature=...",
        ),
        (b"/ping?secret&x=1", "/ping?...&x=1"),
        (b"http://me:secret@h/ping", "http://h/ping"),
        (b'/a"b\xff\x01', "/a%22b\xff%01"),
    ],
)
def test_no_secret_of_a_url_and_no_quote_is_in_a_path(target, path):
    assert path_for_log(target) == path
