"""A reply that remembers, and requests of every form."""

import json

import numpy as np
import pytest
from model_kit import model_spec

from mooring.backends.backend import create_backend
from mooring.core.requests import BodyKind, Form, InferenceRequest, UndecodedBody
from mooring.core.service import LoadContext
from mooring.core.tensors import Tensor


class FakeReply:
    def __init__(self):
        self.pieces = []
        self.gone = set()

    def emit(self, row, piece):
        self.pieces.append((row, piece))

    def cancelled(self, row):
        return row in self.gone

    def record_metric(self, metric):
        raise AssertionError("nobody measures here")


class Ask:
    """Requests, and what an answer says in plain Python."""

    @staticmethod
    def body(data, content_type="application/json", **more):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        field = Tensor("body", "BYTES", [1], [data], {"content_type": content_type})
        return InferenceRequest("m", "1", "id", [field], form=Form.BODY, **more)

    @staticmethod
    def instances(*values, undecoded=False, **more):
        elements = [json.dumps(value).encode() for value in values]
        if undecoded:
            body = UndecodedBody(BodyKind.V1, b'{"instances": [' + b",".join(elements) + b"]}")
            return InferenceRequest("m", "1", "id", [], form=Form.INSTANCES, body=body, **more)
        tensor = Tensor("instances", "BYTES", [len(elements)], elements)
        return InferenceRequest("m", "1", "id", [tensor], form=Form.INSTANCES, **more)

    @staticmethod
    def tensors(more=None, /, **arrays):
        inputs = [Tensor.of(name, np.asarray(array)) for name, array in arrays.items()]
        return InferenceRequest("m", "1", "id", inputs, form=Form.TENSORS, **(more or {}))

    @staticmethod
    def read(outcome):
        """The JSON of a body, the list of predictions, or arrays by name."""
        if isinstance(outcome, Exception):
            raise outcome
        first = outcome.outputs[0]
        if first.name == "predictions":
            return [json.loads(element) for element in first.data]
        if first.name == "body":
            assert outcome.head.content_type == "application/json"
            return json.loads(first.data[0])
        return {tensor.name: tensor.array().tolist() for tensor in outcome.outputs}


@pytest.fixture
def ask():
    return Ask


@pytest.fixture
def reply():
    return FakeReply()


@pytest.fixture
def builtin():
    def load(name, **more):
        backend = create_backend("builtin")
        spec = model_spec(name="m", version="1", backend="builtin", location="", entry=name, **more)
        backend.metadata = backend.load(spec, LoadContext())
        return backend

    return load


@pytest.fixture
def function(tmp_path):
    """A model out of the text of a file."""
    loaded = []

    def load(source, entry="model.py", **more):
        (tmp_path / entry.partition(":")[0]).write_text(source)
        backend = create_backend("function")
        spec = model_spec(
            name="m", version="1", backend="function", location=str(tmp_path), entry=entry, **more
        )
        backend.metadata = backend.load(spec, LoadContext())
        loaded.append(backend)
        return backend

    yield load
    for backend in loaded:
        backend.close()
