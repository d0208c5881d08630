"""Metrics declared in a file, as TorchServe's ``metrics.yaml`` does."""

from pathlib import Path

import yaml

from mooring.backends.handler.metrics import MetricsStore, MetricTypes


class MetricsCacheYamlImpl(MetricsStore):
    """A store that knows a file's ``model_metrics`` once ``initialize_cache`` was called."""

    def __init__(self, config_file_path: str) -> None:
        super().__init__()
        self._path = Path(config_file_path)

    def initialize_cache(self) -> None:
        """Declare every model metric of the file. Raises ``OSError``, or ``ValueError`` for an unknown kind."""
        document = yaml.safe_load(self._path.read_text()) or {}
        for kind, metrics in (document.get("model_metrics") or {}).items():
            for metric in metrics:
                self.add_metric_to_cache(
                    metric["name"], metric["unit"], metric.get("dimensions") or (), MetricTypes(kind)
                )
