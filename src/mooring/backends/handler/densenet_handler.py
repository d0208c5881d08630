"""The handler TorchServe kept from its first days: one class for one image, called through a function."""

from typing import Any

from mooring.backends.handler.context import Context
from mooring.backends.handler.image_classifier import ImageClassifier


class DenseNetHandler(ImageClassifier):
    """Answers ``{"name": probability}`` of the five best classes, for a model that was trained on ImageNet."""


_service = DenseNetHandler()


def handle(data: Any, context: Context) -> Any:
    """The default entry point: initializes at the first call, which has no data."""
    if not _service.initialized:
        _service.initialize(context)
    return None if data is None else _service.handle(data, context)
