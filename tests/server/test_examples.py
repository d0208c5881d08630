"""What is tried of a model that is served: a body that fits it, or the kind of file that its handler reads."""

import pytest
from model_kit import model_spec

from mooring.core.service import ModelMetadata
from mooring.core.tensors import TensorSpec
from mooring.engine.registry import ModelVersion
from mooring.server.examples import example_of


def version(backend, entry, **more):
    made = ModelVersion(model_spec(name="m", version="1", backend=backend, location="", entry=entry, **more))
    made.metadata = ModelMetadata("m", ["1"], "p", [TensorSpec("x", "FP32", [1])])
    return made


@pytest.mark.parametrize(
    ("entry", "file", "note"),
    [
        ("image_classifier", "IMAGE.png", ""),
        ("text_classifier", "TEXT.txt", ""),
        ("handler.py", "FILE", "FILE is what the handler reads"),
    ],
)
def test_a_handler_reads_a_file(entry, file, note):
    example = example_of(version("handler", entry))
    assert (example.file, example.note, example.body) == (file, note, "")


def test_the_handler_that_an_operator_names_counts():
    assert (
        example_of(version("handler", "handler.py", handler_override="object_detector")).file == "IMAGE.png"
    )


def test_any_other_model_is_asked_with_what_it_declares():
    assert example_of(version("onnx", "model.onnx")).body == '{"x": [1.0]}'
