"""Reads what the command line names as a model's inputs, in the datatypes and shapes that the model declares."""

import codecs
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mooring.client.conversion import JSON_TYPE, to_tensor, to_tensors
from mooring.codecs.images import ImageSettings, looks_like_image
from mooring.codecs.npy import NPY, ZIP, read_npy, read_npz
from mooring.codecs.tensor_json import decode_json, decode_to_python, to_array
from mooring.codecs.v2_json import decode_request
from mooring.core.errors import InvalidInput
from mooring.core.service import ModelMetadata
from mooring.core.tensors import Parameter, Tensor, TensorSpec

# The field that handlers look for, as TorchServe's clients name it.
_UNDECLARED = "data"
STDIN = "-"

Settings = Callable[[], Mapping[str, Parameter]]
"""Returns the parameters of the model; called only when they are needed."""


class Content(NamedTuple):
    """What an input is read from. ``is_json``: its name says that it is JSON, or it was written on the command line."""

    data: bytes
    is_json: bool = False


def read_inputs(
    contents: Mapping[str, Content], metadata: ModelMetadata, settings: Settings
) -> dict[str, Tensor]:
    """Return the tensors of contents by input name; the name "" means the only input. Raises ``InvalidInput``.

    A content is .npy, .npz (inputs by name), an image, JSON (a v2 request, values by name, or one value) or, for an
    input of bytes and for models that declare none, whatever it is. A Python function that declares none takes JSON.
    """
    reader = _Reader(metadata, settings)
    tensors: dict[str, Tensor] = {}
    for name, content in contents.items():
        named = reader.read_named(content) if not name else None
        found = [reader.read_input(name, content)] if named is None else named
        tensors.update({tensor.name: tensor for tensor in found})
    return tensors


class _Reader:
    """Reads the contents for one model."""

    def __init__(self, metadata: ModelMetadata, settings: Settings) -> None:
        self._model = metadata.name
        self._specs = {spec.name: spec for spec in metadata.inputs if spec.datatype}
        # Handlers declare nothing either, and get the bytes of a file.
        self._takes_json = not self._specs and metadata.platform == "python"
        self._settings = settings

    def read_named(self, content: Content) -> Sequence[Tensor] | None:
        """Return the tensors of a content that names its inputs itself; None for others."""
        if content.data.startswith(ZIP):
            arrays = read_npz(content.data).items()
            return [to_tensor(name, array, self._specs.get(name)) for name, array in arrays]
        if not content.data.lstrip().startswith(b"{"):
            return None
        # If the inputs are all BYTES, a file that is not a JSON object of inputs is taken as the bytes of an input.
        anything = not self._takes_json and all(_is_bytes(spec) for spec in self._specs.values())
        try:
            document = decode_json(content.data)
        except InvalidInput:
            if anything:
                return None
            raise
        if isinstance(document.get("inputs"), list):
            return decode_request(content.data).inputs
        if self._takes_json or any(spec.content_type == JSON_TYPE for spec in self._specs.values()):
            return to_tensors(self._model, decode_to_python(content.data), list(self._specs.values()))
        if (document or not anything) and document.keys() <= self._specs.keys():
            return [self._from_json(name, value, self._specs[name]) for name, value in document.items()]
        if anything:
            return None
        unknown = next(iter(document.keys() - self._specs.keys()))
        raise InvalidInput(
            f"unexpected input '{unknown}'; the model takes {', '.join(map(repr, self._specs))}"
        )

    def read_input(self, name: str, content: Content) -> Tensor:
        """Return the tensor of one input, of the only one where it has no name."""
        name = name or self._only_input(content)
        spec, data = self._specs.get(name), content.data
        if data.startswith(NPY):
            return to_tensor(name, read_npy(data), spec)
        if spec is None:
            return to_tensor(name, _read_value(data) if self._takes_json else data, None)
        if spec.content_type == JSON_TYPE:
            return to_tensor(name, _read_value(data), spec)
        if spec.datatype == "BYTES":
            return to_tensor(name, decode_to_python(data) if content.is_json else data, spec)
        if not looks_like_image(data[:12]):
            return self._from_json(name, _decode(name, data, spec), spec)
        image = ImageSettings.of(self._settings())
        if image is None:
            raise InvalidInput(
                f"input '{name}' is {spec.datatype} {spec.shape}, and the model does not say how an image becomes that "
                "(image_height and its like in [parameters]); give an .npy file"
            )
        return to_tensor(name, image.decode(data), spec)

    def _only_input(self, content: Content) -> str:
        if len(self._specs) > 1:
            raise InvalidInput(
                f"name the inputs, as in --input NAME=FILE: the model takes {', '.join(map(repr, self._specs))}"
            )
        if self._takes_json and _holds_json(content.data):
            raise InvalidInput(
                f"model '{self._model}' declares no inputs: name them, as in --input NAME=FILE or "
                "--input '{\"NAME\": VALUE}'"
            )
        return next(iter(self._specs), _UNDECLARED)

    def _from_json(self, name: str, value: Any, spec: TensorSpec) -> Tensor:
        return to_tensor(name, to_array(value, name, spec.datatype), spec)


def _decode(name: str, data: bytes, spec: TensorSpec) -> Any:
    if not data.strip():
        raise InvalidInput(
            f"what was given for input '{name}' is empty; the model takes {spec.datatype} {spec.shape}"
        )
    try:
        return decode_json(data)
    except InvalidInput as error:
        raise InvalidInput(
            f"what was given for input '{name}' is not a .npy file, an image or JSON ({error.message}); the model takes "
            f"{spec.datatype} {spec.shape}"
        ) from None


def _is_bytes(spec: TensorSpec) -> bool:
    return spec.datatype == "BYTES" and spec.content_type != JSON_TYPE


def _read_value(data: bytes) -> Any:
    """Return the value of JSON, or else the text, or else the bytes."""
    try:
        return decode_to_python(data)
    except InvalidInput:
        pass
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def read_content(given: str) -> Content:
    """Return the content of a file, of the standard input ("-"), or JSON itself. Raises ``InvalidInput``."""
    if given == STDIN:
        return Content(sys.stdin.buffer.read())
    if not given:
        raise InvalidInput("an input has no value: name a file, - for the standard input, or write JSON")
    try:
        return _content_of(given, Path(given).read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a file"
    try:
        decode_to_python(given.encode())
    except InvalidInput:
        raise InvalidInput(
            f"{given}: {reason}; a value is written as JSON, text in its double quotes"
        ) from None
    return Content(given.encode(), is_json=True)


def _content_of(file: str, data: bytes) -> Content:
    if not file.endswith(".json"):
        return Content(data)
    if not data.strip():
        raise InvalidInput(f"{file} is empty")
    return Content(data.removeprefix(codecs.BOM_UTF8), is_json=True)  # as Windows writes it


def is_json(given: str) -> bool:
    """Return whether a text is JSON of an object, a list or a string, which may hold an equals sign."""
    return given[:1] in ("{", "[", '"') and _holds_json(given.encode())


def _holds_json(data: bytes) -> bool:
    try:
        decode_to_python(data)
    except InvalidInput:
        return False
    return True
