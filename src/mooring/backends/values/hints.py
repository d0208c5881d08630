"""From requests to arguments: a type hint says how a value is read, from JSON, text, bytes or a tensor.

``value_type`` compiles a hint once, when the model is loaded. msgspec does the reading; what it does not know is in
``custom_types``. The rules for numbers: an int is taken for a float, and 1.0 for an int; strings and booleans are not numbers.
NaN and Infinity are read as bare tokens, as Python and Triton write them.
"""

import enum
import functools
import inspect
import re
import struct
import sys
import typing
from collections import abc
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, cast

import msgspec

from mooring.backends.values.custom_types import (
    CustomType,
    Marker,
    Schema,
    WrongValue,
    choice_type,
    custom_type,
    is_pydantic,
    mark,
    pydantic_type,
)
from mooring.backends.values.dataclass_defaults import fill_defaults, has_defaults
from mooring.backends.values.tensor_forms import (
    JSON,
    UNIONS,
    Leaf,
    alias_target,
    is_text_like,
    plain_hint,
    tensor_form,
)
from mooring.backends.values.value_schemas import inner_types, schema_of, takes_object
from mooring.codecs.tensor_json import decode_to_python
from mooring.core.buffers import view_of
from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.missing_packages import install_command
from mooring.core.tensors import Tensor, TensorSpec
from mooring.core.validation import explain_validation

_WHAT_CAN_BE_TAKEN = (
    "take str, bytes, int, float, bool, a list or dict of them, a dataclass, a TypedDict, a msgspec.Struct, a pydantic model, "
    "a numpy array or a PIL image"
)
# What to take instead of types that people try.
_INSTEAD: Mapping[str, str] = {
    "pathlib": "a client's path means nothing on this machine: take str, or bytes for the content of a file",
    "torch": "take numpy.ndarray or list[float], and make the tensor from it",
    "pandas": "take dict[str, list[float]], and make the table from it",
    "io": "take bytes",
    "_io": "take bytes",
}
_LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
_TEXTS = ("title", "description", "examples")
_LONG = 800  # characters of a text
_SHOWN = 3  # faults of one value that a text tells
_NUMBERS = {
    "INT64": struct.Struct("<q").unpack,
    "INT32": struct.Struct("<i").unpack,
    "FP64": struct.Struct("<d").unpack,
    "FP32": struct.Struct("<f").unpack,
}


class ValueType:
    """How values of one hint are read. ``where`` is what errors call the value, such as the name of the parameter.

    ``schema`` is its JSON Schema (2020-12), with all definitions in its own ``$defs``; ``takes_object`` says whether a JSON
    object can be such a value. ``tensor`` is the datatype and the shape of one value as a tensor, None where it has no such
    form: then the tensor is of BYTES and shape [1], with JSON text in it.

    All methods raise ``InvalidInput``, which names the place and the reason.
    """

    def __init__(self, hint: Any, *, where: str) -> None:
        self.where = where
        self.hint = hint
        try:
            self._type = to_served(hint, where)
            self._decode = _compile(self._type)
            described = msgspec.inspect.type_info(self._type)
            _check_classes(described, where)
            self.schema: Schema = schema_of(self._type)
        except (TypeError, ValueError, NameError, AttributeError, RecursionError, re.error) as error:
            raise _refuse_hint(hint, where, error) from None
        self._fills = has_defaults(described)
        if self._fills:
            decode = self._decode
            self._decode = lambda text: fill_defaults(decode(text))
        self.takes_object = takes_object(self.schema)
        form = tensor_form(hint)
        self.tensor = None if form is None else (form.datatype, form.shape)
        self._form = form
        self._leaf = None if form is None else form.leaf
        self._lone = form is None or not form.dimensions
        self._plain = self._type if self._type in (int, float, str) else None  # without limits
        self._is_any = plain_hint(hint) in (Any, object, inspect.Parameter.empty)
        self._is_text = is_text_like(hint)

    def tensor_spec(self, name: str, *, optional: bool = False) -> TensorSpec:
        """Return the input that the model's metadata declares for such a value."""
        if self._leaf is Leaf.IMAGE:
            return TensorSpec(name, "BYTES", self._form.shape, optional, content_type="image/*")  # type: ignore[union-attr]
        if self.tensor is None:
            return TensorSpec(name, "BYTES", [1], optional, content_type=JSON)
        return TensorSpec(name, *self.tensor, optional)

    def decode_json(self, text: bytes | memoryview | str) -> Any:
        """Read a value from the JSON text of a body."""
        try:
            return self._decode(text)
        except msgspec.ValidationError as error:
            if not _wants_whole_number(error):
                raise self._explain(error) from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, WrongValue):
                raise self._explain(error) from None
        except TypeError as error:
            raise self._explain_type_error(error) from None
        # Either not JSON, or JSON with NaN or with 1.0 for an int.
        return self.convert(decode_to_python(text.encode() if isinstance(text, str) else text))

    def convert(self, value: Any) -> Any:
        """Read a value from a parsed JSON value."""
        try:
            return self._convert(value)
        except msgspec.ValidationError as error:
            if not _wants_whole_number(error):
                raise self._explain(error) from None
        except RecursionError:
            raise InvalidInput(f"{self._name} is nested too deep") from None
        except TypeError as error:
            raise self._explain_type_error(error) from None
        try:
            return self._convert(_to_whole_numbers(value))
        except msgspec.ValidationError as error:
            raise self._explain(error) from None
        except RecursionError:
            raise InvalidInput(f"{self._name} is nested too deep") from None

    def _convert(self, value: Any) -> Any:
        read = _convert(value, self._type)
        return fill_defaults(read) if self._fills else read

    def from_text(self, text: str) -> Any:
        """Read a value from plain text, such as a field of a form: a text as it is, anything else as JSON."""
        if self._is_any:
            return text
        if self._is_text or (self._leaf is Leaf.IMAGE and self._lone):
            return self.convert(text)
        if self._leaf is Leaf.BYTES and self._lone:
            return self._from_binary(text.encode())
        try:
            value = decode_to_python(text.encode())
        except InvalidInput:
            return self.convert(text)
        try:
            return self.convert(value)
        except InvalidInput as error:
            try:
                return self.convert(text)
            except InvalidInput:
                raise error from None

    def from_bytes(self, raw: bytes | memoryview, content_type: str = "") -> Any:
        """Read a value from a body, or a part of a form, of a content type; an empty one means that nothing is known."""
        kind = content_type.partition(";")[0].strip().lower()
        if kind == JSON or kind.endswith("+json"):
            return self.decode_json(raw)
        if self._leaf in (Leaf.BYTES, Leaf.IMAGE) and self._lone:
            return self._from_binary(bytes(raw))
        try:
            text = bytes(raw).decode()
        except UnicodeDecodeError:
            if self._is_any:
                return bytes(raw)
            raise InvalidInput(
                f"{self._name} must be text in UTF-8"
                if kind in ("", "text/plain")
                else f"{self._name} is read from JSON or text; the body is {kind}: send -H 'content-type: application/json'"
            ) from None
        return self.from_text(text)

    def from_tensor(self, tensor: Tensor) -> Any:
        """Read a value from the tensor of one sample, whose elements are not packed.

        Numbers and lists of any datatype are taken where each is exactly a value of the hint; elements of BYTES are texts in
        UTF-8, unless the hint says bytes. With the parameter ``content_type`` of application/json the only element is JSON.
        """
        # A lone number or text: 0.2 microseconds, measured, and not the 1.5 of the general way below.
        if self._plain is not None and tensor.parameters is None:
            if self._plain is str:
                if tensor.datatype == "BYTES" and len(tensor.data) == 1 and type(tensor.data[0]) is bytes:
                    return self._text_of(tensor.data[0])
            elif (unpack := _NUMBERS.get(tensor.datatype)) is not None and type(tensor.data) is bytes:
                try:
                    (number,) = unpack(tensor.data)
                except struct.error:
                    pass  # not one element
                else:
                    if self._plain is float or type(number) is int:
                        return self._plain(number)
        if tensor.datatype != "BYTES":
            return self._from_numbers(tensor)
        elements = [bytes(view_of(element)) for element in tensor.data]
        if (self.tensor is None and not self._is_any) or (
            tensor.parameters is not None and tensor.parameters.get("content_type") == JSON
        ):
            return self._from_json_element(self._only(elements))
        if self._leaf in (Leaf.BYTES, Leaf.IMAGE):
            binary: Any = self._only(elements) if self._lone else _nest(elements, tensor.shape)
            return self._from_binary(binary)
        texts = [self._text_of(element) for element in elements]
        if self._is_any:
            return texts[0] if len(texts) == 1 and len(tensor.shape) <= 1 else _nest(texts, tensor.shape)
        if not self._lone:
            return self.convert(_nest(texts, tensor.shape))
        text = self._only(texts)
        return self.convert(text) if self._is_text else self.from_text(text)

    @property
    def _name(self) -> str:
        return self.where or "the value"

    def _from_json_element(self, element: bytes) -> Any:
        try:
            return self.decode_json(element)
        except InvalidInput as error:
            reason = error.message.removeprefix("the body is ")
            if reason == error.message:
                raise
            raise InvalidInput(f"{self._name} takes JSON text, and this is {reason}") from None

    def _from_numbers(self, tensor: Tensor) -> Any:
        values = tensor.array().tolist()
        if self._lone and (self._form is not None or self._is_any):
            count = 1
            for size in tensor.shape:
                count *= size
            if count == 1:
                while isinstance(values, list):
                    values = values[0]
        return self.convert(values)

    def _from_binary(self, value: Any) -> Any:
        """Read bytes as they are: neither base64 nor text."""
        try:
            # An image, where it is not a list of bytes.
            return msgspec.convert(value, self._type, builtin_types=_BINARY, dec_hook=_read_custom)
        except msgspec.ValidationError as error:
            if self._leaf is Leaf.BYTES and plain_hint(self.hint) in (bytearray, memoryview):
                return plain_hint(self.hint)(value)
            raise self._explain(error) from None

    def _only(self, elements: list[Any]) -> Any:
        if len(elements) != 1:
            raise InvalidInput(f"{self._name} takes a tensor of one element, not of {len(elements)}")
        return elements[0]

    def _text_of(self, element: bytes) -> Any:
        try:
            return element.decode()
        except UnicodeDecodeError:
            if self._is_any:
                return element
            raise InvalidInput(f"{self._name} must be text in UTF-8; this element of BYTES is not") from None

    def _explain_type_error(self, error: TypeError) -> Exception:
        """Return what is wrong where a set came to hold what has no hash; an error of the user's own code as it is."""
        if not str(error).startswith("unhashable type"):
            return error
        return InvalidInput(f"{self._name} is read into a set, which can hold no lists and no objects")

    def _explain(self, error: Exception) -> InvalidInput:
        wrong = error if isinstance(error, WrongValue) else error.__cause__
        if not isinstance(wrong, WrongValue):
            assert isinstance(error, msgspec.ValidationError)
            return InvalidInput(_shorten(explain_validation(error, self._type, name=self.where)))
        # msgspec has added the place where its hook raised this.
        place = str(error).removeprefix(str(wrong)).removeprefix(" - at `$").removesuffix("`")
        if wrong.faults[0][1].startswith("is not JSON"):
            return InvalidInput(f"the body {wrong.faults[0][1]}")
        texts = [f"{_named(f'{self.where}{place}{path}')} {reason}" for path, reason in wrong.faults[:_SHOWN]]
        if len(wrong.faults) > _SHOWN:
            texts.append(f"and {len(wrong.faults) - _SHOWN} more")
        return InvalidInput(_shorten("; ".join(texts)))


def _shorten(text: str) -> str:
    """Return a text that may have a value of any size in it without its middle."""
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]} ... {text[-_LONG // 4 :]}"


def _named(path: str) -> str:
    path = path.removeprefix(".")
    return f"item {path}" if path.startswith("[") else path or "the value"


def value_type(hint: Any, *, where: str) -> ValueType:
    """Compile a hint. ``inspect.Parameter.empty`` means any value.

    Raises ``ModelLoadFailed``, with the parameter's name (``where``) and what can be used, for a hint that cannot be served.
    """
    return ValueType(hint, where=where)


def arguments_type(arguments: Mapping[str, tuple[Any, Any]]) -> ValueType:
    """Compile the hints of several arguments as one JSON object, of which each field is an argument.

    ``arguments`` has the hint and the default of each, ``inspect.Parameter.empty`` for none. What is read is a Struct with
    an attribute for each argument, defaults included (``msgspec.structs.asdict`` makes keywords of it). Raises
    ``ModelLoadFailed`` as ``value_type`` does.
    """
    fields: list[Any] = []
    defaults: dict[str, Any] = {}
    for name, (hint, default) in arguments.items():
        served = ValueType(hint, where=name)._type  # noqa: SLF001 - so that a refusal names the argument
        if default is None:
            served = cast("Any", Union)[served, None]
        if default is inspect.Parameter.empty:
            fields.append((name, served))
        else:
            # A factory, for msgspec takes no lists as defaults; as in Python every call gets the same object.
            fields.append((name, served, msgspec.field(default_factory=functools.partial(_same, default))))
            defaults[name] = default
    struct = msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True, kw_only=True)
    return _ArgumentsType(struct, defaults)


class _ArgumentsType(ValueType):
    def __init__(self, struct: type[msgspec.Struct], defaults: Mapping[str, Any]) -> None:
        super().__init__(struct, where="")
        definitions = dict(self.schema.pop("$defs"))
        schema = definitions.pop(self.schema["$ref"].rpartition("/")[2])
        for name, default in defaults.items():
            try:
                shown = msgspec.json.decode(msgspec.json.encode(default))
                msgspec.msgpack.encode(shown)  # as it travels to the server: no integer beyond 64 bits
            except (TypeError, ValueError, OverflowError):
                continue  # only this function's author can make such a value
            schema["properties"][name] = {**schema["properties"][name], "default": shown}
        del schema["title"]
        self.schema = schema | ({"$defs": definitions} if definitions else {})


def _same(value: Any) -> Any:
    return value


_BINARY = (bytes,)


def _convert(value: Any, kind: Any) -> Any:
    return msgspec.convert(value, kind, str_keys=True, dec_hook=_read_custom)


def _read_custom(kind: Any, value: Any) -> Any:
    custom = custom_type(kind)
    assert custom is not None  # checked when the hint was compiled
    return custom.read(value)


def _compile(kind: Any) -> typing.Callable[[Any], Any]:
    """Return what decodes JSON text to values of a type. Raises ``TypeError`` for a type that msgspec refuses."""
    decode = msgspec.json.Decoder(kind, dec_hook=_read_custom).decode
    custom = custom_type(kind) if isinstance(kind, type) and issubclass(kind, Marker) else None
    if custom is None or custom.decode is None:
        return decode
    decode_text = custom.decode
    return lambda text: decode_text(bytes(text) if isinstance(text, memoryview) else text)


def _wants_whole_number(error: msgspec.ValidationError) -> bool:
    text = str(error)
    return "`int" in text and "got `float`" in text


def _to_whole_numbers(value: Any) -> Any:
    """Return a parsed JSON value with ints for the floats that are whole: 1.0 and 1 are one number in JSON.

    A float above 2^53 may stand for another integer than the one that was written, and stays.
    """
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) < 2.0**53 else value
    if type(value) is list:
        return [_to_whole_numbers(each) for each in value]
    if type(value) is dict:
        return {key: _to_whole_numbers(each) for key, each in value.items()}
    return value


def _nest(flat: list[Any], shape: list[int]) -> Any:
    """Return elements in nested lists of a shape."""
    if len(shape) <= 1:
        return flat
    step = len(flat) // shape[0] if shape[0] else 0
    return [_nest(flat[row * step : (row + 1) * step], shape[1:]) for row in range(shape[0])]


def to_served(hint: Any, where: str) -> Any:
    """Return a hint as msgspec takes it: with a marker for each part of it that msgspec refuses."""
    if hint in (inspect.Parameter.empty, object, Any):
        return Any
    if isinstance(hint, str | typing.ForwardRef):
        name = hint if isinstance(hint, str) else hint.__forward_arg__
        raise NameError(f"'{name}' is no name that the model's file knows")  # noqa: TRY004 - as Python calls it
    if hint is typing.LiteralString:
        return str
    if (target := alias_target(hint)) is not None:
        return to_served(target, where)
    if hasattr(hint, "__supertype__"):
        return to_served(hint.__supertype__, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Final:
        return to_served(arguments[0], where)
    if origin is Annotated:
        return _annotated(hint, where)
    if is_pydantic(origin or hint):
        return mark(pydantic_type(hint))
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, enum.Enum)):
        return _served_or(hint, lambda: _constants_type(hint))
    if origin in UNIONS:
        return _union(arguments, where)
    if hint in (abc.Iterable, typing.Iterable):
        return list[Any]
    if origin is abc.Iterable:
        return list[to_served(arguments[0], where)]  # type: ignore[misc]
    return _rebuild(hint, origin, arguments, where)


def _rebuild(hint: Any, origin: Any, arguments: tuple[Any, ...], where: str) -> Any:
    """Return a generic hint with its arguments as msgspec takes them, the very hint where they are so already."""
    if origin is None or not isinstance(origin, type) or not issubclass(origin, _CONTAINERS):
        return hint
    served = tuple(each if each is ... else to_served(each, where) for each in arguments)
    return hint if served == arguments or not served else cast("Any", origin)[served]


_CONTAINERS = (list, tuple, dict, set, frozenset, abc.Collection)


def _served_or(hint: Any, otherwise: typing.Callable[[], CustomType]) -> Any:
    """Return a hint where msgspec takes it, else a marker for another way to read it."""
    return hint if _is_understood(hint) else mark(otherwise())


def _constants_type(hint: Any) -> CustomType:
    """Return the type of an enumeration, or of a Literal, whose values are of several kinds."""
    constants: Iterable[Any] = typing.get_args(hint) or hint
    members = {each.value if isinstance(each, enum.Enum) else each: each for each in constants}
    values = list(members)

    def read_constant(value: Any) -> Any:
        for each in values:
            if each == value and isinstance(each, bool) == isinstance(value, bool):
                return members[each]
        raise WrongValue(f"must be {' or '.join(map(repr, values))}, not {value!r}")

    return CustomType(read_constant, {"enum": values})


def _union(arguments: tuple[Any, ...], where: str) -> Any:
    """Return a union as msgspec takes it, with a marker for the kinds that JSON alone cannot tell apart."""
    nothing = type(None) in arguments
    arms = [each for each in arguments if each is not type(None)]
    served = [to_served(each, where) for each in arms]
    for each in served:
        _check_classes(msgspec.inspect.type_info(each), where)
    none = (None,) if nothing else ()
    plain = cast("Any", Union)[(*served, *none)]
    if _is_understood(plain):
        return plain
    kinds = [ValueType(each, where="") for each in arms]
    choice = choice_type([(_name_of(kind.hint), kind.convert, kind.schema) for kind in kinds])
    return cast("Any", Union)[(mark(choice), *none)]


def _annotated(hint: Any, where: str) -> Any:
    """Return an annotated hint with the limits of msgspec's, and of pydantic's ``Field`` and annotated_types."""
    base, *notes = typing.get_args(hint)
    if any(type(note).__module__.startswith("pydantic.functional") for note in notes):
        return mark(pydantic_type(hint))
    served = to_served(base, where)
    for note in notes:
        if isinstance(note, msgspec.Meta):
            served = _limited(served, note)
        elif limits := _limits_of(note):
            served = _limited(served, msgspec.Meta(**limits))
    return served


def _limited(served: Any, limits: msgspec.Meta) -> Any:
    """Return a type with limits: of a union, such as ``int | None``, those types have them that can."""
    limited = Annotated[served, limits]
    if typing.get_origin(served) not in UNIONS or _is_understood(limited):
        return limited
    arms = [Annotated[each, limits] for each in typing.get_args(served)]
    if not any(map(_is_understood, arms)):
        return limited  # which is refused
    kept = [
        arm if _is_understood(arm) else each for arm, each in zip(arms, typing.get_args(served), strict=True)
    ]
    return cast("Any", Union)[tuple(kept)]


def _is_understood(hint: Any) -> bool:
    try:
        msgspec.json.Decoder(hint)
    except TypeError:
        return False
    return True


def _limits_of(note: Any) -> dict[str, Any]:
    """Return what a ``Field`` of pydantic's, or a limit of annotated_types, says, as arguments of ``msgspec.Meta``."""
    limits: dict[str, Any] = {}
    for each in (note, *(getattr(note, "metadata", None) or ())):
        for name in _LIMITS:
            if (value := getattr(each, name, None)) is not None:
                limits[name] = value
    if _is_field(note):
        limits |= {name: value for name in _TEXTS if (value := getattr(note, name, None))}
    if limits.get("min_length") == 0:
        del limits["min_length"]
    return limits


def _is_field(note: Any) -> bool:
    return type(note).__module__ == "pydantic.fields"


def _check_classes(kind: Any, where: str) -> None:
    """Raise ``ModelLoadFailed`` for a type that neither msgspec nor ``custom_type`` reads, at any depth."""
    seen: set[int] = set()
    waiting = [(kind, f"parameter '{where}'" if where else "the value")]
    while waiting:
        each, place = waiting.pop()
        if id(each) in seen or not isinstance(each, msgspec.inspect.Type):
            continue
        seen.add(id(each))
        if isinstance(each, msgspec.inspect.CustomType):
            if custom_type(each.cls) is None:
                raise _refuse_class(each.cls, place)
            continue
        if isinstance(each, msgspec.inspect.SetType | msgspec.inspect.FrozenSetType):
            _check_items_of_set(each.item_type, place)
        if isinstance(
            each, msgspec.inspect.DataclassType | msgspec.inspect.StructType | msgspec.inspect.TypedDictType
        ):
            _check_fields(each.cls, place)
        waiting += [
            (inner, f"{place}: field '{name}'" if name else place) for name, inner in inner_types(each)
        ]


_NOT_IN_SETS = (
    msgspec.inspect.ListType, msgspec.inspect.DictType, msgspec.inspect.SetType, msgspec.inspect.TypedDictType,
)  # fmt: skip


def _check_items_of_set(kind: Any, place: str) -> None:
    if isinstance(kind, _NOT_IN_SETS) or getattr(getattr(kind, "cls", None), "__hash__", kind) is None:
        raise ModelLoadFailed(
            f"{place} is a set of what Python's sets cannot hold: take a list, or tuples in the set"
        )


def _check_fields(kind: type, place: str) -> None:
    """Refuse what pydantic would check and msgspec does not: its dataclasses and limits in a class of another kind."""
    kind = typing.get_origin(kind) or kind  # of Box[int]
    if is_pydantic(kind):
        raise ModelLoadFailed(
            f"{place} is the pydantic dataclass '{kind.__name__}' in a class that is not pydantic's: make that one a pydantic "
            "dataclass or model as well"
        )
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if typing.get_origin(hint) is Annotated and any(map(_is_field, typing.get_args(hint)[1:])):
            raise ModelLoadFailed(
                f"{place}: field '{name}' of '{kind.__name__}' has limits by pydantic's Field, which count in its models alone: "
                "write msgspec.Meta(...), or make the class a pydantic model"
            )


def _refuse_class(kind: Any, place: str) -> ModelLoadFailed:
    top = getattr(kind, "__module__", "").partition(".")[0]
    return ModelLoadFailed(
        f"{place} is {_with_article(_name_of(kind))}, which no request can hold: {_INSTEAD.get(top, _WHAT_CAN_BE_TAKEN)}"
    )


def _name_of(kind: Any) -> str:
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__qualname__.rpartition("<locals>.")[2]
    return str(kind).replace("typing.", "")


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _refuse_hint(hint: Any, where: str, error: Exception) -> ModelLoadFailed:
    """Return the reason why a hint cannot be compiled."""
    place = f"parameter '{where}'"
    text = str(error)
    if isinstance(error, RecursionError):
        return ModelLoadFailed(
            f"{place} has a hint that contains itself: use a dataclass or a msgspec.Struct"
        )
    if isinstance(error, NameError | AttributeError):
        pillow = "image" in text.lower() and "PIL" not in sys.modules
        way_out = install_command("PIL") if pillow else "import it where the model's file is loaded"
        return ModelLoadFailed(f"{place} has a hint that cannot be understood: {text}; {way_out}")
    if found := re.search(r"Type unions .* - type `(.+)` is not supported", text, re.DOTALL):
        return ModelLoadFailed(
            f"{place} holds {found[1].replace('typing.', '')}, whose kinds JSON alone cannot tell apart: make them classes of "
            "msgspec.Struct with tag=True, or the whole a pydantic model"
        )
    return ModelLoadFailed(
        f"{place} has the hint {_name_of(hint)}, which cannot be served ({text}): {_WHAT_CAN_BE_TAKEN}"
    )
