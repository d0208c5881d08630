"""What a client gets: arrays, Python values and a server's own words."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from mooring.client.conversion import JSON_TYPE
from mooring.client.timing import Timing
from mooring.core.errors import InvalidOutput
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Array, Parameter, Tensor, TensorSpec


class Result(dict[str, Any]):
    """The outputs of an answer by name; the rest of what the server sent is in the attributes.

    Arrays are views of the bytes that came, and so cannot be written to; BYTES come as ``object`` arrays of bytes,
    BF16 as float32. Outputs that hold JSON come as the Python values that it says. ``version`` is the one that answered.
    ``timing`` says where the time went, where that was asked for and the server tells it.
    """

    def __init__(self, response: InferenceResponse, declared: Sequence[TensorSpec] = ()) -> None:
        super().__init__((tensor.name, _to_value(tensor)) for tensor in response.tensors)
        self.model = response.model
        self.version = response.version
        self.id = response.id
        self.parameters: dict[str, Parameter] = response.parameters or {}
        self.timing: Timing | None = None
        self._declared = declared

    @property
    def value(self) -> Any:
        """The only output; where the model declares it as of shape [1], or of no known shape, its only element.

        This is known once the client has converted an input. Such a text is a ``str``. Raises ``ValueError`` where there are several outputs, or none.
        """
        if len(self) != 1:
            raise ValueError(
                f"the answer of model '{self.model}' has {len(self)} outputs{': ' if self else ''}"
                f"{', '.join(map(repr, self))}; take one by its name"
            )
        ((name, value),) = self.items()
        lone = any(each.name == name and (each.shape == [1] or not each.datatype) for each in self._declared)
        return _element_of(value) if lone and isinstance(value, np.ndarray) and value.shape == (1,) else value

    def __missing__(self, name: str) -> Any:
        raise KeyError(
            f"the answer of model '{self.model}' has no output '{name}'; it has {', '.join(map(repr, self)) or 'none'}"
        )

    def __repr__(self) -> str:
        return f"Result(model={self.model!r}, version={self.version!r}, {dict.__repr__(self)})"


def _element_of(array: Array) -> Any:
    (element,) = array.tolist()
    if not isinstance(element, bytes):
        return element
    try:
        return element.decode()
    except UnicodeDecodeError:
        return element


def _to_value(tensor: Tensor) -> Any:
    if (
        tensor.parameters
        and tensor.parameters.get("content_type") == JSON_TYPE
        and tensor.datatype == "BYTES"
    ):
        return _decode_values(tensor)
    return tensor.array()


def _decode_values(tensor: Tensor) -> Any:
    """Return the value of the one JSON text in a tensor, or the list of those of several."""
    texts = tensor.array().ravel().tolist()
    try:
        # Python's own reader: NaN and Infinity are numbers to it.
        values = [json.loads(text) for text in texts]
    except ValueError as error:
        raise InvalidOutput(f"output '{tensor.name}' is not the JSON that it says it is: {error}") from None
    return values[0] if tensor.shape in ([1], []) else values


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
