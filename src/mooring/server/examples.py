"""How a served model is asked: an example request from what it declares, and from what its handler is known to read."""

from mooring.core.example_requests import ExampleRequest, example_request
from mooring.engine.registry import ModelVersion

# TorchServe's handlers, and what they read.
_IMAGES = frozenset({"image_classifier", "image_segmenter", "object_detector"})
_TEXTS = frozenset({"text_classifier"})
_NOTE = "FILE is what the handler reads"


def example_of(version: ModelVersion) -> ExampleRequest:
    """Return a request that a version can answer; with a placeholder where only its handler knows what that is."""
    spec = version.spec
    if spec.backend != "handler":
        return example_request(version.metadata)
    handler = spec.handler_override or spec.entry
    if handler in _IMAGES:
        return example_request(version.metadata, file="IMAGE.png")
    if handler in _TEXTS:
        return example_request(version.metadata, file="TEXT.txt")
    return example_request(version.metadata, file="FILE", note=_NOTE)
