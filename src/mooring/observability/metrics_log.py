"""Metrics as lines of the log, in TorchServe's form: ``HandlerTime.Milliseconds:2.5|#ModelName:m,Level:Model|#...``.

Values that models record are written as they come. The server's own are written at intervals, counters as increases.
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from prometheus_client import Metric
from prometheus_client.samples import Sample

from mooring.observability.logs import get_logger
from mooring.observability.recorded_metrics import UNITS
from mooring.observability.records import Record

log = get_logger(__name__)


class MetricsLog:
    """Writes the lines. ``collect`` returns the server's own metrics.

    With a ``folder`` they go to ts_metrics.log and model_metrics.log in it, as in TorchServe, if these can be opened.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]], folder: Path | None = None) -> None:
        self._collect = collect
        self._files: dict[str, IO[str]] = {}
        if folder is not None:
            self._open_files(folder)
        self._host = socket.gethostname()
        self._before: dict[tuple[object, ...], float] = {}

    def _open_files(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("TS_METRICS", "MODEL_METRICS"):
                file = folder / f"{name.lower()}.log"
                self._files[name] = file.open("a", buffering=1, encoding="utf-8", errors="replace")
        except OSError as error:  # such as a read-only container: the server runs without the files
            log.warning("metrics go to the log", folder=folder, reason=error)

    def record_values(self, records: Iterable[Record]) -> None:
        """Write the values that a model recorded."""
        for record in records:
            dimensions = ",".join(f"{name}:{value}" for name, value in record.dimensions.items())
            unit = UNITS.get(record.unit, record.unit)
            for value in record.values:
                self._write_line("MODEL_METRICS", f"{record.name}.{unit}:{value}|#{dimensions}")

    def write_counts(self) -> None:
        """Write the server's counters, as increases since the last call, and its gauges."""
        for family in self._collect():
            unit = family.documentation.rpartition("unit: ")[2]
            for sample, value in self._changed_samples(family):
                dimensions = ",".join(
                    f"{name}:{text}" for name, text in sample.labels.items() if name.lower() != "hostname"
                )
                self._write_line("TS_METRICS", f"{sample.name}.{unit}:{value}|#{dimensions}")

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            with suppress(OSError):  # closing flushes, which fails again on a full disk
                file.close()

    def _changed_samples(self, family: Metric) -> Iterator[tuple[Sample, float]]:
        for sample in family.samples:
            if family.type != "counter":
                yield sample, sample.value
                continue
            key = (sample.name, *sample.labels.items())
            added = sample.value - self._before.get(key, 0.0)
            if added:
                self._before[key] = sample.value
                yield sample, float(added)

    def _write_line(self, log_name: str, line: str) -> None:
        whole = f"{log_name} - {line}|#hostname:{self._host},timestamp:{time.time():.0f}"
        file = self._files.get(log_name)
        if file is None:
            log.info(whole)
            return
        try:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {whole}\n")
        except OSError as error:  # a full disk is no reason to fail a request
            log.error("metric not written", file=file.name, reason=error)  # noqa: TRY400 - the reason says it all
