"""Reads files as a model's inputs, in the datatypes and shapes that the model declares."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mooring.codecs.images import ImageSettings, looks_like_image
from mooring.codecs.npy import NPY, ZIP, read_npy, read_npz
from mooring.codecs.raw import make_tensor
from mooring.codecs.tensor_json import cast_array, decode_json, to_array
from mooring.codecs.v2_json import decode_request
from mooring.core.errors import InvalidInput
from mooring.core.tensors import Array, Parameter, Tensor, TensorSpec

# The field that handlers look for, as TorchServe's clients name it.
_UNDECLARED = "data"

Settings = Callable[[], Mapping[str, Parameter]]
"""Returns the parameters of the model; called only when they are needed."""


def read_inputs(
    files: Mapping[str, bytes], specs: Mapping[str, TensorSpec], settings: Settings
) -> dict[str, Tensor]:
    """Return the tensors in files by input name; the name "" means the only input. Raises ``InvalidInput``.

    A file is .npy, .npz (inputs by name), an image, JSON (a v2 request, values by name, or one value) or, for an
    input of bytes and for models that declare none, whatever it is.
    """
    tensors: dict[str, Tensor] = {}
    for name, data in files.items():
        if not name and (named := _named_tensors(data, specs)) is not None:
            tensors.update(named)
        else:
            name = name or _only_input(specs)  # noqa: PLW2901 - the name it goes by
            tensors[name] = _to_tensor(name, data, specs.get(name), settings)
    return tensors


def _named_tensors(data: bytes, specs: Mapping[str, TensorSpec]) -> dict[str, Tensor] | None:
    """Return the tensors of a file that names its inputs itself; None for other files."""
    if data.startswith(ZIP):
        return {name: _fit_array(name, array, specs.get(name)) for name, array in read_npz(data).items()}
    if not data.lstrip().startswith(b"{"):
        return None
    # If the inputs are all BYTES, a file that is no JSON object of inputs is taken as the bytes of an input.
    anything = all(spec.datatype == "BYTES" for spec in specs.values())
    try:
        document = decode_json(data)
    except InvalidInput:
        if anything:
            return None
        raise
    if isinstance(document.get("inputs"), list):
        return {tensor.name: tensor for tensor in decode_request(data).inputs}
    if (document or not anything) and document.keys() <= specs.keys():
        return {name: _from_json(name, value, specs.get(name)) for name, value in document.items()}
    if anything:
        return None
    unknown = next(iter(document.keys() - specs.keys()))
    raise InvalidInput(f"unexpected input '{unknown}'; the model takes {', '.join(map(repr, specs))}")


def _only_input(specs: Mapping[str, TensorSpec]) -> str:
    if len(specs) > 1:
        raise InvalidInput(
            f"name the inputs, as in --input NAME=FILE: the model takes {', '.join(map(repr, specs))}"
        )
    return next(iter(specs), _UNDECLARED)


def _to_tensor(name: str, data: bytes, spec: TensorSpec | None, settings: Settings) -> Tensor:
    if data.startswith(NPY):
        return _fit_array(name, read_npy(data), spec)
    if spec is None or spec.datatype == "BYTES":
        return Tensor(name, "BYTES", [1] * (len(spec.shape) if spec else 1), [data])
    if not looks_like_image(data[:12]):
        return _from_json(name, decode_json(data), spec)
    image = ImageSettings.of(settings())
    if image is None:
        raise InvalidInput(
            f"input '{name}' is {spec.datatype} {spec.shape}, and the model does not say how an image becomes that "
            "(image_height and its like in [parameters]); give an .npy file"
        )
    return _fit_array(name, image.decode(data), spec)


def _from_json(name: str, value: Any, spec: TensorSpec | None) -> Tensor:
    return _fit_array(name, to_array(value, name, spec.datatype if spec else ""), spec)


def _fit_array(name: str, array: Array, spec: TensorSpec | None) -> Tensor:
    """Return a tensor in the declared datatype, with a batch dimension added where only that is missing."""
    if spec is None:
        return Tensor.of(name, array)
    fitted: Any = cast_array(array, name, spec.datatype)
    if fitted.ndim == len(spec.shape) - 1 and spec.shape[0] in (-1, 1):
        fitted = fitted[None]
    return make_tensor(name, np.ascontiguousarray(fitted), spec.datatype)


def read_content(file: str) -> bytes:
    """Return the bytes of a file. Raises ``InvalidInput``."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}") from None
