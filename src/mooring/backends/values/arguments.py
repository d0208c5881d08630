"""How a request becomes the arguments of a function of values. Everything is worked out when the function is loaded.

    inputs of the function                a JSON body                                             tensors of v2
    several                               an object with their names                              each by its name
    one that a JSON object can be         the argument itself, always                             by its name
    one that no JSON object can be        the argument itself, or an object with its name         by its name
    one without a hint                    as the last where its name is the only key, else itself by its name
    none                                  empty, or {}                                            none

Arguments called ``parameters`` and ``cancelled``, and one with the hint ``mooring.Request``, are not inputs.
"""

import difflib
import inspect
import re
import typing
from collections import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from mooring.backends.function_kind import OWN, parameters_of, resolve_hints
from mooring.backends.user_function import name_of
from mooring.backends.values.hints import ValueType, arguments_type, value_type
from mooring.backends.values.tensor_forms import Leaf, plain_hint, tensor_form
from mooring.backends.values.value_schemas import gather_definitions
from mooring.codecs.content_types import SEND_JSON, describe_data, explain_not_json
from mooring.codecs.packed import unpack_tensor, with_plain_data
from mooring.core.buffers import view_of
from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.model_code import Request
from mooring.core.tensors import BY_POSITION, Tensor, TensorSpec, restore_names

_JSON = "application/json"
_RAW_LEAVES = frozenset({Leaf.TEXT, Leaf.BYTES, Leaf.IMAGE})
_LISTS = (list, abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence)

_OBJECT = re.compile(rb"[ \t\r\n]*\{")

# What the body is called where it is not a form.
_PLAIN = "body"
# And in TorchServe's RPC as its clients write it. Any other name may be one of **kwargs.
_BODIES = (_PLAIN, "data")

Values = dict[str, Any]
"""The arguments of a call that are inputs, by name."""


class Input(NamedTuple):
    """One input of a function. ``raw``: a body that is not JSON is the value. ``default`` is ``inspect.Parameter.empty`` for none."""

    name: str
    type: ValueType
    hinted: bool
    raw: bool
    default: Any

    @property
    def optional(self) -> bool:
        """Whether a request may leave it out."""
        return self.default is not inspect.Parameter.empty


class Arguments:
    """The arguments of one function, and how they are read from a request.

    ``request`` is the name of the argument that gets the ``mooring.Request``, empty where there is none; ``parameters`` and
    ``cancelled`` say whether the function takes arguments of these names. ``batched``: the function takes a list with an
    item for each sample instead of every input. Raises ``ModelLoadFailed`` for arguments that no request can fill.
    """

    def __init__(self, function: Callable[..., Any], *, batched: bool = False) -> None:
        self._name = name_of(function)
        self.batched = batched
        hints = resolve_hints(function)
        self.request = ""
        self.result_hint = hints.get("return", inspect.Parameter.empty)
        self.inputs: dict[str, Input] = {}
        self._rest: ValueType | None = None  # of **kwargs
        found = parameters_of(function)
        self.parameters = any(each.name == "parameters" for each in found)
        self.cancelled = any(each.name == "cancelled" for each in found)
        for each in found:
            if each.name not in OWN:
                self._add_parameter(each, hints.get(each.name, each.empty))
        self.one = next(iter(self.inputs.values())) if len(self.inputs) == 1 and self._rest is None else None
        self._required = tuple(name for name, each in self.inputs.items() if not each.optional)
        self._defaults = {name: each.default for name, each in self.inputs.items() if each.optional}
        self._whole = (
            arguments_type(
                {
                    name: (each.type.hint if each.hinted else inspect.Parameter.empty, each.default)
                    for name, each in self.inputs.items()
                }
            )
            if self.inputs
            else None
        )
        self.read_json = self._json_reader()

    def _add_parameter(self, parameter: inspect.Parameter, hint: Any) -> None:
        name, kind = parameter.name, parameter.kind
        if kind is parameter.VAR_POSITIONAL:
            raise ModelLoadFailed(
                f"'{self._name}' takes *{name}, and inputs are passed by their names: name them, or take **{name}"
            )
        if kind is parameter.POSITIONAL_ONLY:
            raise ModelLoadFailed(f"'{self._name}' has positional-only arguments; inputs are passed by name")
        if self._is_request(hint, name):
            if self.request:
                raise ModelLoadFailed(
                    f"'{self._name}' takes the request twice, as '{self.request}' and '{name}'"
                )
            self.request = name
            return
        hinted = hint is not inspect.Parameter.empty
        if self.batched and kind is parameter.VAR_KEYWORD:
            raise ModelLoadFailed(
                f"'{self._name}' takes **{name}, which @mooring.batch cannot put together: name the inputs"
            )
        if self.batched and hinted:
            hint = self._item_hint(hint, name)
            hinted = hint is not inspect.Parameter.empty
        if kind is parameter.VAR_KEYWORD:
            self._rest = value_type(hint, where="")
            return
        kind_of_value = value_type(hint, where=name)
        form = tensor_form(hint) if hinted else None
        raw = form is not None and form.leaf in _RAW_LEAVES and not form.dimensions
        self.inputs[name] = Input(name, kind_of_value, hinted, raw, parameter.default)

    def _is_request(self, hint: Any, name: str) -> bool:
        hint = plain_hint(hint)
        lists = typing.get_origin(hint) in _LISTS and typing.get_args(hint)[:1] == (Request,)
        if hint is not Request and not lists:
            return False
        if lists != self.batched:
            wanted = "list[mooring.Request]" if self.batched else "mooring.Request"
            how = "for many requests at once" if self.batched else "for one request at a time"
            raise ModelLoadFailed(f"'{self._name}' is called {how}: give '{name}' the hint {wanted}")
        return True

    def _item_hint(self, hint: Any, name: str) -> Any:
        """Return the hint of one sample in that of the list of all samples of a batch."""
        hint = plain_hint(hint)
        if hint in (list, Any):
            return inspect.Parameter.empty
        if typing.get_origin(hint) in _LISTS:
            return typing.get_args(hint)[0]
        raise ModelLoadFailed(
            f"argument '{name}' of '{self._name}' has the hint {getattr(hint, '__name__', hint)}: with @mooring.batch it is a "
            f"list with an item for each request, so write list[{getattr(hint, '__name__', hint)}]"
        )

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a JSON body."""
        if self._whole is None:
            return {"type": "object"}
        whole = self._whole.schema
        if self._rest is not None:
            return {key: value for key, value in whole.items() if key != "additionalProperties"}
        if self.one is None:
            return whole
        if self.one.type.takes_object:
            return self.one.type.schema
        return gather_definitions({"anyOf": [whole, self.one.type.schema]}, {})

    def tensors(self) -> list[TensorSpec]:
        """Return the inputs that the model's metadata declares; of one that is batched with the rows in front."""
        specs = [each.type.tensor_spec(each.name, optional=each.optional) for each in self.inputs.values()]
        return [add_rows(each) for each in specs] if self.batched else specs

    # JSON

    def _json_reader(self) -> Callable[[bytes | memoryview], Values]:
        """Return what reads a JSON body: the one of these rules that the function's inputs are for."""
        one = self.one
        if self._rest is not None:
            return self._read_open_object
        if self._whole is None:
            return self._read_nothing
        if one is None:
            return self._read_object
        if not one.hinted:
            return self._read_unhinted
        return self._read_value if one.type.takes_object else self._read_bare

    def _read_value(self, text: bytes | memoryview) -> Values:
        """Read the only input, which an object can be: it is the body."""
        assert self.one is not None
        name, kind = self.one.name, self.one.type
        try:
            return {name: kind.decode_json(text)}
        except InvalidInput as error:
            if error.message.startswith("the body is not JSON"):
                raise
            body = _anything.decode_json(text)
            if type(body) is not dict or list(body) != [name]:
                raise
            raise InvalidInput(
                f"{error.message}; the body is the value of '{name}' itself: send it without the name"
            ) from None

    def _read_bare(self, text: bytes | memoryview) -> Values:
        """Read the only input, which no object can be: it is the body, or the only key of an object."""
        assert self.one is not None
        if _OBJECT.match(text) is not None:
            return self._read_object(text)
        return {self.one.name: self.one.type.decode_json(text)}

    def _read_object(self, text: bytes | memoryview) -> Values:
        """Read an object that has every input by its name."""
        assert self._whole is not None
        try:
            return msgspec.structs.asdict(self._whole.decode_json(text))
        except InvalidInput as error:
            if not error.message.startswith("the body is not JSON"):
                self._check_names(_anything.decode_json(text))
            raise

    def _check_names(self, body: Any) -> None:
        """Raise ``InvalidInput`` for a body that is not an object, or whose keys are not those that it must have."""
        if type(body) is not dict:
            raise InvalidInput(
                f"the body must be a JSON object that names its inputs (the model takes{self._listed()}), such as "
                + _example(self._required or self.inputs or ("name",))
            )
        for name in body:
            self._type_of(name)
        self._complete(body)

    def _read_unhinted(self, text: bytes | memoryview) -> Values:
        assert self.one is not None
        name = self.one.name
        value = self.one.type.decode_json(text)
        if type(value) is dict and len(value) == 1 and name in value:
            return value
        return {name: value}

    def _read_open_object(self, text: bytes | memoryview) -> Values:
        assert self._rest is not None
        found = self._rest_object(text)
        values = {
            name: self.inputs[name].type.convert(value)
            if name in self.inputs
            else self._read_rest(name, value)
            for name, value in found.items()
        }
        return self._complete(values)

    def _rest_object(self, text: bytes | memoryview) -> dict[str, Any]:
        found = _anything.decode_json(text)
        if type(found) is not dict:
            self._check_names(found)
        values: dict[str, Any] = found
        return values

    def _read_rest(self, name: str, value: Any) -> Any:
        assert self._rest is not None
        if name in OWN or name == self.request:
            raise InvalidInput(f"'{name}' is not an input of the model")
        try:
            return self._rest.convert(value)
        except InvalidInput as error:
            raise InvalidInput(f"{name}: {error.message}") from None

    def _read_nothing(self, text: bytes | memoryview) -> Values:
        if bytes(text).strip() not in (b"", b"{}", b"null"):
            raise InvalidInput("the model takes no input: send an empty body, or {}")
        return {}

    # Bodies that may be something else

    def read_body(self, fields: Sequence[Tensor]) -> Values:
        """Read the body of a request in ``Form.BODY``, or the fields of its form. Raises ``InvalidInput``.

        A lone field that has no input's name counts as the whole body.
        """
        if len(fields) == 1:
            field = fields[0]
            parameters = field.parameters
            if (
                parameters is not None
                and parameters.get("content_type") == _JSON
                and "file" not in parameters
            ):
                return self._read_text(field.data[0])
            if self._is_whole(field.name):
                return self._read_whole(field)
        if not fields:
            return self._read_empty("the body is a form without a field")
        values: Values = {}
        for field in fields:
            if field.name in values:
                raise InvalidInput(f"'{field.name}' is sent twice")
            values[field.name] = self._type_of(field.name).from_bytes(_bytes_of(field), _content_type(field))
        return self._complete(values)

    def _is_whole(self, name: str) -> bool:
        """Whether the only field of a request is its body, and not an input of that name."""
        if name in self.inputs:
            return self.one is not None and name == _PLAIN
        return self._rest is None or name in _BODIES

    def _read_text(self, payload: Any) -> Values:
        text = payload if type(payload) is bytes else view_of(payload)
        return self.read_json(text) if len(text) else self._read_empty("the body is empty")

    def _read_whole(self, field: Tensor) -> Values:
        content_type, one = _content_type(field), self.one
        data = _bytes_of(field)
        media = content_type.partition(";")[0].strip().lower()
        is_json = media == _JSON or media.endswith("+json")
        if one is not None and not is_json and (one.raw or (not one.hinted and media.startswith("text/"))):
            return {one.name: one.type.from_bytes(data, content_type)}
        if not len(data):
            return self._read_empty("the body is empty")
        try:
            return self.read_json(data)
        except InvalidInput as error:
            if not error.message.startswith("the body is ") or describe_data(data) == "empty":
                raise
            is_like_json = error.message.startswith("the body is not JSON")
            reason = error.message if is_like_json else explain_not_json(data, "", media)
            raise InvalidInput(
                f"{reason}; the model takes{self._listed()}: send JSON with {SEND_JSON}"
            ) from None

    def _read_empty(self, reason: str) -> Values:
        if self._required:
            raise InvalidInput(f"{reason}; the model takes{self._listed()}: send JSON with {SEND_JSON}")
        return dict(self._defaults)

    # Tensors

    def read_tensors(self, tensors: Sequence[Tensor]) -> Values:
        """Read the inputs of v2. Raises ``InvalidInput``."""
        if not tensors and self._required:
            raise InvalidInput(
                f"input '{self._required[0]}' is missing: the request has no inputs, which v2 has as tensors in"
                f' a list "inputs"; the model takes{self._listed()}'
            )
        values: Values = {}
        for tensor in tensors:
            name = self._name_of(tensor, tensors)
            if name in values:
                raise InvalidInput(f"input '{name}' is sent twice")
            if tensor.packed:
                unpack_tensor(tensor)
            values[name] = self._type_of(name).from_tensor(tensor)
        return self._complete(values)

    def read_rows(self, tensors: Sequence[Tensor]) -> list[Values]:
        """Read the inputs of v2 whose first dimension is one of samples. Raises ``InvalidInput``."""
        columns: dict[str, list[Any]] = {}
        count = 1
        for tensor in tensors:
            name = self._name_of(tensor, tensors)
            if name in columns:
                raise InvalidInput(f"input '{name}' is sent twice")
            kind = self._type_of(name)
            if not tensor.shape:
                raise InvalidInput(f"input '{name}' has no dimensions; its first one is that of the samples")
            if columns and tensor.shape[0] != count:
                raise InvalidInput(
                    f"input '{name}' has {tensor.shape[0]} samples, and the inputs before it have {count}"
                )
            count = tensor.shape[0]
            if not count:
                raise InvalidInput(f"input '{name}' has no samples: its first dimension is 0")
            columns[name] = [kind.from_tensor(row) for row in split_rows(tensor)]
        if not columns:
            return [self._complete({})]
        return [
            self._complete({name: column[row] for name, column in columns.items()}) for row in range(count)
        ]

    def _name_of(self, tensor: Tensor, tensors: Sequence[Tensor]) -> str:
        if tensor.name == BY_POSITION:
            restore_names(tensors, list(self.inputs))
        return tensor.name

    def _type_of(self, name: str) -> ValueType:
        found = self.inputs.get(name)
        if found is not None:
            return found.type
        if self._rest is not None and name not in OWN and name != self.request:
            return self._rest
        close = difflib.get_close_matches(name, self.inputs, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise InvalidInput(f"unexpected input '{name}'{hint}; the model takes{self._listed()}")

    def _complete(self, values: Values) -> Values:
        """Return the values with the defaults of those that are left out. Raises ``InvalidInput`` for one without."""
        for name in self._required:
            if name not in values:
                raise InvalidInput(f"input '{name}' is missing; the model takes{self._listed()}")
        return {**self._defaults, **values} if self._defaults else values

    def _listed(self) -> str:
        names = [f"'{name}'" for name in self.inputs]
        if self._rest is not None:
            names.append("any other names" if names else "any names")
        return " " + (", ".join(names) or "no input")


_anything = value_type(inspect.Parameter.empty, where="")


def add_rows(spec: TensorSpec) -> TensorSpec:
    """Return an input or output with a dimension of samples in front."""
    shape = spec.shape if spec.unknown_rank else [-1, *spec.shape]
    return msgspec.structs.replace(spec, shape=shape)


def split_rows(tensor: Tensor) -> list[Tensor]:
    """Return a tensor for each entry of the first dimension, as views of the whole. Raises ``InvalidInput``."""
    plain = with_plain_data(tensor)
    count, *shape = plain.shape
    data = plain.data if isinstance(plain.data, list) else view_of(plain.data)
    size, over = divmod(len(data), count) if count else (0, 0)
    if over:
        raise InvalidInput(f"input '{tensor.name}' does not fill its shape {tensor.shape}")
    return [
        Tensor(plain.name, plain.datatype, shape, data[row * size : (row + 1) * size], plain.parameters)
        for row in range(count)
    ]


def _example(names: Iterable[str]) -> str:
    return "{" + ", ".join(f'"{name}": ...' for name in names) + "}"


def _content_type(field: Tensor) -> str:
    parameters: Mapping[str, Any] = field.parameters or {}
    return str(parameters.get("content_type", ""))


def _bytes_of(field: Tensor) -> bytes | memoryview:
    payload = with_plain_data(field).data[0]
    return payload if isinstance(payload, bytes) else view_of(payload)
