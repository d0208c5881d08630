"""How an ensemble's requests and answers in other forms than tensors travel between the server and a codec process.

An ensemble has no worker that could read a body. A codec process makes tensors of it, in one sample or several, and
later makes the answer of their outputs (``backends/ensemble_forms.py``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mooring.core.requests import InferenceRequest
from mooring.core.tensors import Tensor, TensorSpec

READ, WRITE = "read", "write"
"""The jobs, as the ``path`` of their requests."""
_HEAD = "form"
_SIGNATURE = "signature"


class FormSignature(msgspec.Struct):
    """What a codec process must know of an ensemble. ``limit`` is its greatest number of rows, 0 where there is no batch.

    ``labels`` are the names of the classes of each output, by index, ``most`` is how many bytes an answer may have.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    limit: int
    most: int
    labels: dict[str, dict[str, Any]] = {}
    null: bool = False


class FormSample(msgspec.Struct):
    """The tensors of one sample: how many of them there are, in one set or in several where the ensemble streams.

    ``rows`` and ``batch_added`` are those of ``backends.samples.Sample``.
    """

    counts: list[int]
    rows: int = 0
    batch_added: bool = False


class FormHead(msgspec.Struct):
    """The samples of a request. ``is_rows``: they are KServe v1 instances."""

    is_rows: bool
    samples: list[FormSample]


def write_head(head: FormHead) -> Tensor:
    """The first tensor of a job, which says what the others are."""
    return Tensor(_HEAD, "BYTES", [1], [msgspec.msgpack.encode(head)])


def read_head(tensors: Sequence[Tensor]) -> FormHead:
    """Read what the first tensor of a job says."""
    return msgspec.msgpack.decode(bytes(tensors[0].data[0]), type=FormHead)


def write_signature(signature: FormSignature) -> dict[str, Any]:
    """The parameters of a job."""
    return {_SIGNATURE: msgspec.to_builtins(signature)}


def read_signature(request: InferenceRequest) -> FormSignature:
    """Read what the parameters of a job say."""
    parameters: Mapping[str, Any] = request.parameters or {}
    return msgspec.convert(parameters[_SIGNATURE], FormSignature)
