"""What a client gives and gets: arrays in, arrays and a server's own words out."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mooring.core.requests import InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.tensors import Array, Parameter, Tensor

Input = Tensor | npt.ArrayLike
"""An array, or whatever numpy makes one of; a ``Tensor`` where the datatype has no array type, as BF16."""


class Result(dict[str, Array]):
    """The outputs of an answer by name; the rest of what the server sent is in the attributes.

    Arrays are views of the bytes that came, and so cannot be written to; BYTES come as ``object`` arrays of bytes,
    BF16 as float32. ``version`` is the one that answered.
    """

    def __init__(self, response: InferenceResponse) -> None:
        super().__init__((tensor.name, tensor.array()) for tensor in response.tensors)
        self.model = response.model
        self.version = response.version
        self.id = response.id
        self.parameters: dict[str, Parameter] = response.parameters or {}


class ServerMetadata(msgspec.Struct, frozen=True):
    """What a server says of itself; ``extensions`` are the parts of the protocol beyond the standard that it has."""

    name: str = ""
    version: str = ""
    extensions: list[str] = []


class IndexEntry(msgspec.Struct, frozen=True):
    """A version of a model in a server's repository. One that was never loaded has no version and no state."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether it can answer now."""
        return self.state == "READY"


def request_of(
    model: str,
    inputs: Mapping[str, Input],
    *,
    version: str,
    request_id: str,
    parameters: Mapping[str, Parameter] | None,
    outputs: Sequence[str],
) -> InferenceRequest:
    """The request that a call of ``infer`` stands for. Raises ``InvalidInput`` for what no tensor holds."""
    return InferenceRequest(
        model,
        version,
        request_id,
        [_make_tensor(name, value) for name, value in inputs.items()],
        parameters=dict(parameters) if parameters else None,
        outputs=[RequestedOutput(name) for name in outputs] or None,
    )


def _make_tensor(name: str, value: Input) -> Tensor:
    if isinstance(value, Tensor):
        return msgspec.structs.replace(value, name=name)
    array: Any = value if isinstance(value, np.ndarray) else np.asarray(value)
    return Tensor.of(name, array)
