"""What a worker prints and logs, on its way to our log."""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mooring.ipc.log_records import MARK, MAX_REQUESTS, ModelRecord, decode_record
from mooring.observability.logs import MODEL_LOG, Event, Throttle, get_logger, truncate_text
from mooring.observability.records import PRINTED, Record, read_printed_metric

log = get_logger(__name__)
_model_log = logging.getLogger(MODEL_LOG)

# What a worker prints is logged line by line: lines of this length, and so many and so many bytes a second. A model that
# floods its output must neither block on it nor keep the server busy, nor fill the disk, so what is more is only counted.
_MOST_OUTPUT = 65_536
_MOST_LINES = 500
_MOST_BYTES = 262_144
# Seconds until the log says how many were left out, if no further line of the model is logged before.
_REPORT_AFTER = 1.0
# Of what it printed last, which the text of an error has.
_KEPT_LINES = 40
_KEPT_CHARACTERS = 1_000  # of each


def shows_debug() -> bool:
    """Whether the log is to have what models log at the level DEBUG."""
    return logging.getLogger("mooring").isEnabledFor(logging.DEBUG)


class WorkerOutput:
    """Reads what a worker prints and logs, logs it under the model's name and keeps its last lines for the error text."""

    def __init__(self, fd: int, facts: Mapping[str, str], *, event: str = "model says") -> None:
        self._fd = fd
        self._event = event
        self._facts = facts
        self._rest = b""
        self._throttle = Throttle(_MOST_LINES, _MOST_BYTES)
        self._report: asyncio.TimerHandle | None = None
        self._thread = self._name_thread("")
        self.last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        # Gets the metrics that the model prints, as TorchServe reads them from lines.
        self.record_values: Callable[[Sequence[Record]], None] | None = None
        os.set_blocking(fd, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self.read)

    def name_worker(self, number: str) -> None:
        """Name the worker, as soon as it has a number: TorchServe's lines show it as the thread."""
        self._thread = self._name_thread(number)

    def _name_thread(self, number: str) -> str:
        model = "_".join(filter(None, (self._facts.get("model", ""), self._facts.get("version", ""))))
        return "-".join(filter(None, ("W", number, model, "stdout")))

    def read(self) -> None:
        """Take what is there."""
        if self._fd < 0:
            return
        try:
            data = os.read(self._fd, _MOST_OUTPUT)
        except BlockingIOError:
            return
        if not data:
            self._take_line(self._rest)  # a process that dies need not end its last line
            self.close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MOST_OUTPUT:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        text, mark, rest = line.partition(MARK)
        self._take_text(text)  # a record may follow a line that was not ended, such as a progress bar's
        if mark:
            record = decode_record(mark + rest)
            if record is not None:
                self._take_record(record, len(line))
            else:
                self._take_text(rest)

    def _take_text(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text and not self._take_metric(text):
            self.last_lines.append(truncate_text(text, _KEPT_CHARACTERS))
            self._log(logging.INFO, Event(self._event, dict(self._facts), text=text), len(line))

    def _take_metric(self, text: str) -> bool:
        """Record the metric that a line is; return False for any other line."""
        record_values = self.record_values
        if record_values is None or not text.startswith(PRINTED):
            return False
        record = read_printed_metric(text)
        if record is not None:
            record_values([record])
        return record is not None

    def _take_record(self, record: ModelRecord, size: int) -> None:
        if self._take_metric(record.text):
            return
        facts: dict[str, Any] = {**self._facts, "logger": record.logger}
        if record.request_ids:
            ids = record.request_ids
            facts["request_id"] = ids if len(ids) > 1 else ids[0]
        if record.requests > MAX_REQUESTS:
            facts["requests"] = record.requests
        self.last_lines += [
            truncate_text(line, _KEPT_CHARACTERS)
            for line in (f"{record.level_name} {record.text}".splitlines() + record.details.splitlines())
        ]
        self._log(record.level, Event(self._event, facts, record.details, text=record.text), size, record)

    def _log(self, level: int, event: Event, size: int, said: ModelRecord | None = None) -> None:
        if not _model_log.isEnabledFor(level):
            return
        if not self._throttle.allow_line(self._loop.time(), size):
            if self._report is None:
                self._report = self._loop.call_later(_REPORT_AFTER, self._report_left_out)
            return
        self._report_left_out()
        record = _model_log.makeRecord(MODEL_LOG, level, "", 0, event, (), None)
        record.threadName = self._thread
        if said is not None:
            record.levelname = said.level_name
        _model_log.handle(record)

    def _report_left_out(self) -> None:
        """Log how many lines were left out since the last report, if any were."""
        throttle, report = self._throttle, self._report
        self._report = None
        if report is not None:
            report.cancel()
        if throttle.left_out:
            log.warning(
                "model says too much",
                **self._facts,
                lines_left_out=throttle.left_out,
                bytes_left_out=throttle.bytes_left_out,
            )
            throttle.reset()

    def close(self) -> None:
        """Stop reading. A second call does nothing."""
        self.record_values = None  # it leads to the pool that keeps this
        self._report_left_out()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)
