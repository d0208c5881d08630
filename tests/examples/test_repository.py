"""The example repository: every kind of model, and one network that reads the same digits wherever it runs."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mooring.backends.backend import create_backend
from mooring.core.requests import Form, InferenceRequest
from mooring.core.service import LoadContext
from mooring.core.tensors import Tensor, TensorSpec
from mooring.repository.layout import model_folders
from mooring.repository.store import Store

EXAMPLES = Path(__file__).parents[2] / "examples"
REPOSITORY = EXAMPLES / "repository"
SAMPLES = {digit: (EXAMPLES / "digits" / "samples" / f"{digit}.png").read_bytes() for digit in range(10)}


@pytest.fixture(scope="module")
def backends(tmp_path_factory):
    """Every model of the repository and the digits handler, by name, as a worker loads them."""
    modules, path = set(sys.modules), list(sys.path)
    store = Store(tmp_path_factory.mktemp("unpacked"))
    specs = [
        spec
        for name in model_folders(REPOSITORY)
        for spec in store.read_from_repository(REPOSITORY, name).specs
    ]
    specs += store.read_target(str(EXAMPLES / "digits"))
    loaded = {}
    for spec in specs:
        backend = create_backend(spec.backend)
        loaded[spec.name] = backend
        backend.metadata = backend.load(spec, LoadContext())
    yield loaded
    for backend in loaded.values():
        backend.close()
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("ts", "model", "handler"):
            del sys.modules[name]


class Reply:
    def emit(self, row, piece):
        raise AssertionError("nothing streams here")

    def cancelled(self, row):
        return False

    def record_metric(self, metric):
        """The handler measures itself."""


def answer(backend, request):
    (outcome,) = backend.infer([request], Reply())
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def body(data, content_type):
    field = Tensor("body", "BYTES", [1], [data], {"content_type": content_type})
    return InferenceRequest("m", "1", "id", [field], form=Form.BODY)


def read(backend, data, content_type="image/png"):
    return json.loads(answer(backend, body(data, content_type)).outputs[0].data[0])


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)), np.float32).reshape(1, 1, 8, 8) / 255


def scores(backend, array):
    request = InferenceRequest("m", "1", "id", [Tensor.of("image", np.ascontiguousarray(array))])
    (output,) = answer(backend, request).outputs
    assert output.name == "scores"
    return output.array()


def test_there_is_a_model_of_every_backend(backends):
    served = [getattr(each, "_served", each) for name, each in backends.items() if name != "digits"]
    kinds = {each.spec.backend for each in served}
    assert kinds == {"builtin", "function", "onnx", "pytorch"}


@pytest.mark.parametrize("name", ["digits_onnx", "digits_pytorch"])
def test_an_image_is_read_as_the_handler_reads_it(backends, name):
    for digit, sample in SAMPLES.items():
        expected, found = read(backends["digits"], sample), read(backends[name], sample)
        assert found["class"] == expected["class"] == str(digit)
        assert found["probability"] == pytest.approx(expected["probability"], abs=1e-3)


def test_the_scores_are_the_same_in_a_batch_and_alone(backends):
    images = np.concatenate([pixels(sample) for sample in SAMPLES.values()])
    onnx, pytorch = (scores(backends[name], images) for name in ("digits_onnx", "digits_pytorch"))
    assert onnx.argmax(axis=1).tolist() == list(range(10))
    np.testing.assert_allclose(onnx, pytorch, atol=1e-5)
    for index in range(10):
        for name in ("digits_onnx", "digits_pytorch"):
            alone = scores(backends[name], images[index : index + 1])
            np.testing.assert_allclose(alone[0], onnx[index], atol=1e-5)


@pytest.mark.parametrize("name", ["digits_onnx", "digits_pytorch"])
def test_instances_and_json_are_read_as_tensors_are(backends, name):
    image = pixels(SAMPLES[7])[0].tolist()
    found = read(backends[name], json.dumps({"image": image}).encode(), "application/json")
    assert found["class"] == "7"
    instances = Tensor("instances", "BYTES", [1], [json.dumps(image).encode()])
    request = InferenceRequest("m", "1", "id", [instances], form=Form.INSTANCES)
    (prediction,) = answer(backends[name], request).outputs[0].data
    assert int(np.argmax(json.loads(prediction))) == 7


@pytest.mark.parametrize(("name", "file"), [("digits_onnx", "model.onnx"), ("digits_pytorch", "model.pt2")])
def test_the_file_alone_says_what_its_configuration_says(tmp_path, name, file):
    (spec,) = Store(tmp_path).read_target(f"digits={REPOSITORY / name / '1' / file}")
    backend = create_backend(spec.backend)
    metadata = backend.load(spec, LoadContext())
    assert metadata.inputs == [TensorSpec("image", "FP32", [-1, 1, 8, 8])]
    assert metadata.outputs == [TensorSpec("scores", "FP32", [-1, 10])]
    assert (backend.reader.can_batch, backend.reader.limit) == (True, spec.batching.max_batch_size)
    assert scores(backend, pixels(SAMPLES[3])).argmax() == 3
    backend.close()


def test_the_function_and_the_builtin_answer(backends):
    request = InferenceRequest("m", "1", "id", [Tensor.of("x", np.float32([[1, 2]]))])
    assert answer(backends["scale"], request).outputs[0].array().tolist() == [[2, 4]]
    request = InferenceRequest("m", "1", "id", [Tensor.of("input", np.uint32([41]))])
    assert answer(backends["echo"], request).outputs[0].array().tolist() == [42]


def test_the_shipped_files_are_small_and_name_no_folder_of_their_author():
    files = [file for file in REPOSITORY.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert sum(file.stat().st_size for file in files) < 600_000
    for file in files:
        content = file.read_bytes()
        assert b"/home/" not in content
        assert b"site-packages" not in content
