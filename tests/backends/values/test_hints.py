"""A hint says which JSON, text, bytes and tensors are values of it, and an error says where a wrong one is wrong, and why."""

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import io
import json
import math
import pathlib
import typing
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import attrs
import jsonschema
import msgspec
import numpy as np
import numpy.typing as npt
import pydantic
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic_core import PydanticCustomError

from mooring.backends.values.hints import arguments_type, value_type
from mooring.backends.values.results import result_type
from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.example_values import example_value
from mooring.core.tensors import Tensor

NOTHING = inspect.Parameter.empty
T = TypeVar("T")


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Mixed(enum.Enum):
    HALF = 0.5
    NAME = "name"


@dataclasses.dataclass
class Point:
    """A place."""

    x: float
    y: float = 0.0
    label: str | None = None


class Shape(msgspec.Struct):
    points: list[Point]
    color: Color = Color.RED


class Chain(msgspec.Struct):
    size: int = 0
    inner: "Chain | None" = None


class Pair(NamedTuple):
    a: int
    b: str = "b"


class Keys(TypedDict):
    a: int
    b: NotRequired[str]


class User(pydantic.BaseModel):
    """Somebody."""

    age: int = pydantic.Field(ge=0)
    born: dt.date | None = None
    name: str = pydantic.Field("nobody", alias="called")

    @pydantic.field_validator("age")
    @classmethod
    def check_age(cls, age):
        if age == 13:
            raise ValueError("no luck with 13")
        return age


class Own(pydantic.BaseModel):
    size: int

    @pydantic.field_validator("size")
    @classmethod
    def refuse(cls, size):
        raise PydanticCustomError("value_error", "no size {size}", {"size": size})


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    day: dt.date


@pydantic.dataclasses.dataclass
class Checked:
    size: int


@dataclasses.dataclass
class Everything:
    user: User | None = None
    array: np.ndarray | None = None
    rows: list[npt.NDArray[np.float32]] = dataclasses.field(default_factory=list)
    image: Image.Image | None = None


@dataclasses.dataclass
class WithPath:
    files: list[pathlib.Path]


@dataclasses.dataclass
class WithUnion:
    either: Point | Everything


@dataclasses.dataclass
class WithField:
    size: Annotated[int, pydantic.Field(gt=0)]


@dataclasses.dataclass
class WithChecked:
    inner: Checked


def png(size=(2, 1)):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "png")
    return buffer.getvalue()


PNG = png()
PNG_TEXT = base64.b64encode(PNG).decode()


def read(hint, document):
    """What a JSON document is as a value, by both ways that lead there."""
    kind = value_type(hint, where="x")
    value = kind.decode_json(json.dumps(document).encode())
    assert kind.convert(document) == value or value != value  # noqa: PLR0124 - NaN
    return value


@pytest.mark.parametrize(
    ("hint", "document", "value"),
    [
        (int, 5, 5),
        (int, 1.0, 1),
        (int, 10**30, 10**30),
        (float, 5, 5.0),
        (bool, True, True),
        (str, "ä", "ä"),
        (bytes, "aGk=", b"hi"),
        (None, None, None),
        (Any, {"a": [1, None]}, {"a": [1, None]}),
        (object, [1], [1]),
        (NOTHING, "a", "a"),
        (list[int], [1, 2.0], [1, 2]),
        (list, [1, "a"], [1, "a"]),
        (tuple[int, ...], [1], (1,)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[str], ["a", "a"], {"a"}),
        (dict[int, float], {"1": 2}, {1: 2.0}),
        (Sequence[int], [1], [1]),
        (Iterable[int], [1], [1]),
        (int | None, None, None),
        (int | str, "a", "a"),
        (str | bytes, "a", "a"),
        (Point | Shape, {"points": []}, Shape([])),
        (str | Image.Image, "a", "a"),
        (Literal["a", 1], 1, 1),
        (Literal[0.5, "a"], 0.5, 0.5),
        (Color, "blue", Color.BLUE),
        (Mixed, 0.5, Mixed.HALF),
        (dt.datetime, "2026-01-31T12:00:00Z", dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)),
        (uuid.UUID, str(uuid.UUID(int=1)), uuid.UUID(int=1)),
        (Point, {"x": 1}, Point(1.0)),
        (Shape, {"points": [{"x": 1}], "color": "blue"}, Shape([Point(1.0)], Color.BLUE)),
        (Pair, [1], Pair(1)),
        (Keys, {"a": 1}, {"a": 1}),
        (User, {"age": 3, "called": "A"}, User(age=3, called="A")),
        (list[User], [{"age": 3}], [User(age=3)]),
        (dict[str, User | None], {"a": None}, {"a": None}),
        (list[Strict], [{"day": "2026-01-31"}], [Strict(day=dt.date(2026, 1, 31))]),
        (Checked, {"size": "3"}, Checked(3)),
        (Everything, {"user": {"age": 1}}, Everything(User(age=1))),
        (pydantic.HttpUrl, "http://a/", pydantic.HttpUrl("http://a/")),
        (Annotated[str, pydantic.AfterValidator(str.upper)], "a", "A"),
        (np.float32, 1, np.float32(1)),
        (np.int64, 1.0, np.int64(1)),
        (typing.NewType("Id", int), 1, 1),
    ],
)
def test_json_is_read_as_the_hint_says(hint, document, value):
    found = read(hint, document)
    assert found == value
    assert type(found) is type(value)


def test_nan_and_infinity_are_read_as_python_and_triton_write_them():
    numbers = value_type(list[float], where="x").decode_json(b"[NaN, 1, -Infinity]")
    assert math.isnan(numbers[0])
    assert numbers[1:] == [1.0, -math.inf]
    assert math.isnan(value_type(User | float, where="x").decode_json(b"NaN"))


@pytest.mark.parametrize(
    ("hint", "document", "text"),
    [
        (int, 1.5, "x must be a whole number, not a number with a fraction"),
        (int, "1", "x must be a whole number, not a string"),
        (int, True, "x must be a whole number, not a boolean"),
        (float, None, "x must be a number, not null"),
        (bool, 1, "x must be true or false, not a whole number"),
        (list[int], [1, "a"], "x[1] must be a whole number, not a string"),
        (list[int], [1.0, 1.5], "x[1] must be a whole number, not a number with a fraction"),
        (bytes, "#", "x must be a string in base64"),
        (Color, "green", "x must be 'red' or 'blue', not 'green'"),
        (Mixed, 0.25, "x must be 0.5 or 'name', not 0.25"),
        (Literal[0.5, True], 1, "x must be 0.5 or True, not 1"),
        (Shape, {"points": [{"x": 1}, {}]}, "x.points[1].x is missing"),
        (Keys, {}, "x.a is missing"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, "x must be a whole number of at least 1"),
        (Annotated[int, pydantic.Field(ge=1)], 0, "x must be a whole number of at least 1"),
        (list[Annotated[str, pydantic.Field(max_length=1)]], ["ab"], "x[0] must have at most 1 character"),
        (Annotated[int | None, pydantic.Field(ge=1)], 0, "x must be a whole number of at least 1"),
        (Own, {"size": 1}, "x.size is wrong: no size 1"),
        (pydantic.PositiveInt, 0, "x must be a whole number of at least 1"),
        (User, [], "x must be an object"),
        (User, {}, "x.age is missing"),
        (User, {"age": -1}, "x.age must be at least 0"),
        (User, {"age": 13}, "x.age is wrong: no luck with 13"),
        (User, {"age": "a", "born": 3}, "x.age must be a whole number; x.born must be a date, such as 2026-01-31"),
        (list[User], [{"age": 1}, {"age": 13}], "x[1].age is wrong: no luck with 13"),
        (Everything, {"user": {"age": -1}}, "x.user.age must be at least 0"),
        (Everything, {"array": [[1, 2], [3]]}, "x.array is ragged: its lists at depth 2 differ in length"),
        (Everything, {"rows": [[1], ["a"]]}, "x.rows[1] holds strings, not FP32"),
        (Everything, {"image": "#"}, "x.image must be an image in base64"),
        (Image.Image, 5, "x must be an image: a string in base64"),
        (Image.Image, "aaaa", "x must be an image: this is binary data; send an image in one of these formats"),
        (np.int8, 300, "x holds 300, which INT8 cannot hold"),
        (np.int8, [3], "x must be one value"),
        (Point | Shape, {}, "x fits none of its types (Point: x is missing; Shape: points is missing)"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_place_and_reason(hint, document, text):
    kind = value_type(hint, where="x")
    for ask in (lambda: kind.decode_json(json.dumps(document).encode()), lambda: kind.convert(document)):
        with pytest.raises(InvalidInput) as refused:
            ask()
        assert refused.value.message.startswith(text)


def test_a_body_that_is_no_json_is_called_so():
    for hint in (dict, User):
        with pytest.raises(InvalidInput, match="the body is not JSON"):
            value_type(hint, where="x").decode_json(b'{"age": ')
    with pytest.raises(InvalidInput, match="the body is binary data, not JSON"):
        value_type(str, where="x").decode_json(b'"\xff"')
    with pytest.raises(InvalidInput):
        value_type(list, where="x").decode_json(b"[" * 100_000)


@pytest.mark.parametrize(
    "hint", [Color, Mixed, Literal["a"], Annotated[str, msgspec.Meta(pattern="a")], Color | int]
)
def test_a_text_about_a_large_value_is_short(hint):
    with pytest.raises(InvalidInput) as refused:
        value_type(hint, where="x").convert("y" * 1_000_000)
    assert len(refused.value.message) < 1000


def test_a_value_that_is_nested_too_deep_is_refused():
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"inner": value}
    for document in (value, {**value, "size": 1.0}):
        with pytest.raises(InvalidInput, match="x is nested too deep"):
            value_type(Chain, where="x").convert(document)


def test_arrays_and_images_are_read_at_any_depth():
    value = read_one(Everything, {"array": [[1, 2]], "rows": [[1, None], []], "image": PNG_TEXT})
    assert value.array.dtype == np.int64
    assert value.array.tolist() == [[1, 2]]
    assert [row.dtype for row in value.rows] == [np.float32, np.float32]
    assert math.isnan(value.rows[0][1])
    assert value.image.size == (2, 1)
    words = read_one(list[np.ndarray], [["ä", "b"]])
    assert words[0].tolist() == ["ä", "b"]


def read_one(hint, document):
    return value_type(hint, where="x").decode_json(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (pathlib.Path, "parameter 'x' is a Path, which no request can hold: a client's path means nothing"),
        (complex, "parameter 'x' is a complex, which no request can hold: take str, bytes, int"),
        (io.BytesIO, "parameter 'x' is a BytesIO, which no request can hold: take bytes"),
        (Callable, "parameter 'x' is a Callable, which no request"),
        (list[pathlib.Path], "parameter 'x' is a Path"),
        (str | pathlib.Path, "parameter 'x' is a Path"),
        (set[list[int]], "parameter 'x' is a set of what Python's sets cannot hold: take a list"),
        (set[Point], "parameter 'x' is a set of what Python's sets cannot hold"),
        (Annotated[float, pydantic.Field(gt=0, ge=0)], "parameter 'x' has the hint .* cannot be served"),
        (WithPath, "parameter 'x': field 'files' is a Path"),
        (WithUnion, "parameter 'x' holds .*, whose kinds JSON alone cannot tell apart: .* tag=True"),
        (WithField, "parameter 'x': field 'size' of 'WithField' has limits by pydantic's Field, .* msgspec.Meta"),
        (WithChecked, "parameter 'x': field 'inner' is the pydantic dataclass 'Checked' in a class that is not"),
        ("Nobody", "parameter 'x' has a hint that cannot be understood: 'Nobody' is no name"),
        (list["Nobody"], "parameter 'x' has a hint that cannot be understood"),  # noqa: F821
        (Annotated[list[int], msgspec.Meta(ge=1)], "parameter 'x' has the hint .* cannot be served"),
    ],
)  # fmt: skip
def test_a_hint_that_cannot_be_served_is_refused_when_the_model_is_loaded(hint, text):
    with pytest.raises(ModelLoadFailed, match=text):
        value_type(hint, where="x")


def tensor(values, dtype=None, **parameters):
    made = Tensor.of("x", np.array(values, dtype))
    made.parameters = parameters or None
    return made


JSON_TEXT = {"content_type": "application/json"}


@pytest.mark.parametrize(
    ("hint", "sent", "value"),
    [
        (int, tensor([5]), 5),
        (int, tensor(5), 5),
        (int, tensor([[3.0]], np.float32), 3),
        (int, tensor([b"5"], object), 5),
        (float, tensor([3], np.int32), 3.0),
        (bool, tensor([True]), True),
        (str, tensor(["ä".encode()], object), "ä"),
        (str, tensor([b'"a"'], object, **JSON_TEXT), "a"),
        (bytes, tensor([b"\xff"], object), b"\xff"),
        (bytearray, tensor([b"\xff"], object), bytearray(b"\xff")),
        (list[bytes], tensor([b"\xff", b"a"], object), [b"\xff", b"a"]),
        (list[str], tensor([b"a", b"b"], object), ["a", "b"]),
        (list[list[int]], tensor([[1, 2], [3, 4]], np.uint8), [[1, 2], [3, 4]]),
        (list[list[str]], tensor([[b"a"], [b"b"]], object), [["a"], ["b"]]),
        (set[int], tensor([5, 5]), {5}),
        (tuple[float, float], tensor([5, 6]), (5.0, 6.0)),
        (int | None, tensor([5]), 5),
        (Color, tensor([b"red"], object), Color.RED),
        (dt.date, tensor([b"2026-01-31"], object), dt.date(2026, 1, 31)),
        (Point, tensor([b'{"x": 1}'], object), Point(1.0)),
        (User, tensor([b'{"age": 1}'], object), User(age=1)),
        (Any, tensor([1.5]), 1.5),
        (Any, tensor([[1, 2]]), [[1, 2]]),
        (Any, tensor([b"a"], object), "a"),
        (Any, tensor([b"\xff"], object), b"\xff"),
        (Any, tensor([b"a", b"b"], object), ["a", "b"]),
        (Any, tensor([b'{"a": 1}'], object, **JSON_TEXT), {"a": 1}),
        (np.float32, tensor([5]), np.float32(5)),
    ],
)
def test_a_tensor_is_read_as_the_hint_says(hint, sent, value):
    found = value_type(hint, where="x").from_tensor(sent)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("hint", "sent", "text"),
    [
        (int, tensor([3.5], np.float32), "x must be a whole number, not a number with a fraction"),
        (int, tensor([True]), "x must be a whole number, not a boolean"),
        (bool, tensor([1]), "x must be true or false, not a whole number"),
        (float, tensor([1, 2]), "x must be a number, not a list"),
        (list[int], tensor([[1]]), r"x\[0\] must be a whole number, not a list"),
        (str, tensor([b"\xff"], object), "x must be text in UTF-8"),
        (str, tensor([b"a", b"b"], object), "x takes a tensor of one element, not of 2"),
        (Point, tensor([1.0]), "x must be an object, not a list"),
        (Point, tensor([b"{"], object), "x takes JSON text, and this is not JSON"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(hint, sent, text):
    with pytest.raises(InvalidInput, match=text):
        value_type(hint, where="x").from_tensor(sent)


def test_an_image_comes_from_a_tensor_a_body_or_a_field():
    kind = value_type(Image.Image, where="x")
    for image in (
        kind.from_tensor(tensor([PNG], object)),
        kind.from_bytes(PNG, "image/png"),
        kind.from_bytes(memoryview(PNG)),
        kind.from_bytes(json.dumps(PNG_TEXT).encode(), "application/json"),
        kind.from_text(PNG_TEXT),
    ):
        assert image.size == (2, 1)
    many = value_type(list[Image.Image], where="x").from_tensor(tensor([PNG, png((3, 3))], object))
    assert [each.size for each in many] == [(2, 1), (3, 3)]
    with pytest.raises(InvalidInput, match="x must be an image: this is text; send an image"):
        kind.from_bytes(b"no image", "image/png")


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (str, '{"a": 1}', '{"a": 1}'),
        (int, "5", 5),
        (int | str, "5", 5),
        (int | str, "five", "five"),
        (dict, '{"a": 1}', {"a": 1}),
        (list[int], "[1]", [1]),
        (bytes, "abc", b"abc"),
        (Color, "red", Color.RED),
        (Any, "5", "5"),
    ],
)
def test_plain_text_is_a_text_or_json(hint, text, value):
    kind = value_type(hint, where="x")
    assert kind.from_text(text) == value
    assert kind.from_bytes(text.encode(), "text/plain") == value


def test_a_body_is_read_by_its_content_type():
    assert value_type(bytes, where="x").from_bytes(b"aGk=", "application/octet-stream") == b"aGk="
    assert value_type(bytes, where="x").from_bytes(b'"aGk="', "application/json; charset=utf-8") == b"hi"
    with pytest.raises(InvalidInput, match="x must be text in UTF-8"):
        value_type(str, where="x").from_bytes(b"\xe4")
    assert value_type(Any, where="x").from_bytes(b"\xff") == b"\xff"
    with pytest.raises(InvalidInput, match="x must be text in UTF-8"):
        value_type(str, where="x").from_bytes(b"\xe4", "text/plain")
    with pytest.raises(InvalidInput, match="the body is image/png: send -H 'content-type: application/json'"):
        value_type(int, where="x").from_bytes(PNG, "image/png")
    with pytest.raises(InvalidInput, match="x must have at most 1 byte"):
        value_type(Annotated[bytes, msgspec.Meta(max_length=1)], where="x").from_bytes(b"ab")


@pytest.mark.parametrize(
    ("hint", "declared"),
    [
        (str, ("BYTES", [1])),
        (int, ("INT64", [1])),
        (float, ("FP64", [1])),
        (int | float, ("FP64", [1])),
        (bool, ("BOOL", [1])),
        (bytes | None, ("BYTES", [1])),
        (list[int], ("INT64", [-1])),
        (list[list[float]], ("FP64", [-1, -1])),
        (tuple[bool, bool], ("BOOL", [2])),
        (Annotated[list[str], msgspec.Meta(max_length=3)], ("BYTES", [-1])),
        (Color, ("BYTES", [1])),
        (Literal[1, 2], ("INT64", [1])),
        (np.float32, ("FP32", [1])),
        (list[int | None], None),
        (list, None),
        (tuple[int, str], None),
        (dict[str, int], None),
        (Any, None),
        (Point, None),
        (User, None),
    ],
)
def test_the_metadata_declares_the_tensor_that_a_value_is(hint, declared):
    kind = value_type(hint, where="x")
    assert kind.tensor == declared
    spec = kind.tensor_spec("x", optional=True)
    assert (spec.datatype, spec.shape) == (declared or ("BYTES", [1]))
    assert spec.optional
    assert spec.content_type == ("" if declared else "application/json")


def test_an_image_is_declared_as_bytes_of_an_image():
    spec = value_type(Image.Image, where="x").tensor_spec("x")
    assert (spec.datatype, spec.shape, spec.content_type) == ("BYTES", [1], "image/*")


@pytest.mark.parametrize(
    ("hint", "object_fits"),
    [
        (Point, True), (dict, True), (Keys, True), (User, True), (Any, True), (Point | None, True), (list[User] | User, True),
        (int, False), (list[Point], False), (str | None, False), (Image.Image, False), (Color, False), (Pair, False),
        (pydantic.RootModel[list[int]], False),
    ],
)  # fmt: skip
def test_it_is_known_whether_an_object_can_be_the_value(hint, object_fits):
    assert value_type(hint, where="x").takes_object is object_fits


class A:
    class Node(pydantic.BaseModel):
        next: "A.Node | None" = None


class B:
    class Node(pydantic.BaseModel):
        next: "B.Node | None" = None
        size: int


A.Node.model_rebuild()
B.Node.model_rebuild()


def test_definitions_of_one_name_are_told_apart_in_one_schema():
    hint = dict[str, tuple[A.Node, B.Node, Point]]
    schema = value_type(hint, where="x").schema
    jsonschema.Draft202012Validator.check_schema(schema)
    asked = jsonschema.Draft202012Validator(schema)
    assert asked.is_valid({"k": [{"next": {}}, {"size": 1, "next": {"size": 2}}, {"x": 1}]})
    assert not asked.is_valid({"k": [{"next": {}}, {"size": 1, "next": {}}, {"x": 1}]})
    assert set(schema["$defs"]) >= {"Node", "Node2", "Point"}


def test_the_schema_describes_fields_limits_and_defaults():
    schema = value_type(Shape, where="x").schema
    point = schema["$defs"]["Point"]
    assert point["description"] == "A place."
    assert point["required"] == ["x"]
    assert point["properties"]["y"] == {"type": "number", "default": 0.0}
    limited = value_type(Annotated[int, pydantic.Field(gt=0, description="how many")], where="x").schema
    assert limited == {"type": "integer", "exclusiveMinimum": 0, "description": "how many"}
    assert value_type(User, where="x").schema["properties"]["called"]["default"] == "nobody"


class Tagged(msgspec.Struct, array_like=True, tag=True):
    at: dt.datetime


class Times(NamedTuple):
    at: dt.time
    rest: "Times | None" = None


@pytest.mark.parametrize(
    "hint",
    [
        dt.datetime, dt.time, list[dt.datetime | None], dict[str, dt.time], tuple[int, dt.datetime], Times, Tagged, int | dt.datetime,
        Point, Shape, Pair, Keys, User, Everything, Checked, Color, Mixed, bytes, Image.Image, uuid.UUID, dt.date, dt.timedelta,
        decimal.Decimal, Point | Shape, Annotated[dt.datetime, msgspec.Meta(description="when")], Annotated[bytes, msgspec.Meta(max_length=2)],
        pydantic.HttpUrl, np.int8, set[int], object,
    ],
)  # fmt: skip
def test_the_example_of_a_schema_is_a_value_of_the_hint(hint):
    kind = value_type(hint, where="x")
    kind.convert(example_value(kind.schema))


def test_names_for_types_stand_for_what_they_name():
    rows = typing_extensions.TypeAliasType("Rows", list[int])
    item = typing.TypeVar("item")
    table = typing_extensions.TypeAliasType("Table", list[list[item]], type_params=(item,))
    assert value_type(rows, where="x").tensor == ("INT64", [-1])
    assert value_type(rows, where="x").convert([1.0]) == [1]
    assert value_type(table[float], where="x").tensor == ("FP64", [-1, -1])
    assert value_type(list[table[int]], where="x").convert([[[1.0]]]) == [[[1]]]


def test_the_example_of_an_image_is_one_that_can_be_read():
    kind = value_type(Image.Image, where="x")
    assert kind.convert(kind.schema["examples"][0]).size == (1, 1)


def test_arguments_are_the_fields_of_one_object():
    shared = [1]
    kind = arguments_type(
        {
            "x": (int, NOTHING),
            "image": (Image.Image, None),
            "users": (list[User], []),
            "rest": (NOTHING, (1, shared)),
            "odd": (object, object),
            "huge": (int, 2**70),
        }
    )
    found = kind.decode_json(b'{"x": 1.0, "users": [{"age": 1}], "image": null}')
    assert (found.x, found.image, found.users, found.odd) == (1, None, [User(age=1)], object)
    assert found.rest[1] is shared
    properties = kind.schema["properties"]
    assert list(properties) == ["x", "image", "users", "rest", "odd", "huge"]
    assert kind.schema["required"] == ["x"]
    assert properties["users"]["default"] == []
    assert properties["rest"] == {"default": [1, [1]]}
    assert "default" not in properties["odd"]
    assert "default" not in properties["huge"]  # no message between processes has room for it
    assert "$ref" not in kind.schema
    for body, text in {
        b'{"users": []}': "x is missing",
        b'{"x": 1, "users": [{"age": 13}]}': "users[0].age is wrong: no luck with 13",
        b'{"x": 1, "user": []}': "user is not a known field; did you mean 'users'?",
        b'{"x": "a"}': "x must be a whole number, not a string",
    }.items():
        with pytest.raises(InvalidInput) as refused:
            kind.decode_json(body)
        assert refused.value.message == text
    with pytest.raises(ModelLoadFailed, match="parameter 'file' is a Path"):
        arguments_type({"file": (pathlib.Path, NOTHING)})


LEAVES = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
DOCUMENTS = st.recursive(
    LEAVES | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
HINTS = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: st.text(),
    bytes: st.binary(),
    dt.datetime: st.datetimes(timezones=st.just(dt.UTC)),
    Color: st.sampled_from(Color),
    Point: st.builds(Point, st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.text() | st.none()),
    User: st.builds(lambda age, name: User(age=age, called=name), st.integers(14, 99), st.text()),
}
NESTED = st.sampled_from(sorted(HINTS, key=str)).flatmap(
    lambda hint: st.sampled_from(
        [
            (hint, HINTS[hint]),
            (list[hint], st.lists(HINTS[hint], max_size=3)),
            (dict[str, hint], st.dictionaries(st.text(), HINTS[hint], max_size=3)),
            (list[list[hint]], st.lists(st.lists(HINTS[hint], max_size=2), max_size=2)),
        ]
    ).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1]))
)


@given(NESTED)
def test_what_is_written_as_json_is_read_again_and_fits_the_schema(pair):
    hint, value = pair
    text = result_type(NOTHING).encode_json(value)
    kind = value_type(hint, where="x")
    assert kind.decode_json(text) == value
    jsonschema.validate(json.loads(text), kind.schema)


@given(NESTED)
def test_what_is_written_as_tensors_is_read_again(pair):
    hint, value = pair
    (output,) = result_type(hint).to_tensors(value)
    kind = value_type(hint, where="x")
    if kind.tensor is not None and output.parameters is None:
        assert output.datatype == kind.tensor[0]
    assert kind.from_tensor(output) == value


@given(
    DOCUMENTS,
    st.sampled_from([int, float, list[float], Point, dict[str, int], User, Color, Point | Shape, list[str]]),
)
def test_any_document_is_a_value_or_is_refused_as_input(document, hint):
    kind = value_type(hint, where="x")
    try:
        kind.decode_json(json.dumps(document).encode())
    except InvalidInput as error:
        assert error.message.startswith(("x", "item", "the ", "a "))  # noqa: PT017 - any document may fit


@pytest.mark.parametrize("wrong", ["x", 5, None, {"a": 1}])
def test_an_array_is_a_list(wrong):
    with pytest.raises(InvalidInput, match=r"must be a list"):
        value_type(list[np.ndarray], where="x").convert([wrong])


def test_bytes_that_are_no_text_are_told_so_and_nothing_else():
    with pytest.raises(InvalidInput) as wrong:
        value_type(str, where="x").from_bytes(b"\xff", "")
    assert wrong.value.message == "x must be text in UTF-8"


@attrs.define
class OfAttrs:
    x: int
    tags: list[str] = attrs.field(factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    item: T
    size: int = 3


class Crate(msgspec.Struct, Generic[T]):
    item: T


def test_classes_of_attrs_and_generic_ones_are_read():
    assert read_one(OfAttrs, {"x": 1}) == OfAttrs(1, [])
    assert read_one(Box[int], {"item": 1}) == Box(1)
    assert vars(read_one(Box[int], {"item": 1})) == {"item": 1, "size": 3}
    assert read_one(Crate[str], {"item": "a"}) == Crate("a")
    with pytest.raises(InvalidInput, match=r"x\.item must be a whole number"):
        read_one(Box[int], {"item": "a"})
    assert read_one(Final[int], 5) == 5
    arguments_type({"x": (Final[int], None)})


@pytest.mark.parametrize("hint", [set, set[Any], frozenset])
@pytest.mark.parametrize("body", [b"[[1]]", b'[1, {"a": 2}]'])
def test_a_set_holds_no_lists_and_no_objects(hint, body):
    with pytest.raises(InvalidInput, match="x is read into a set, which can hold no lists and no objects"):
        value_type(hint, where="x").decode_json(body)


def test_a_pattern_that_is_none_is_refused_when_the_model_is_loaded():
    with pytest.raises(ModelLoadFailed, match=r"parameter 'x' has the hint .* cannot be served \(missing \)"):
        value_type(Annotated[str, pydantic.Field(pattern="(")], where="x")


@pytest.mark.parametrize(
    ("hint", "body", "says"),
    [
        (np.int64, b"9" * 30, "x holds a number too large for INT64"),
        (np.uint64, b"-" + b"9" * 30, "x holds a number too large for UINT64"),
        (list[npt.NDArray[np.int64]], b"[[" + b"9" * 30 + b"]]", "x[0] holds a number too large for INT64"),
        (list[np.ndarray], b"[[-" + b"9" * 30 + b"]]", "x[0] holds a number too large for any datatype"),
        (np.bool_, b"1", "x must be true or false"),
    ],
)
def test_what_no_datatype_of_numpy_holds_is_refused(hint, body, says):
    with pytest.raises(InvalidInput) as wrong:
        value_type(hint, where="x").decode_json(body)
    assert wrong.value.message == says
