"""A handler outside of the server, as TorchServe's users call it in their own tests."""

from collections.abc import Sequence
from typing import Any

from mooring.backends.handler.context import Context
from mooring.backends.handler.entry import Handle
from mooring.backends.handler.metrics import MetricsStore


class Service:
    """A model's name, folder and manifest beside its entry point, with the context the handler is given."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any],
        entry_point: Handle,
        gpu: int | None = None,
        batch_size: int = 1,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> None:
        self.context = Context(
            model_name,
            model_dir,
            manifest,
            batch_size,
            gpu,
            limit_max_image_pixels=limit_max_image_pixels,
            metrics=metrics_cache or MetricsStore(model_name=model_name),
        )
        self.entry_point = entry_point

    def predict(self, data: Sequence[Any]) -> Any:
        """What the handler returns for these rows; raises what it raises."""
        self.context.request_ids = {index: str(index) for index in range(len(data))}
        return self.entry_point(list(data), self.context)


def emit_metrics(metrics: Any) -> None:
    """Print metrics as TorchServe's logs hold them, a line each."""
    for metric in metrics if isinstance(metrics, list) else metrics.values():
        print(f"[METRICS]{metric}")  # noqa: T201 - it is meant for the log
