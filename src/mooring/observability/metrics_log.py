"""Metrics as lines of the log, in TorchServe's form: ``HandlerTime.Milliseconds:2.5|#ModelName:m,Level:Model|#...``.

What models record is written as it comes; what the server counts, every so often, counters by what was added since.
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
from mooring.observability.recorded import UNITS
from mooring.observability.records import Record

log = get_logger(__name__)


class MetricsLog:
    """Writes the lines. ``collect`` tells the server's own metrics.

    With a ``folder`` they go to ts_metrics.log and model_metrics.log in it, as in TorchServe, if it can be written to.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]], folder: Path | None = None) -> None:
        self._collect = collect
        self._files: dict[str, IO[str]] = {}
        if folder is not None:
            self._open(folder)
        self._host = socket.gethostname()
        self._before: dict[tuple[object, ...], float] = {}

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("TS_METRICS", "MODEL_METRICS"):
                file = folder / f"{name.lower()}.log"
                self._files[name] = file.open("a", buffering=1, encoding="utf-8", errors="replace")
        except OSError as error:  # as in a container that may not write: no reason to serve nobody
            log.warning("metrics go to the log", folder=folder, reason=error)

    def record(self, records: Iterable[Record]) -> None:
        """Write what a model recorded."""
        for record in records:
            dimensions = ",".join(f"{name}:{value}" for name, value in record.dimensions.items())
            unit = UNITS.get(record.unit, record.unit)
            for value in record.values:
                self._write("MODEL_METRICS", f"{record.name}.{unit}:{value}|#{dimensions}")

    def write(self) -> None:
        """Write what the server has counted since it was last asked to, and what it measures."""
        for family in self._collect():
            unit = family.documentation.rpartition("unit: ")[2]
            for sample, value in self._changes(family):
                dimensions = ",".join(
                    f"{name}:{text}" for name, text in sample.labels.items() if name.lower() != "hostname"
                )
                self._write("TS_METRICS", f"{sample.name}.{unit}:{value}|#{dimensions}")

    def close(self) -> None:
        """Write no more."""
        for file in self._files.values():
            with suppress(OSError):  # what a full disk did not take it tries once more
                file.close()

    def _changes(self, family: Metric) -> Iterator[tuple[Sample, float]]:
        for sample in family.samples:
            if family.type != "counter":
                yield sample, sample.value
                continue
            key = (sample.name, *sample.labels.items())
            added = sample.value - self._before.get(key, 0.0)
            if added:
                self._before[key] = sample.value
                yield sample, float(added)

    def _write(self, which: str, line: str) -> None:
        whole = f"{which} - {line}|#hostname:{self._host},timestamp:{time.time():.0f}"
        file = self._files.get(which)
        if file is None:
            log.info(whole)
            return
        try:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {whole}\n")
        except OSError as error:  # a full disk is no reason to fail a request
            log.error("metric not written", file=file.name, reason=error)  # noqa: TRY400 - the reason says it all
