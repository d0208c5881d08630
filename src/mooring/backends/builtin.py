"""Models that need no files: the AMD Inference Server's own, by its names and with its arithmetic.

    echo            the first UINT32 of every input, plus one (it wraps)
    echo_multi      inputs [a] and [b, c] give [a], [b, c, a, b] and [c, a, b]
    invert_image    UINT8, 255 minus every value
    base64_decode   base64 of an encoded image to UINT8 [height, width, 3], blue first as OpenCV has it
    base64_encode   such an array to the base64 of a JPEG, without line breaks
    fake            the identity; a TorchServe body comes back byte for byte

They do not batch: each request is one sample, of the shape its client gave it. The names of the inputs do not matter.
"""

import base64
import binascii
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mooring.backends.samples import Arrays, Parameters
from mooring.backends.tensors import ModelOutput, TensorBackend
from mooring.codecs.images import open_image
from mooring.codecs.signature import Signature
from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, Operation, ResponseHead
from mooring.core.service import LoadContext, ModelMetadata, Outcome, Reply
from mooring.core.tensors import Array, Tensor, TensorSpec
from mooring.repository.spec import ModelSpec

_MASK = 0xFFFF_FFFF


def echo(arrays: Arrays) -> Arrays:
    """Return the first element of every input, plus one."""
    names = ["output"] if len(arrays) == 1 else [f"output{index}" for index in range(len(arrays))]
    return {
        name: np.array([(_first_element(array) + 1) & _MASK], np.uint32)
        for name, array in zip(names, arrays.values(), strict=True)
    }


def _first_element(array: Array) -> int:
    if not array.size:
        raise InvalidInput("echo needs at least one element in every input")
    return int(array.item(0))


def echo_multi(arrays: Arrays) -> Arrays:
    """Mix two inputs, of one and of two elements, into three outputs."""
    flat: list[Any] = [array.reshape(-1) for array in arrays.values()]
    if [array.size for array in flat] != [1, 2]:
        raise InvalidInput("echo_multi takes an input of one element and an input of two")
    (a,), (b, c) = flat
    rows = ([a], [b, c, a, b], [c, a, b])
    return {f"output{index}": np.array(row, np.uint32) for index, row in enumerate(rows)}


def invert_image(arrays: Arrays) -> Arrays:
    """Return the negative of an image."""
    return {"output": np.invert(np.asarray(_only_input(arrays), np.uint8))}


def base64_decode(arrays: Arrays) -> Arrays:
    """Decode an image from base64 text, with or without line breaks."""
    array = _only_input(arrays)
    if array.size != 1:
        raise InvalidInput(f"base64_decode takes one text, not {array.size}")
    text = bytes(array.item(0))
    try:
        data = base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"the input is not base64: {error}") from None
    pixels = np.asarray(open_image(data).convert("RGB"))
    return {"output": np.ascontiguousarray(pixels[:, :, ::-1])}


def base64_encode(arrays: Arrays) -> Arrays:
    """Encode an image as base64 of a JPEG."""
    array = _only_input(arrays)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InvalidInput(
            f"base64_encode takes an image of shape [height, width, 3], not {list(array.shape)}"
        )
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array[:, :, ::-1], np.uint8)).save(file, "JPEG", quality=95)
    return {"output": np.array([base64.b64encode(file.getvalue())], object)}


def fake(arrays: Arrays) -> Arrays:
    """Return the inputs."""
    return arrays


def _only_input(arrays: Arrays) -> Array:
    if len(arrays) != 1:
        raise InvalidInput(f"the model takes one input, not {len(arrays)}")
    return next(iter(arrays.values()))


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in model with its declared tensors. ``datatype`` is what every input must be; empty for any."""

    run: Callable[[Arrays], Arrays]
    datatype: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


def _uint32_specs(*shapes: int, names: str = "output") -> list[TensorSpec]:
    return [TensorSpec(f"{names}{index}", "UINT32", [size]) for index, size in enumerate(shapes)]


_WORD = TensorSpec("", "UINT32", [1])
_TEXT = TensorSpec("input", "BYTES", [1])
_PIXELS = TensorSpec("input", "UINT8", [-1, -1, 3])
_OUT_TEXT = TensorSpec("output", "BYTES", [1])
_OUT_PIXELS = TensorSpec("output", "UINT8", [-1, -1, 3])

BUILTINS: Mapping[str, Builtin] = {
    "echo": Builtin(echo, "UINT32", [_WORD], [_WORD]),
    "echo_multi": Builtin(echo_multi, "UINT32", _uint32_specs(1, 2, names="input"), _uint32_specs(1, 4, 3)),
    "invert_image": Builtin(invert_image, "UINT8", [_PIXELS], [_OUT_PIXELS]),
    "base64_decode": Builtin(base64_decode, "BYTES", [_TEXT], [_OUT_PIXELS]),
    "base64_encode": Builtin(base64_encode, "UINT8", [_PIXELS], [_OUT_TEXT]),
    "fake": Builtin(fake, "", [], []),
}


class BuiltinBackend(TensorBackend):
    """Runs one of the builtins, the one that ``spec.entry`` names."""

    can_batch: ClassVar[bool] = False
    standard_outputs: ClassVar[bool] = False

    _builtin: Builtin

    def load_model(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Find the built-in model.

        Tensors that the configuration declares are shown in place of its own, and not checked.
        """
        builtin = BUILTINS.get(spec.entry)
        if builtin is None:
            raise ModelLoadFailed(f"unknown builtin '{spec.entry}'; known are {', '.join(BUILTINS)}")
        self._builtin = builtin
        return ModelMetadata(
            spec.name,
            [spec.version],
            spec.platform or "mooring_builtin",
            list(spec.inputs or builtin.inputs),
            list(spec.outputs or builtin.outputs),
        )

    def input_signature(self, metadata: ModelMetadata) -> Signature:
        """Return a signature of any names and the model's one datatype."""
        return Signature(datatype=self._builtin.datatype)

    def check_requested_outputs(self, request: InferenceRequest) -> None:
        """Accept any output: its requested name is the name that the client wants it to have."""

    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer as every tensor model, except that ``fake`` returns a TorchServe body as it came."""
        if self._builtin.run is fake and all(
            request.form is Form.BODY and request.inputs for request in requests
        ):
            return [_echo_body(request) for request in requests]
        return super().infer(requests, reply)

    def predict(self, arrays: Arrays, parameters: Parameters) -> ModelOutput:
        """Run the built-in function on one sample."""
        return self._builtin.run(arrays)

    def to_output_arrays(self, operation: Operation, returned: ModelOutput) -> Arrays:
        """Return the arrays unchanged: built-in functions return what they declare."""
        arrays: Arrays = returned
        return arrays

    def to_response(self, request: InferenceRequest, results: Any, rows: bool) -> InferenceResponse:
        """Name the outputs, in order, as the request or the configuration does.

        AMD's echo has an output with an empty name.
        """
        if request.form is not Form.TENSORS:
            return super().to_response(request, results, rows)
        outputs = results[0][1][-1]
        requested = [output.name for output in request.outputs or []]
        names = ["" if self._builtin.run is echo else name for name in outputs]
        if len(self.spec.outputs) == len(names):
            names = [output.name for output in self.spec.outputs]
        names = [
            given_name or name for name, given_name in zip(names, requested + [""] * len(names), strict=False)
        ]
        return InferenceResponse(
            [Tensor.of(name, array) for name, array in zip(names, outputs.values(), strict=True)],
            # AMD's clients look for the name of the code, whatever endpoint runs it; its fake has none.
            model="" if self._builtin.run is fake else self.spec.entry,
        )


def _echo_body(request: InferenceRequest) -> InferenceResponse:
    """Return the first field of a body, with its content type."""
    (field, *_) = request.inputs
    stated = (field.parameters or {}).get("content_type", "")
    return InferenceResponse(
        [Tensor("body", "BYTES", [1], field.data)], head=ResponseHead(content_type=str(stated))
    )
