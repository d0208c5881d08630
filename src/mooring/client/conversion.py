"""Makes tensors of Python values, as the model declares its inputs: pure rules.

- A ``Tensor`` goes as it is. Other values become the declared datatype: floats are rounded to a narrower float type; an
  integer must fit, and a float must be whole where integers are declared. Nothing is wrapped or truncated.
- A value that lacks only leading dimensions of one gets them: a sample becomes a batch of one.
- None for an optional input leaves it out.
- A JSON input, and any value that no tensor holds (an object, None), travels as JSON text in a BYTES tensor.
- What the model does not declare has the type that numpy gives it.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from mooring.codecs.raw import make_tensor
from mooring.codecs.tensor_json import cast_array
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceRequest, RequestedOutput
from mooring.core.tensors import WITHOUT_NUMPY_TYPE, Array, Parameter, Tensor, TensorSpec

Input = Tensor | npt.ArrayLike | Mapping[str, Any] | Sequence[Any] | None
"""The value of an input: an array, or whatever numpy makes one of; any JSON value for a JSON input; or a ``Tensor``."""

JSON_TYPE = "application/json"
# What numpy gives to values by itself: such an array says nothing of what the model takes.
_DEFAULT_TYPES = frozenset({np.dtype(np.float64), np.dtype(np.int64)})
# What a JSON value may be and no tensor can hold.
_OBJECTS = (Mapping, type(None), msgspec.Struct)
_NUMBERS = frozenset({bool, int, float})
_PLAIN = frozenset({bool, int, float, str, bytes})


def is_exact(inputs: Any) -> bool:
    """Return whether inputs can be sent without a look at what the model declares.

    Tensors can, and arrays of a type that somebody chose: neither float64 nor int64, which numpy chooses by itself.
    """
    if not isinstance(inputs, Mapping):
        return False
    for value in inputs.values():
        if type(value) is Tensor:
            continue
        if not isinstance(value, np.ndarray) or value.dtype in _DEFAULT_TYPES:
            return False
    return True


def request_of(
    model: str,
    inputs: Any,
    specs: Sequence[TensorSpec] = (),
    *,
    version: str = "",
    request_id: str = "",
    parameters: Mapping[str, Parameter] | None = None,
    outputs: Sequence[str] = (),
) -> InferenceRequest:
    """The request that a call of ``infer`` stands for. Raises ``InvalidInput`` for what does not fit ``specs``."""
    return InferenceRequest(
        model,
        version,
        request_id,
        to_tensors(model, inputs, specs),
        parameters=dict(parameters) if parameters else None,
        outputs=[RequestedOutput(name) for name in outputs] or None,
    )


def to_tensors(model: str, inputs: Any, specs: Sequence[TensorSpec]) -> list[Tensor]:
    """Return the tensors for ``inputs``: values by input name, or the value of the only input. Raises ``InvalidInput``.

    ``specs`` are the inputs that the model declares, empty where it declares none.
    """
    if not isinstance(inputs, Mapping):
        spec = _only_input(model, inputs, specs)
        return [to_tensor(spec.name, inputs, spec)]
    if len(specs) == 1 and specs[0].content_type == JSON_TYPE and list(inputs) != [specs[0].name]:
        return [to_tensor(specs[0].name, inputs, specs[0])]
    declared = {spec.name: spec for spec in specs}
    return [
        to_tensor(name, value, declared.get(name))
        for name, value in inputs.items()
        if value is not None or not (name in declared and declared[name].optional)
    ]


def _only_input(model: str, value: Any, specs: Sequence[TensorSpec]) -> TensorSpec:
    required = [spec for spec in specs if not spec.optional] if len(specs) > 1 else specs
    if len(required) == 1:
        return required[0]
    if not specs:
        raise InvalidInput(
            f"model '{model}' declares no inputs, so that a {type(value).__name__} alone does not say which one it is: "
            'give inputs by name, as in {"x": value}',
            model=model,
        )
    names = ", ".join(f"'{spec.name}' ({spec.datatype} {spec.shape})" for spec in specs)
    raise InvalidInput(
        f"model '{model}' takes {names}: give inputs by name, as in {{\"{specs[0].name}\": value}}",
        model=model,
    )


def to_tensor(name: str, value: Any, spec: TensorSpec | None) -> Tensor:
    """Return the tensor of one input, whose ``spec`` is None where the model does not declare it. Raises ``InvalidInput``."""
    if type(value) is Tensor:
        return value if value.name == name else msgspec.structs.replace(value, name=name)
    if spec is not None and spec.content_type == JSON_TYPE:
        return _json_tensor(name, value, spec)
    if isinstance(value, np.ndarray):
        array: Array = value
    elif _holds_objects(value):
        if spec is not None and spec.datatype and spec.datatype != "BYTES" and value is not None:
            raise InvalidInput(
                f"input '{name}' holds {_kind_of(value)}; the model takes {spec.datatype} {spec.shape}"
            )
        return _json_tensor(name, value, spec)
    else:
        array = _to_array(name, value)
    if isinstance(value, np.ma.MaskedArray) and value.mask.any():
        raise InvalidInput(
            f"input '{name}' has masked elements; say what stands in their place by .filled(value)"
        )
    if array.dtype.kind == "O":
        array = _check_texts(name, array)
    if spec is None or not spec.datatype:
        return Tensor.of(name, array.reshape(1) if array.dtype.kind == "O" and not array.shape else array)
    return _fit(name, array, spec)


def _fit(name: str, array: Array, spec: TensorSpec) -> Tensor:
    """Return a tensor in the declared datatype, with the leading dimensions of one that it lacks."""
    if array.dtype.kind in "SU" and spec.datatype == "BYTES":
        fitted: Array = array
    else:
        fitted = cast_array(array.astype(object) if array.dtype.kind in "SU" else array, name, spec.datatype)
    missing = len(spec.shape) - fitted.ndim
    if missing > 0 and all(size in (-1, 1) for size in spec.shape[:missing]):
        fitted = fitted.reshape((1,) * missing + fitted.shape)
    if spec.datatype in WITHOUT_NUMPY_TYPE:
        return make_tensor(name, np.ascontiguousarray(fitted), spec.datatype)
    return Tensor.of(name, fitted)


def _to_array(name: str, value: Any) -> Array:
    """Return numbers, booleans or texts as an array, texts as objects. Raises ``InvalidInput`` for a mixture or ragged lists."""
    try:
        array: Array = np.asarray(value)
        if array.dtype.kind in "OSU":
            # By itself, numpy makes "1" of a 1 beside a text, and cuts zeros off the end of bytes.
            array = _make_scalar(value) if isinstance(value, str | bytes) else np.array(value, object)
    except (ValueError, OverflowError) as error:
        reason = (
            "ragged: its lists differ in length" if "inhomogeneous" in str(error) else f"no array: {error}"
        )
        raise InvalidInput(f"input '{name}' is {reason}") from None
    return array


def _make_scalar(value: str | bytes) -> Array:
    array: Array = np.empty((), object)
    array[()] = value
    return array


def _check_texts(name: str, array: Array) -> Array:
    """Return an array of objects with texts and bytes, or the numbers that it holds, as those of pandas do.

    Raises ``InvalidInput`` for anything else.
    """
    values = array.ravel().tolist()
    kinds = set(map(type, values))
    if all(issubclass(kind, str | bytes) for kind in kinds):
        for value in values:
            _check_text(name, value)
        return array
    if kinds <= _NUMBERS:
        numbers: Array = np.asarray(array.tolist())
        if numbers.dtype.kind == "O":
            raise InvalidInput(f"input '{name}' holds an integer of more than 64 bits")
        return numbers
    held = " and ".join(sorted(kind.__name__ for kind in kinds))
    raise InvalidInput(f"input '{name}' holds {held}; give numbers, booleans or texts, one kind only")


def _check_text(name: str, value: str | bytes) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInput(
                f"input '{name}' holds half a surrogate pair, which UTF-8 cannot say"
            ) from None


def _holds_objects(value: Any) -> bool:
    """Return whether no tensor can hold a value, but JSON can: an object or None, alone or somewhere in lists."""
    if isinstance(value, list | tuple):
        kinds = set(map(type, value))
        return not kinds <= _PLAIN and any(map(_holds_objects, value))
    return (
        isinstance(value, _OBJECTS) or hasattr(value, "__dataclass_fields__") or hasattr(value, "model_dump")
    )


def _kind_of(value: Any) -> str:
    return (
        "None" if value is None else "lists with objects" if isinstance(value, list | tuple) else "an object"
    )


def _json_tensor(name: str, value: Any, spec: TensorSpec | None) -> Tensor:
    shape = [1] * max(len(spec.shape) if spec is not None else 1, 1)
    return Tensor(name, "BYTES", shape, [encode_value(name, value)], {"content_type": JSON_TYPE})


def encode_value(name: str, value: Any) -> bytes:
    """Return a value as JSON text: bytes as base64, arrays as lists, dataclasses and the like as objects. Raises ``InvalidInput``."""
    try:
        return json.dumps(value, default=_to_plain, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"input '{name}' cannot be written as JSON: {error}") from None


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    dump: Callable[..., Any] | None = getattr(value, "model_dump", None)  # pydantic's
    if dump is not None:
        return dump(mode="json")
    return msgspec.to_builtins(value)


def differing(sent: Sequence[Tensor], other: Sequence[Tensor]) -> set[str]:
    """Return the names of the values that were made into other tensors: of another type, shape, name or form."""
    one, two = _forms(sent), _forms(other)
    return {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}


def _forms(tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {each.name: (each.datatype, each.shape, each.parameters) for each in tensors}
