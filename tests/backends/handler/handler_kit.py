"""A loaded handler, the requests it is asked with, and a worker that only keeps what it is told."""

from dataclasses import dataclass, field

from mooring.core.errors import MooringError
from mooring.core.requests import BodyKind, Form, InferenceRequest, Operation, UndecodedBody
from mooring.core.tensors import Tensor


@dataclass
class FakeReply:
    """Keeps what a worker would send."""

    pieces: list = field(default_factory=list)
    metrics: list = field(default_factory=list)

    def emit(self, row, piece):
        assert not piece.final
        self.pieces.append((row, [bytes(element) for element in piece.outputs[0].data], piece.head))

    def cancelled(self, row):
        return False

    def record_metric(self, metric):
        self.metrics.append(metric[:5])


class LoadedModel:
    """A handler that is ready to be asked."""

    def __init__(self, backend, metadata):
        self.backend = backend
        self.metadata = metadata
        self.reply = FakeReply()

    def infer(self, *requests):
        return self.backend.infer(requests, self.reply)

    def body(self, payload=b"", content_type="", **options):
        """The bytes of the answer to a plain body; raises what it was refused with."""
        return answer(self.infer(request(payload, content_type, **options))[0])


def request(
    payload=b"", content_type="", *, name="body", key="r", operation=Operation.INFER, headers=None, path=""
):
    """A TorchServe request with one field."""
    inputs = [Tensor(name, "BYTES", [1], [payload], {"content_type": content_type})]
    return InferenceRequest(
        "m", "", key, inputs, form=Form.BODY, operation=operation, headers=headers, path=path
    )


def instances(*elements, key="r", operation=Operation.INFER, undecoded=False):
    """A KServe v1 request."""
    if undecoded:
        body, inputs = UndecodedBody(BodyKind.V1, *elements), []
    else:
        body, inputs = None, [Tensor("instances", "BYTES", [len(elements)], list(elements))]
    return InferenceRequest("m", "", key, inputs, form=Form.INSTANCES, operation=operation, body=body)


def answer(outcome):
    """The bytes of an answer in ``Form.BODY``."""
    if isinstance(outcome, MooringError):
        raise outcome
    (output,) = outcome.outputs
    assert output.shape == [1]
    return output.data[0]
