"""Metrics declared in a file, as TorchServe's ``metrics.yaml`` does."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from mooring.backends.handler.metrics import CachingMetric, MetricsStore, MetricTypes


class MetricsCacheYamlImpl(MetricsStore):
    """A store that knows a file's ``model_metrics`` once ``initialize_cache`` was called."""

    def __init__(self, config_file_path: str) -> None:
        super().__init__()
        self._path = Path(config_file_path)

    def initialize_cache(self) -> None:
        """Declare every model metric of the file. Raises ``OSError``, or ``ValueError`` for what declares none."""
        for metric in declared(self._path):
            self.declare(metric)


def declared(path: Path) -> Iterator[CachingMetric]:
    """Every model metric of a file. Raises ``OSError``, or ``ValueError`` that names the file and the fault."""
    try:
        document = yaml.safe_load(path.read_text()) or {}
        for kind, metrics in (document.get("model_metrics") or {}).items():
            for metric in metrics or ():
                yield CachingMetric(
                    str(metric["name"]),
                    str(metric["unit"]),
                    [str(name) for name in metric.get("dimensions") or ()],
                    MetricTypes(kind),
                )
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path}: a metric has no {error}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path}: model_metrics is no table of lists of metrics by their type") from error
