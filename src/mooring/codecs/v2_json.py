"""The Open Inference Protocol's infer bodies over HTTP, both ways: JSON, and JSON with binary tensors behind it.

A body with binary tensors is a JSON document, whose length a header tells, and then the raw bytes of every tensor
that has ``binary_data_size``, in the order of the document and with nothing between them. What is decoded of such a
body lies where it came in; only what is small is copied.
"""

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeGuard

import msgspec
import numpy as np
import orjson

from mooring.codecs.packed import unpack_tensors, with_plain_data
from mooring.codecs.raw import (
    check_booleans,
    check_room,
    fill_open_dimension,
    raw_of,
    raw_size,
    round_to_bfloat16,
    split_texts,
)
from mooring.codecs.short_lists import pack_numbers
from mooring.codecs.tensor_json import (
    decode_json,
    decode_utf8_texts,
    encode_base64_texts,
    encode_json,
    to_array,
)
from mooring.core.buffers import LARGE, Buffer, Payload, Share, view_of
from mooring.core.errors import ElsewhereOnly, InvalidInput, InvalidOutput
from mooring.core.requests import InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.tensors import (
    DATATYPE_SPELLINGS,
    DATATYPES,
    NUMPY_TYPES,
    RAW,
    Array,
    JsonOutput,
    Output,
    Parameter,
    RequestValue,
    Tensor,
    clear_names,
    release,
)

Parameters = dict[str, Parameter]
Regions = Callable[[str, int, int], Payload]
"""Reads so many bytes of a region of shared memory, by its name, from an offset in it. Raises ``InvalidInput``."""

_SIZE = "binary_data_size"
_REGION, _REGION_SIZE, _REGION_OFFSET = REGION = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)
_PLACE_PARAMETERS = frozenset({_SIZE, *REGION})
BASE64: Mapping[str, Parameter] = {"content_type": "base64"}
"""What the parameters of an output of BYTES say where its elements are base64 in JSON, for one of them is not UTF-8."""
# Bytes of numbers up to which an output takes the fast path; above, an array of its own costs little beside them.
MAX_SHORT_OUTPUT = 512
_NUMPY, _N = orjson.OPT_SERIALIZE_NUMPY, ord("n")
_MAX_DIMENSIONS = 32
_MAX_DIMENSION_SIZE = 1 << 40
# What the protocol has for parameters.
_PARAMETER_TYPES = frozenset({str, int, float, bool})
# No model has as many, and each costs some microseconds.
MAX_INPUTS = 4096
# Bytes of a body up to which every element of its binary tensors is looked at where the body is decoded.
_MAX_CHECKED_BYTES = 4096
_CHECKED_DATATYPES = frozenset({"BYTES", "BOOL"})


class InferBody(msgspec.Struct):
    """A decoded infer request; ``id`` is empty where the body has none."""

    id: str
    inputs: list[Tensor]
    outputs: list[RequestedOutput] | None = None
    parameters: dict[str, RequestValue] | None = None


class OutputSelection(msgspec.Struct, frozen=True):
    """Which outputs a client wants in binary: those named so, and of the others all or none."""

    others: bool = False
    named: Mapping[str, bool] = {}

    @property
    def all_binary(self) -> bool:
        """Whether no output is wanted as JSON."""
        return self.others and all(self.named.values())

    def is_binary(self, tensor: Output) -> TypeGuard[Tensor]:
        """Whether the client wants this output in binary, and it can be: it is no JSON text, nor in shared memory."""
        return type(tensor) is Tensor and tensor.data is not None and self.named.get(tensor.name, self.others)


JSON_ONLY = OutputSelection()
ALL_BINARY = OutputSelection(others=True)


def select_outputs(
    outputs: Iterable[RequestedOutput] | None, parameters: Mapping[str, RequestValue] | None
) -> OutputSelection:
    """Return which outputs a request with these outputs and parameters wants in binary. Raises ``InvalidInput``."""
    if not outputs and not parameters:
        return JSON_ONLY
    default = _read_flag(parameters or {}, "binary_data_output", False, "the request")
    if not outputs:
        return ALL_BINARY if default else JSON_ONLY
    return OutputSelection(
        default,
        {
            output.name: _read_flag(
                output.parameters or {}, "binary_data", default, f"output '{output.name}'"
            )
            for output in outputs
        },
    )


def _read_flag(parameters: Mapping[str, RequestValue], name: str, default: bool, whose: str) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter '{name}' of {whose} must be true or false, not {value!r}")
    return value


# Reading


class _Tail(msgspec.Struct):
    """What lies behind the JSON of a body, from ``at`` on, taken piece by piece."""

    body: Payload
    at: int
    regions: Regions | None
    share: Share | None

    @property
    def view(self) -> memoryview:
        """The whole body."""
        return view_of(self.body)

    def locate(self, name: str, size: int) -> tuple[int, int]:
        """Return where the next ``size`` bytes begin and end. Raises ``InvalidInput`` where the body ends before."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.body):
            raise InvalidInput(
                f"input '{name}' says it has {size} bytes of binary data, the body ends {self.at - len(self.body)} "
                "bytes too early"
            )
        return start, self.at

    def slice(self, start: int, end: int) -> Payload:
        """Return a piece of the body: a copy where it is small, else a share of its memory."""
        return bytes(self.view[start:end]) if self.share is None else self.share.part(start, end)

    def finish(self) -> None:
        """Give the body back: all tensors are read, and hold shares of it. Raises ``InvalidInput`` for bytes that are left."""
        if self.at != len(self.body):
            raise InvalidInput(f"the body has {len(self.body) - self.at} bytes after its last binary tensor")
        if self.share is not None:
            self.share.release()


def names_region(outputs: Iterable[RequestedOutput] | None) -> bool:
    """Whether any of these is to go to shared memory."""
    return any(output.parameters and _REGION in output.parameters for output in outputs or ())


def refuse_regions(outputs: Iterable[RequestedOutput] | None) -> None:
    """Raises ``ElsewhereOnly`` where any of these is to go to shared memory."""
    if names_region(outputs):
        raise ElsewhereOnly("an output is to go to shared memory")


def decode_request(
    body: Payload, json_size: int | None = None, regions: Regions | None = None, *, lenient: bool = False
) -> InferBody:
    """Decode the body of an infer request; with ``json_size`` its JSON has that many bytes and binary tensors follow.

    ``lenient`` allows what AMD's clients send: an id that is a number, and inputs with equal names or none, which then
    are all called ``BY_POSITION``. Takes the body over: the tensors hold what they need of it. Those whose elements would
    have to be looked at one by one stay packed where the body has more than a few kilobytes. Raises ``InvalidInput``.
    """
    inputs: list[Tensor] = []
    try:
        return _decode_request(body, json_size, regions, inputs, lenient=lenient)
    except BaseException:
        release(inputs)
        if isinstance(body, Buffer):
            body.release()
        raise


def _decode_request(
    body: Payload, json_size: int | None, regions: Regions | None, inputs: list[Tensor], *, lenient: bool
) -> InferBody:
    document, tail = _read_document(body, json_size, regions)
    # None are enough for a model that takes none: whether this one does, only its worker knows.
    given = document.get("inputs", ())
    if type(given) is not list and given != ():
        raise InvalidInput('"inputs" must be a list of tensors')
    if len(given) > MAX_INPUTS:
        raise InvalidInput(f"the request has {len(given)} inputs; send at most {MAX_INPUTS}")
    for entry in given:
        inputs.append(_read_tensor(entry, tail, "input"))  # noqa: PERF401 - the caller releases them when one is at fault
    if lenient:
        clear_names(inputs)
    elif len(inputs) > 1 and len({tensor.name for tensor in inputs}) < len(inputs):
        names = [tensor.name for tensor in inputs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"input '{twice}' is sent twice; send every input once")
    tail.finish()
    outputs, parameters = document.get("outputs"), document.get("parameters")
    return InferBody(
        _read_id(document, lenient=lenient),
        inputs,
        None if outputs is None else _read_outputs(outputs),
        None if parameters is None else decode_parameters(parameters, "the request"),
    )


def _read_document(
    body: Payload, json_size: int | None, regions: Regions | None = None
) -> tuple[dict[str, Any], _Tail]:
    if not len(body):
        raise InvalidInput('the body is empty; send a JSON object with "inputs"')
    size = len(body) if json_size is None else json_size
    if not 0 < size <= len(body):
        raise InvalidInput(
            f"Inference-Header-Content-Length must be the length of the JSON, from 1 to {len(body)}, and is {size}"
        )
    if type(body) is bytes and size == len(body):
        tail = _Tail(body, size, regions, None)
        document = decode_json(body)
    else:
        tail = _Tail(body, size, regions, Share(body) if isinstance(body, Buffer) else None)
        document = decode_json(tail.view[:size])
    if type(document) is not dict:
        raise InvalidInput('the body must be a JSON object with "inputs"')
    return document, tail


def _read_id(document: Mapping[str, Any], *, lenient: bool = False) -> str:
    found = document.get("id")
    if lenient and type(found) is int:
        return str(found)
    if found is not None and type(found) is not str:
        raise InvalidInput('"id" must be a string')
    return found or ""


def _read_tensor(entry: Any, tail: _Tail, what: str) -> Tensor:
    if type(entry) is not dict:
        raise InvalidInput(f"every {what} must be an object with name, datatype, shape and data")
    name, datatype = entry.get("name"), entry.get("datatype")
    if type(name) is not str:
        raise InvalidInput(f'every {what} needs a "name", a string')
    if type(datatype) is str and datatype not in DATATYPES:
        datatype = entry["datatype"] = DATATYPE_SPELLINGS.get(datatype, datatype)
    parameters = entry.get("parameters")
    if parameters:
        kept = _check_parameters(parameters, f"{what} '{name}'") or {}
        if not _PLACE_PARAMETERS.isdisjoint(kept):
            return _read_placed_tensor(entry, kept, tail, what)
    elif "data" not in entry:
        raise InvalidInput(
            f"{what} '{name}' has no data; send data, binary_data_size or shared_memory_region"
        )
    elif (plain := _read_flat_tensor(name, datatype, entry.get("shape"), entry["data"])) is not None:
        return plain
    sizes = _check_shape(name, datatype, entry.get("shape"), what, least=-1)
    array, sizes = _fill_shape(name, str(datatype), sizes, entry.get("data"))
    tensor = Tensor(name, str(datatype), sizes, _encode_elements(array, str(datatype)))
    if parameters:
        tensor.parameters = kept
    return tensor


def _read_flat_tensor(name: str, datatype: Any, shape: Any, data: Any) -> Tensor | None:
    """Read a flat list of numbers, as most clients send them; None for what must be looked at more closely."""
    if type(data) is not list or not data or type(datatype) is not str or type(shape) is not list:
        return None
    size = 1
    for each in shape:
        if type(each) is not int or each < 1:
            return None
        size *= each
    if size != len(data) or len(shape) > _MAX_DIMENSIONS:
        return None
    elements = pack_numbers(data, datatype)
    return None if elements is None else Tensor(name, datatype, shape, elements)


def _fill_shape(name: str, datatype: str, sizes: list[int], data: Any) -> tuple[Array, list[int]]:
    """Return the elements as an array, in any shape, and the shape that they are meant to have.

    One dimension of -1 is as large as the elements make it: TorchServe's and KServe's examples send ``"shape": [-1]``.
    """
    array = to_array(data, name, datatype)
    if -1 in sizes:
        sizes = fill_open_dimension(name, sizes, array.size)
    size = math.prod(sizes)
    if array.size != size:
        # AMD's clients send one text, and the number of its bytes as the shape.
        if datatype == "BYTES" and array.size == 1 and len(array.item()) == size:
            return array, [1]
        _raise_mismatch(name, array.size, sizes)
    return array, sizes


def _encode_elements(array: Array, datatype: str) -> Payload | list[bytes]:
    if datatype == "BYTES":
        elements: list[bytes] = array.ravel().tolist()
        return elements
    if datatype == "BF16":
        array = round_to_bfloat16(array)
    return array.tobytes() if array.nbytes <= LARGE else Buffer(array.reshape(-1).data.cast("B"))


def _raise_mismatch(name: str, found: int, sizes: list[int]) -> None:
    raise InvalidInput(f"input '{name}' has {found} elements, its shape {sizes} needs {math.prod(sizes)}")


def _check_shape(name: str, datatype: Any, shape: Any, what: str = "input", *, least: int = 0) -> list[int]:
    """Return the sizes in a shape, none of them below ``least``. Raises ``InvalidInput``."""
    if datatype not in DATATYPES if type(datatype) is str else True:
        if datatype is None:
            raise InvalidInput(f"{what} '{name}' has no datatype; one of {', '.join(sorted(DATATYPES))}")
        raise InvalidInput(
            f"{what} '{name}' has the unknown datatype '{datatype}'; known are {', '.join(sorted(DATATYPES))}"
        )
    sizes = shape.tolist() if isinstance(shape, np.ndarray) else shape
    if type(sizes) is not list or len(sizes) > _MAX_DIMENSIONS:
        raise InvalidInput(f"{what} '{name}' must have a list of non-negative integers as its shape")
    for size in sizes:
        if type(size) is int and size >= _MAX_DIMENSION_SIZE:
            raise InvalidInput(
                f"{what} '{name}' has a shape of {size} elements in one dimension; at most {_MAX_DIMENSION_SIZE - 1} fit"
            )
        if type(size) is not int or size < least:
            raise InvalidInput(
                f"{what} '{name}' must have a list of non-negative integers as its shape, not {sizes}"
            )
    return sizes


def decode_array(name: Any, datatype: Any, shape: Any, data: Any) -> Array:
    """Decode the elements of one tensor of a v2 document, flat or nested, to an array of its shape. Raises ``InvalidInput``."""
    array, sizes = _fill_shape(name, datatype, _check_shape(name, datatype, shape, least=-1), data)
    return array.reshape(sizes)


def _read_placed_tensor(entry: Mapping[str, Any], parameters: Parameters, tail: _Tail, what: str) -> Tensor:
    """Read a tensor whose elements are behind the JSON or in shared memory."""
    name, datatype = entry["name"], entry.get("datatype")
    sizes = _check_shape(name, datatype, entry.get("shape"), what)
    ways = ("data" in entry) + (_SIZE in parameters) + (_REGION in parameters)
    if ways != 1:
        raise InvalidInput(
            f"{what} '{name}' must have exactly one of data, binary_data_size and shared_memory_region"
        )
    kept = {key: value for key, value in parameters.items() if key not in _PLACE_PARAMETERS}
    tensor = Tensor(name, str(datatype), sizes, None, kept or None)
    if _SIZE in parameters:
        size = _read_byte_count(parameters, _SIZE, name)
        start, end = tail.locate(name, size)
        _fill_raw(tensor, tail.view[start:end], lambda a, b: tail.slice(start + a, start + b), len(tail.body))
    elif _REGION in parameters:
        if tail.regions is None:
            raise InvalidInput(f"{what} '{name}' names a region of shared memory, which is not offered here")
        size, offset = (
            _read_byte_count(parameters, _REGION_SIZE, name),
            _read_byte_count(parameters, _REGION_OFFSET, name, 0),
        )
        _fill_shared(tensor, tail.regions(str(parameters[_REGION]), offset, size))
    else:
        raise InvalidInput(
            f"{what} '{name}' needs shared_memory_region beside the other shared_memory_ parameters"
        )
    return tensor


def _fill_shared(tensor: Tensor, read: Payload) -> None:
    """Give a tensor what was read for it from shared memory."""
    view = view_of(read)
    whole = tensor.datatype != "BYTES" or len(view) > _MAX_CHECKED_BYTES
    try:
        _fill_raw(tensor, view, (lambda *_: read) if whole else None, len(view))
    finally:
        if tensor.data is not read and isinstance(read, Buffer):
            read.release()


def _fill_raw(
    tensor: Tensor, view: memoryview, cut: Callable[[int, int], Payload] | None, body_size: int
) -> None:
    """Give a tensor the elements in raw bytes of a body of so many bytes, checked against its shape.

    ``cut`` makes a payload of where one begins and ends.
    """
    name, datatype, sizes = tensor.name, tensor.datatype, tensor.shape
    if body_size > _MAX_CHECKED_BYTES and datatype in _CHECKED_DATATYPES:
        assert cut is not None
        if datatype == "BYTES":
            check_room(view, name, sizes)
        else:
            _check_size(tensor, view)
        tensor.data, tensor.packed = cut(0, len(view)), RAW
        return
    if datatype == "BYTES":
        elements = split_texts(view, name, cut)
        tensor.data = elements
        if len(elements) != math.prod(sizes):
            release([tensor])
            _raise_mismatch(name, len(elements), sizes)
        return
    expected = _check_size(tensor, view)
    if datatype == "BOOL":
        check_booleans(view, f"input '{name}'")
    assert cut is not None
    tensor.data = cut(0, expected)


def _check_size(tensor: Tensor, view: memoryview) -> int:
    """Return how many bytes the shape of the tensor needs. Raises ``InvalidInput`` where there are more or fewer."""
    name, datatype, sizes = tensor.name, tensor.datatype, tensor.shape
    expected = raw_size(datatype, sizes)
    if expected != len(view):
        raise InvalidInput(
            f"input '{name}' has {len(view)} bytes of data, its shape {sizes} of {datatype} needs {expected}"
        )
    return expected


def _read_byte_count(parameters: Parameters, key: str, name: str, default: int | None = None) -> int:
    value = parameters.get(key, default)
    if type(value) is not int or value < 0:
        raise InvalidInput(f"parameter '{key}' of input '{name}' must be a number of bytes, not {value!r}")
    return value


def _check_parameters(given: Any, whose: str) -> Parameters | None:
    if type(given) is not dict:
        raise InvalidInput(f"the parameters of {whose} must be an object")
    for name, value in given.items():
        if type(value) not in _PARAMETER_TYPES:
            raise InvalidInput(f"parameter '{name}' of {whose} must be a string, a number or a boolean")
        if name.startswith("triton_"):
            raise InvalidInput(
                f"parameter '{name}' of {whose} cannot be set: keys that start with triton_ are reserved"
            )
    return given or None


def decode_parameters(given: Any, whose: str) -> dict[str, RequestValue] | None:
    """Decode the parameters of a request: any JSON values; one that is null says nothing. Raises ``InvalidInput``."""
    if type(given) is dict and not _PARAMETER_TYPES.issuperset(map(type, given.values())):
        plain = {name: value for name, value in given.items() if type(value) in _PARAMETER_TYPES}
        _check_parameters(dict.fromkeys(given, ""), whose)  # their names
        more = {name: value for name, value in given.items() if isinstance(value, list | dict | np.ndarray)}
        return plain | {name: _to_python(value) for name, value in more.items()} or None
    found = _check_parameters(given, whose)
    return None if found is None else {**found}


def _to_python(value: Any) -> Any:
    """Convert a value of JSON to Python's own types: of a large document regular lists of numbers come as arrays."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {name: _to_python(child) for name, child in value.items()}
    return [_to_python(child) for child in value] if isinstance(value, list) else value


def _read_outputs(given: Any) -> list[RequestedOutput] | None:
    if type(given) is not list:
        raise InvalidInput('"outputs" must be a list of objects with a name')
    outputs = []
    for entry in given:
        name = entry.get("name") if type(entry) is dict else None
        if type(name) is not str:
            raise InvalidInput('"outputs" must be a list of objects with a "name", a string')
        parameters = entry.get("parameters")
        if parameters is not None:
            parameters = _check_parameters(parameters, f"output '{name}'")
        outputs.append(RequestedOutput(name, parameters))
    if len({output.name for output in outputs}) < len(outputs):
        raise InvalidInput("an output is asked for twice; name every output once")
    return outputs or None


# Writing


def encode_response(
    response: InferenceResponse, selection: OutputSelection, *, plain: bool = False, null: bool = False
) -> tuple[list[Payload], int]:
    """Encode the body of an answer, in pieces; the size of its JSON where binary tensors follow it, else 0.

    ``response.id`` empty: the answer has none. ``plain``: it always has one, no version, and the parameters of every
    output (AMD's form). ``null``: that stands for NaN and Infinity, in place of bare tokens. Payloads that are among the pieces are released by whoever writes them, all others here.
    """
    if selection is JSON_ONLY and not plain:
        short = encode_short_answer(response, response.model, response.id)
        if short is not None:
            return [short], 0
    if (
        selection is not JSON_ONLY
        and not plain
        and (binary := _encode_all_binary(response, selection)) is not None
    ):
        return binary
    document: dict[str, Any] = {"id": response.id} if response.id or plain else {}
    document["model_name"] = response.model
    if not plain:
        document["model_version"] = response.version
    if response.parameters:
        document["parameters"] = response.parameters
    return _encode_document(document, "outputs", response.outputs, selection, plain=plain, null=null)


def encode_short_answer(response: InferenceResponse, model: str, request_id: str) -> bytes | None:
    """Encode an answer of a few numbers as JSON, as most clients get them.

    None for one that must be looked at more closely. ``request_id`` empty: the answer has none.
    """
    if response.parameters or not response.outputs:
        return None
    pieces = [_encode_answer_head(model, response.version, request_id)]
    for tensor in response.outputs:
        data, datatype = tensor.data, tensor.datatype
        if (
            type(data) is not bytes
            or len(data) > MAX_SHORT_OUTPUT
            or type(tensor) is not Tensor
            or tensor.parameters
            or datatype == "BF16"
        ):
            return None
        before, numbers, view = _short_output(tensor.name, datatype, tuple(tensor.shape), len(data))
        view[:] = data
        text = orjson.dumps(numbers, option=_NUMPY)
        if _N in text:  # of a null, which stands for what JSON has no number for
            return None
        pieces += (before, text, b"},")
    pieces[-1] = b"}]}"
    return b"".join(pieces)


def _encode_all_binary(
    response: InferenceResponse, selection: OutputSelection
) -> tuple[list[Payload], int] | None:
    """Encode an answer of numbers that are all wanted in binary; None for one that must be looked at more closely."""
    if response.parameters or not response.outputs:
        return None
    pieces: list[Payload] = [b""]
    texts = []
    for tensor in response.outputs:
        data = tensor.data
        if type(data) is list or tensor.parameters or not data or not selection.is_binary(tensor):
            return None
        texts.append(_encode_binary_output(tensor.name, tensor.datatype, tuple(tensor.shape), len(data)))
        pieces.append(data)
    head = pieces[0] = b"%b%b]}" % (
        _encode_answer_head(response.model, response.version, response.id),
        b",".join(texts),
    )
    return pieces, len(head)


def _encode_answer_head(model: str, version: str, request_id: str) -> bytes:
    """Encode the document of an answer up to its first output."""
    named = _encode_model_name(model, version)
    return b'{"id":%b,%b' % (orjson.dumps(request_id), named[1:]) if request_id else named


@lru_cache(1024)
def _encode_binary_output(name: str, datatype: str, shape: tuple[int, ...], size: int) -> bytes:
    """Encode the entry of an output with so many bytes behind the JSON."""
    return orjson.dumps({"name": name, "datatype": datatype, "shape": shape, "parameters": {_SIZE: size}})


@lru_cache(1024)
def _encode_model_name(model: str, version: str) -> bytes:
    return orjson.dumps({"model_name": model, "model_version": version})[:-1] + b',"outputs":['


@lru_cache(1024)
def _short_output(
    name: str, datatype: str, shape: tuple[int, ...], size: int
) -> tuple[bytes, Array, memoryview]:
    """What stands before the numbers of a short output; and an array to write them from, with a view of its bytes.

    The array is scratch memory that each answer of this form overwrites, so answers are for the event loop's thread
    alone. It is kept because orjson writes float32 only out of an array, and to make one costs twice as much as to
    write it.
    """
    dtype = NUMPY_TYPES[datatype]
    numbers = np.zeros(size // dtype.itemsize, dtype)
    before = orjson.dumps({"name": name, "datatype": datatype, "shape": shape})[:-1] + b',"data":'
    return before, numbers, numbers.data.cast("B")


def _encode_document(
    document: dict[str, Any],
    key: str,
    tensors: Sequence[Output],
    selection: OutputSelection,
    *,
    plain: bool = False,
    null: bool = False,
) -> tuple[list[Payload], int]:
    behind: list[Payload] = []
    entries = []
    copied: list[Output] = []
    binary = as_json = False
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if type(tensor.data) is list:
            copied.append(tensor)
        inline = None
        if selection.is_binary(tensor):
            binary = True
            data = raw_of(tensor)
            entry["parameters"] = {**(tensor.parameters or {}), _SIZE: len(data)}
            if len(data):
                behind.append(data)
        else:
            if type(tensor) is Tensor and tensor.data is not None:
                inline = _flatten(tensor)  # first of all: it may add to the parameters
            if tensor.parameters or plain:
                entry["parameters"] = tensor.parameters or {}
            if tensor.data is not None:
                entry["data"] = inline
                if type(tensor) is JsonOutput:
                    as_json = True
                elif isinstance(tensor.data, Buffer):
                    copied.append(tensor)
        entries.append(entry)
    whole = {**document, key: entries}
    pieces = _splice_json(document, key, entries, tensors, null) if as_json else [_dump_json(whole, null)]
    release(copied)
    return pieces + behind, sum(map(len, pieces)) if binary else 0


def _flatten(tensor: Tensor) -> Any:
    # Not through the array: in AMD's form the shape of a text counts its bytes.
    return _decode_texts(tensor) if tensor.datatype == "BYTES" else tensor.array().reshape(-1)


def _decode_texts(tensor: Tensor) -> list[str]:
    """Decode the elements of BYTES. Where one is not UTF-8 all become base64, and a parameter of the tensor says so."""
    elements = [*map(bytes, with_plain_data(tensor).data)]
    found = decode_utf8_texts(elements)
    if found is None:
        found = encode_base64_texts(elements)
        tensor.parameters = {**(tensor.parameters or {}), **BASE64}
    return found


def _dump_json(document: dict[str, Any], null: bool) -> bytes:
    text = orjson.dumps(document, option=_NUMPY)
    # orjson writes null for what JSON has no number for; Triton, and what reads its answers, has NaN and Infinity.
    return text if null or b"null" not in text else _dump_with_tokens(document)


def _dump_with_tokens(value: Any) -> bytes:
    return orjson.dumps(value, default=lambda array: orjson.Fragment(encode_json(array)))


def _splice_json(
    document: dict[str, Any], key: str, entries: list[dict[str, Any]], tensors: Sequence[Output], null: bool
) -> list[Payload]:
    """Encode the document, with the JSON text of outputs in its place, uncopied."""
    pieces: list[Payload] = []
    text = orjson.dumps(document)[:-1] + (b"," if document else b"") + orjson.dumps(key) + b":["
    for position, (entry, tensor) in enumerate(zip(entries, tensors, strict=True)):
        text += b"," if position else b""
        if type(tensor) is JsonOutput:
            del entry["data"]
            pieces += [text + orjson.dumps(entry)[:-1] + b',"data":', tensor.data]
            text = b"}"
        else:
            text += _dump_json(entry, null)
    return [*pieces, text + b"]}"]


def encode_json_output(tensor: Tensor, *, null: bool = False) -> JsonOutput:
    """Encode the elements of an output as JSON. With ``null`` that stands for NaN and Infinity, not bare tokens."""
    if tensor.datatype == "BYTES":
        text = orjson.dumps(_decode_texts(tensor))  # which may add to the parameters
    else:
        text = encode_json(tensor.array().reshape(-1), null=null)
    return JsonOutput(tensor.name, tensor.datatype, tensor.shape, text, tensor.parameters)


# The client's side


def encode_request(
    request: InferenceRequest, selection: OutputSelection = ALL_BINARY
) -> tuple[list[Payload], int]:
    """Encode the body of a request, in pieces; the size of its JSON where binary tensors follow it, else 0.

    ``selection`` says of the inputs which are sent in binary; what comes back is up to the request's own parameters.
    """
    document: dict[str, Any] = {"id": request.id} if request.id else {}
    if request.parameters:
        document["parameters"] = request.parameters
    if request.outputs:
        document["outputs"] = [
            {"name": output.name, "parameters": output.parameters}
            if output.parameters
            else {"name": output.name}
            for output in request.outputs
        ]
    return _encode_document(document, "inputs", request.inputs, selection)


def decode_response(body: Payload, json_size: int | None = None) -> InferenceResponse:
    """Decode the body of an answer. Raises ``InvalidOutput`` for what is none."""
    try:
        document, tail = _read_document(body, json_size)
        outputs = document.get("outputs")
        tensors = [_read_output(entry, tail) for entry in outputs] if isinstance(outputs, list) else []
        tail.finish()
        unpack_tensors(tensors)
    except InvalidInput as error:
        raise InvalidOutput(f"the server's answer cannot be read: {error.message}") from None
    return InferenceResponse(
        [*tensors],
        parameters=document.get("parameters"),
        model=str(document.get("model_name", "")),
        version=str(document.get("model_version", "")),
        id=_read_id(document),
    )


def _read_output(entry: Any, tail: _Tail) -> Tensor:
    """Read an output of an answer, its elements as they were before JSON. Raises ``InvalidInput``."""
    tensor = _read_tensor(entry, tail, "output")
    parameters = tensor.parameters or {}
    if tensor.datatype != "BYTES" or "data" not in entry or not BASE64.items() <= parameters.items():
        return tensor
    try:
        tensor.data = [base64.b64decode(element, validate=True) for element in tensor.data]
    except ValueError:
        raise InvalidInput(f"output '{tensor.name}' says that it is base64, and is not") from None
    tensor.parameters = {name: value for name, value in parameters.items() if name not in BASE64} or None
    return tensor
