"""Loading a handler outside of a server, as TorchServe's users do to look into it (``ts.model_loader``)."""

import json
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from mooring.backends.handler.entry import find_handler
from mooring.backends.handler.envelopes import ENVELOPES
from mooring.backends.handler.metrics_yaml import MetricsCacheYamlImpl
from mooring.backends.handler.service import Service
from mooring.core.errors import ModelLoadFailed


class ModelLoader(ABC):
    """Loads the handler of a folder with a model's files."""

    @abstractmethod
    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: str,
        gpu_id: int | None,
        batch_size: int,
        envelope: str | None = None,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> Service: ...


class TsModelLoader(ModelLoader):
    """Finds handlers as a worker does, but stays in the folder and on the import path of its caller.

    The model's folder is added to the end of that path, for its handler's own imports.
    """

    def load(
        self,
        model_name: str,
        model_dir: str,
        handler: str,
        gpu_id: int | None,
        batch_size: int,
        envelope: str | None = None,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> Service:
        """The handler, initialized. Raises ``ValueError`` where there is none, and what its own code raises."""
        folder = Path(model_dir).resolve()
        manifest_file = folder / "MAR-INF" / "MANIFEST.json"
        manifest = json.loads(manifest_file.read_text()) if manifest_file.is_file() else None
        if envelope and envelope not in ENVELOPES:
            raise ValueError(f"unknown envelope '{envelope}'; known are {', '.join(sorted(ENVELOPES))}")
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
        try:
            entry = find_handler(handler, folder)
        except ModelLoadFailed as error:
            raise ValueError(error.message) from error
        service = Service(
            model_name,
            str(folder),
            manifest,
            entry.handle,
            gpu_id,
            batch_size,
            limit_max_image_pixels,
            metrics_cache or _declared_metrics(model_name, folder),
        )
        entry.initialize(service.context)
        # The handler may have put another function in its place while it was initialized.
        handle = ENVELOPES[envelope](entry.handle).handle if envelope else entry.handle
        service._entry_point = handle  # noqa: SLF001 - the name that users' tests know it by
        return service


class ModelLoaderFactory:
    """Gives the loader of models, as TorchServe's workers ask for it."""

    @staticmethod
    def get_model_loader() -> ModelLoader:
        return TsModelLoader()


def _declared_metrics(model_name: str, folder: Path) -> Any:
    path = folder / "metrics.yaml"
    if not path.is_file():
        return None
    metrics = MetricsCacheYamlImpl(str(path))
    metrics.model_name = model_name
    metrics.initialize_cache()
    return metrics
