"""Handlers' metrics from a file, as TorchServe's ``metrics.yaml`` declares them."""

from collections.abc import Iterator
from pathlib import Path

from mooring.backends.handler.metric_errors import MetricsCacheIOError, MetricsCacheValueError
from mooring.backends.handler.metrics import CachingMetric, MetricsStore, MetricTypes
from mooring.observability.metrics_file import read_metrics_file


class MetricsCacheYamlImpl(MetricsStore):
    """A store that knows a file's ``model_metrics`` once ``initialize_cache`` was called."""

    def __init__(self, config_file_path: str) -> None:
        super().__init__()
        self._path = Path(config_file_path)

    def initialize_cache(self) -> None:
        """Declare every model metric of the file.

        Raises ``MetricsCacheIOError`` (an ``OSError``), or ``MetricsCacheValueError`` (a ``ValueError``) for what declares none.
        """
        try:
            for metric in read_metrics(self._path):
                self.add_declared(metric)
        except OSError as error:
            raise MetricsCacheIOError(f"{self._path}: {error.strerror}") from error
        except ValueError as error:
            raise MetricsCacheValueError(str(error)) from error


def read_metrics(path: Path) -> Iterator[CachingMetric]:
    """Every model metric of a file. Raises ``OSError``, or ``ValueError`` that names the file and the fault."""
    for name, unit, dimensions, kind in read_metrics_file(path):
        yield CachingMetric(name, unit, dimensions, MetricTypes(kind))
