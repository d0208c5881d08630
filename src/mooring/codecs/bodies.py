"""A TorchServe body or KServe v1 instances for a tensor model: arrays out of bytes, and the answer's bytes.

By content type; where that says nothing (curl -T, curl -d) by what the bytes begin with, else JSON:

    JSON                     {"inputs": [v2 tensors]}, {"instances": [...]}, {input: value}, or a bare value
    application/x-npy        the only input               application/x-npz    inputs by name
    application/octet-stream the only input's elements, little-endian, where its shape leaves one size open at most
    image/*                  where the model's image_ parameters say what to make of it
    anything else            a model whose only input is BYTES takes the bytes themselves
"""

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import orjson

from mooring.codecs import npy
from mooring.codecs.content_types import SEND_JSON, describe_data, explain_not_json
from mooring.codecs.images import looks_like_image
from mooring.codecs.instances import find_instances
from mooring.codecs.packed import with_plain_data
from mooring.codecs.signature import Signature
from mooring.codecs.tensor_json import cast_array, decode_json, encode_each_row, encode_json, to_array
from mooring.codecs.v2_json import decode_array
from mooring.core.buffers import view_of
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceRequest
from mooring.core.tensors import NUMPY_TYPES, Array, Tensor

_JSON = "application/json"

Instances = list[Any] | Array

Classes = Mapping[str, Sequence[str]]
"""The names of the columns of an output, where it has any."""

NO_CLASSES: Classes = {}


class Body(NamedTuple):
    """A decoded body: the inputs by name, or KServe v1 instances, which are rows; and the value of ``Signature.aside``."""

    inputs: dict[str, Array]
    instances: Instances | None = None
    aside: Any = None


def decode_body(fields: Sequence[Tensor], signature: Signature) -> Body:
    """Decode the body of a TorchServe request. Raises ``InvalidInput``.

    A model that takes nothing accepts an empty body. A lone form field that has no input's name counts as the whole
    body: clients call it data or file as they please.
    """
    if signature.aside and any(each.name == signature.aside for each in fields):
        return _decode_beside(fields, signature)
    if signature.nothing and len(fields) == 1 and not len(_plain_bytes(fields[0])):
        return Body({})
    if not fields and not signature.nothing:
        raise InvalidInput(
            f"the body is a form without a field; the model takes {signature.described()}: send JSON with {SEND_JSON}"
        )
    if len(fields) == 1 and fields[0].name not in signature.names:
        return _decode_whole(fields[0], signature)
    inputs = {}
    for part in fields:
        if part.name in inputs:
            raise InvalidInput(f"input '{part.name}' is sent twice")
        inputs[part.name] = _decode_field(part, signature)
    return Body(inputs)


def _decode_beside(fields: Sequence[Tensor], signature: Signature) -> Body:
    """Decode a form of which one field is no input, but ``signature.aside``."""
    targets = [each for each in fields if each.name == signature.aside]
    if len(targets) > 1:
        raise InvalidInput(f"'{signature.aside}' is sent twice")
    inputs = [each for each in fields if each.name != signature.aside]
    body = decode_body(inputs, replace(signature, aside="")) if inputs else Body({})
    text = bytes(_plain_bytes(targets[0]))
    if _is_json(_media_type(targets[0])) or text.lstrip().startswith(b"["):
        return body._replace(aside=_to_list(decode_json(text)))
    return body._replace(aside=text.decode(errors="replace"))


def split_aside(value: Any, signature: Signature) -> tuple[Any, Any]:
    """Return a JSON value without its member ``signature.aside``, and that member; None where it has none."""
    name = signature.aside
    if not name or not isinstance(value, dict) or name not in value:
        return value, None
    return {key: child for key, child in value.items() if key != name}, _to_list(value[name])


def _to_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def decode_instances(request: InferenceRequest) -> Instances:
    """Return the rows of a KServe v1 request, or of the model before this one in a chain. Raises ``InvalidInput``."""
    if request.body is not None:
        return find_instances(decode_json(view_of(request.body.data)))
    (tensor,) = request.inputs
    text = view_of(tensor.data) if tensor.packed else b"[" + b",".join(map(bytes, tensor.data)) + b"]"
    rows: Instances = decode_json(text)
    return rows


def decode_inputs(value: Any, signature: Signature) -> dict[str, Array]:
    """Return the inputs of one JSON value: an object holds them by name, anything else is the only input."""
    if not isinstance(value, dict):
        return {signature.only(): to_array(value, signature.lone, signature.datatype_of(signature.lone))}
    if len(value) == 1 and signature.lone and signature.lone not in value:
        # {"data": ...} and {"b64": ...} are what TorchServe and TensorFlow clients wrap a lone value in.
        if "b64" in value and "b64" not in signature.names:
            return {signature.lone: _from_base64(value["b64"], signature)}
        if signature.names and ("data" in value or "body" in value):
            return decode_inputs(next(iter(value.values())), signature)
    return {name: _decode_input(child, name, signature) for name, child in value.items()}


def _decode_input(value: Any, name: str, signature: Signature) -> Array:
    datatype = signature.datatype_of(name)
    if isinstance(value, dict) and value.keys() == {"b64"}:
        return _from_base64(value["b64"], signature)
    return to_array(value, name, datatype)


def _from_base64(text: Any, signature: Signature) -> Array:
    try:
        data = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise InvalidInput('the value of "b64" is not base64 text') from None
    if signature.image is not None and looks_like_image(data[:12]):
        return _cast_to_input(signature.image.decode(data), signature.lone, signature)
    return _text_element(data)


def _cast_to_input(array: Array, name: str, signature: Signature) -> Array:
    """Cast an array that came with a type of its own to the input's datatype, if the model declares one."""
    datatype = signature.datatype_of(name)
    return cast_array(array, name, datatype) if datatype else array


def _text_element(data: bytes) -> Array:
    array = np.empty((), object)
    array[()] = data
    return array


def _decode_whole(tensor: Tensor, signature: Signature) -> Body:
    media, data = _media_type(tensor), _plain_bytes(tensor)
    if _is_json(media):
        return _from_json(decode_json(data), signature)
    if signature.lone and signature.datatype_of(signature.lone) == "BYTES":
        return _bytes_or_json(data, signature)
    if media == "application/x-npz" or bytes(data[:4]) == npy.ZIP:
        return _from_npz(data, signature)
    if not len(data):
        raise InvalidInput(f"{_explain_empty(tensor)}; the model takes {signature.described()}")
    array = _from_binary(data, media, signature.lone, signature)
    if array is not None:
        return Body({signature.only(): array})
    try:
        value = decode_json(data)
    except InvalidInput as error:
        raise InvalidInput(_explain_unread(data, media, signature, error)) from None
    return _from_json(value, signature)


def _explain_empty(tensor: Tensor) -> str:
    if tensor.name in ("body", "data"):
        return "the body is empty"
    return (
        f"the body is a form with the field '{tensor.name}' and no value; the model has no such input: "
        f"send JSON with {SEND_JSON}"
    )


def _explain_unread(data: bytes | memoryview, media: str, signature: Signature, error: InvalidInput) -> str:
    """Return why a body of no known type cannot be read, with what the model takes."""
    is_like_json = error.message.startswith("the body is not JSON")
    if signature.image is not None and describe_data(data) == "text" and not is_like_json:
        return (
            f"the body is text, not an image; the model takes an image, or JSON with {signature.described()}"
        )
    reason = error.message if is_like_json else explain_not_json(data, "", media)
    return f"{reason}; the model takes JSON or a tensor (application/x-npy): {signature.described()}"


def _decode_field(tensor: Tensor, signature: Signature) -> Array:
    media, data, name = _media_type(tensor), _plain_bytes(tensor), tensor.name
    datatype = signature.datatype_of(name)
    if _is_json(media):
        return _decode_input(decode_json(data), name, signature)
    if datatype == "BYTES":
        return _text_element(bytes(data))
    array = _from_binary(data, media, name, signature)
    if array is not None:
        return array
    try:
        value = decode_json(data)
    except InvalidInput:
        if datatype:
            raise
        return _text_element(bytes(data))  # a text field of a model that declares nothing
    return _decode_input(value, name, signature)


def _from_binary(data: bytes | memoryview, media: str, name: str, signature: Signature) -> Array | None:
    """Decode one array from bytes that are no JSON; return None where they may be JSON."""
    head = bytes(data[:12])
    if media == "application/x-npy" or head.startswith(npy.NPY):
        return _cast_to_input(npy.read_npy(data), name, signature)
    if media.startswith("image/") or (signature.image is not None and looks_like_image(head)):
        if signature.image is None:
            raise InvalidInput(
                f"the body is {describe_data(data)} ({media}); the model takes JSON or a tensor (application/x-npy): "
                f"{signature.described()}; to take images, set image_height and image_width among its parameters"
            )
        return signature.image.decode(data)
    spec = signature.specs.get(name)
    if media != "application/octet-stream" or spec is None:
        return None
    dtype = NUMPY_TYPES[spec.datatype]
    fixed = math.prod(size for size in spec.shape if size >= 0) * dtype.itemsize
    is_open = -1 in spec.shape
    if spec.shape.count(-1) > 1 or not fixed or (len(data) % fixed if is_open else len(data) != fixed):
        raise InvalidInput(
            f"{len(data)} bytes do not fill input '{name}' of {spec.datatype} {spec.shape}; send JSON or application/x-npy"
        )
    return Tensor(name, spec.datatype, spec.shape, data).array()


def _bytes_or_json(data: bytes | memoryview, signature: Signature) -> Body:
    """Decode the body for a lone BYTES input: any bytes are its element, unless they are a JSON object that names it."""
    if bytes(data[:1]) == b"{":
        try:
            value = decode_json(data)
        except InvalidInput:
            value = None
        json_keys = {signature.lone, "inputs", "instances", "b64", signature.aside or signature.lone}
        if isinstance(value, dict) and value.keys() & json_keys:
            return _from_json(value, signature)
    return Body({signature.lone: _text_element(bytes(data))})


def _from_npz(data: bytes | memoryview, signature: Signature) -> Body:
    arrays = npy.read_npz(data)
    if len(arrays) == 1 and signature.lone and "arr_0" in arrays:  # the name numpy.savez gives by itself
        arrays = {signature.lone: arrays["arr_0"]}
    return Body({name: _cast_to_input(array, name, signature) for name, array in arrays.items()})


def _from_json(value: Any, signature: Signature) -> Body:
    value, aside = split_aside(value, signature)
    if isinstance(value, dict):
        inputs, instances = value.get("inputs"), value.get("instances")
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict) and "shape" in inputs[0]:
            return Body(_from_v2(inputs, signature), aside=aside)
        if "instances" in value and "instances" not in signature.names:
            if not isinstance(instances, list | np.ndarray):
                raise InvalidInput('"instances" must be a list')
            return Body({}, instances, aside)
    return Body(decode_inputs(value, signature), aside=aside)


def _from_v2(inputs: list[Any], signature: Signature) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for tensor in inputs:
        try:
            name, datatype, shape, data = (tensor[key] for key in ("name", "datatype", "shape", "data"))
        except (KeyError, TypeError):
            raise InvalidInput("every input needs name, datatype, shape and data") from None
        if name in arrays:
            raise InvalidInput(f"input '{name}' is sent twice")
        arrays[name] = _cast_to_input(decode_array(name, datatype, shape, data), name, signature)
    return arrays


def encode_outputs(
    outputs: Mapping[str, Array], classes: Classes = NO_CLASSES, *, null: bool = False
) -> bytes:
    """Encode the outputs by name as one JSON object; ``null`` as in ``encode_json``."""
    members = []
    for name, array in outputs.items():
        text = _encode_maps(array, classes[name], null) if name in classes else encode_json(array, null=null)
        members.append(orjson.dumps(name) + b":" + text)
    return b"{" + b",".join(members) + b"}"


def encode_rows(
    outputs: Mapping[str, Array], rows: int, classes: Classes = NO_CLASSES, *, null: bool = False
) -> list[bytes]:
    """Encode every row's prediction: a value where there is one output, else an object by output name."""
    columns = [
        [_encode_maps(array[row], classes[name], null) for row in range(rows)]
        if name in classes
        else encode_each_row(array, rows, null=null)
        for name, array in outputs.items()
    ]
    if len(columns) == 1:
        return columns[0]
    keys = [orjson.dumps(name) + b":" for name in outputs]
    return [
        b"{" + b",".join([key + value for key, value in zip(keys, values, strict=True)]) + b"}"
        for values in zip(*columns, strict=True)
    ]


def _encode_maps(scores: Array, names: Sequence[str], null: bool) -> bytes:
    """Encode ``{class: score}`` of every row: one object for scores of one dimension, else nested lists of objects."""
    if scores.ndim > 1:
        return b"[" + b",".join([_encode_maps(row, names, null) for row in scores]) + b"]"
    values = encode_json(scores, null=null)[1:-1].split(b",")
    pairs = [orjson.dumps(name) + b":" + value for name, value in zip(names, values, strict=True)]
    return b"{" + b",".join(pairs) + b"}"


def encode_classes(scores: Array, labels: Mapping[str, Any]) -> list[bytes]:
    """Encode ``{"class", "probability"}`` of every row of ``scores``: the likeliest class by its label.

    Scores that are no probabilities already (0 to 1, a sum of 1) are taken for logits.
    """
    rows = scores.reshape(-1, scores.shape[-1]).astype(np.float64)
    texts = []
    for row in rows:
        probabilities = row
        if row.min() < 0 or abs(row.sum() - 1) > 1e-3:
            powers = np.exp(row - row.max())
            probabilities = powers / powers.sum()
        best = int(np.argmax(probabilities))
        label = labels.get(str(best), str(best))
        # index_to_name.json has ["n01440764", "tench"] or a name alone.
        name = label[-1] if isinstance(label, list) and label else label
        texts.append(orjson.dumps({"class": name, "probability": float(probabilities[best])}))
    return texts


def _plain_bytes(tensor: Tensor) -> bytes | memoryview:
    payload = with_plain_data(tensor).data[0]
    return payload if isinstance(payload, bytes) else view_of(payload)


def _media_type(tensor: Tensor) -> str:
    content_type = tensor.parameters.get("content_type", "") if tensor.parameters else ""
    if content_type == _JSON:
        return _JSON
    return str(content_type).partition(";")[0].strip().lower()


def _is_json(media: str) -> bool:
    return media == _JSON or media.endswith("+json")
