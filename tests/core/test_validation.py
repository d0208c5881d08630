"""What msgspec says of a wrong value, in plain English."""

import enum
import re
import uuid
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pytest
from msgspec import Meta

from mooring.core.validation import _RULES, explain_validation


class Level(enum.Enum):
    INFO = "info"
    ERROR = "error"


class Grade(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    children: list[dict[str, int]] = []


class Circle(msgspec.Struct, tag="circle"):
    radius: float


class Square(msgspec.Struct, tag="square"):
    side: float


class Cat(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    name: str
    lives: int = 9


class Dog(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    name: str


class Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    a: int
    b: int


class Pair(NamedTuple):
    a: int
    b: int = 1


@dataclass
class Positive:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is below zero")


CASES: list[tuple[Any, str, str]] = [
    (int, '"a"', "the value must be a whole number, not a string"),
    (int, "null", "the value must be a whole number, not null"),
    (int, "1.5", "the value must be a whole number, not a number with a fraction"),
    (int, "true", "the value must be a whole number, not a boolean"),
    (float, "[]", "the value must be a number, not a list"),
    (str, "1", "the value must be a string, not a whole number"),
    (bool, "1", "the value must be true or false, not a whole number"),
    (list[int], "{}", "the value must be a list, not an object"),
    (None, "1", "the value must be null, not a whole number"),
    (bytes, "1", "the value must be a string in base64, not a whole number"),
    (int | str, "[]", "the value must be a whole number or a string, not a list"),
    (int | str | None, "[]", "the value must be a whole number, a string or null, not a list"),
    (datetime, "1", "the value must be a date and time, such as 2026-01-31T12:00:00Z, not a whole number"),
    (list[int], '[1, "a"]', "item [1] must be a whole number, not a string"),
    (dict[str, int], '{"a": "b"}', "a value in the value must be a whole number, not a string"),
    (dict[int, int], '{"a": 1}', "a key of the value must be a whole number, not a string"),
    (Point, "{}", "x is missing"),
    (Point, '{"x": 1, "y": 2}', "y is not a known field: the fields are x, children"),
    (Point, '{"x": 1, "childrn": 2}', "childrn is not a known field; did you mean 'children'?"),
    (list[Point], '[{"x": 1}, {}]', "[1].x is missing"),
    (
        Point,
        '{"x": 1, "children": [{"a": "b"}]}',
        "a value in children[0] must be a whole number, not a string",
    ),
    (
        dict[str, list[Point]],
        '{"k": [{"x": "a"}]}',
        "item [...][0].x must be a whole number, not a string",
    ),
    (Circle | Square, '{"type": "cube"}', "type must be 'circle' or 'square', not 'cube'"),
    (Circle | Square, '{"type": 1}', "type must be a string"),
    (Circle | Square, '{"radius": 1}', "type is missing"),
    (Level, '"verbose"', "the value must be 'info' or 'error', not 'verbose'"),
    (Literal[1, "a"], '"1"', "the value must be 1 or 'a', not '1'"),
    (Cat | Dog, '{"type": "Cat", "nme": "x", "y": 1}', "nme is not a known field; did you mean 'name'?"),
    (Cat | Dog, '{"type": "Cat", "zzz": 1}', "zzz is not a known field: the fields are name, lives"),
    (Level, '"rror"', "the value must be 'info' or 'error', not 'rror'; did you mean 'error'?"),
    (Grade, "3", "the value must be 1 or 2, not 3"),
    (Literal["a", "b"], '"c"', "the value must be 'a' or 'b', not 'c'"),
    (dict[str, list[Level]], '{"k": ["x"]}', "item [...][0] must be 'info' or 'error', not 'x'"),
    (dict[Level, int], '{"x": 1}', "a key of the value must be 'info' or 'error', not 'x'"),
    (Row, "[1]", "the value must be a list of at least 2 items, not 1"),
    (Row, "[1, 2, 3]", "the value must be a list of at most 2 items"),
    (tuple[int, int], "[1]", "the value must be a list of 2 items"),
    (Pair, "[]", "the value must be a list of 1 to 2 items"),
    (Annotated[int, Meta(ge=1)], "0", "the value must be a whole number of at least 1"),
    (Annotated[int, Meta(le=1)], "2", "the value must be a whole number of at most 1"),
    (Annotated[float, Meta(gt=1)], "0", "the value must be a number greater than 1"),
    (Annotated[float, Meta(lt=1)], "2", "the value must be a number less than 1"),
    (Annotated[int, Meta(multiple_of=5)], "2", "the value must be a multiple of 5"),
    (Annotated[str, Meta(min_length=1)], '""', "the value must have at least 1 character"),
    (Annotated[str, Meta(max_length=2)], '"abc"', "the value must have at most 2 characters"),
    (
        Annotated[str, Meta(pattern="^[a-z]+$")],
        '"1"',
        "the value must match the regular expression '^[a-z]+$'",
    ),
    (Annotated[list[int], Meta(min_length=2)], "[]", "the value must have at least 2 items"),
    (Annotated[dict[str, int], Meta(min_length=1)], "{}", "the value must have at least 1 key"),
    (Annotated[bytes, Meta(max_length=1)], '"YWFh"', "the value must have at most 1 byte"),
    (bytes, '"a"', "the value must be a string in base64"),
    (datetime, '"x"', "the value must be a date and time, such as 2026-01-31T12:00:00Z"),
    (date, '"x"', "the value must be a date, such as 2026-01-31"),
    (time, '"x"', "the value must be a time, such as 12:00:00"),
    (
        timedelta,
        '"P1Y"',
        "the value must be a duration, such as PT1H30M, in days, hours, minutes and seconds",
    ),
    (
        timedelta,
        '"x"',
        "the value must be a duration, such as PT1H30M, in days, hours, minutes and seconds",
    ),
    (timedelta, '"P999999999999D"', "the value is too large, or is not a number"),
    (
        Annotated[datetime, Meta(tz=True)],
        '"2026-01-31T12:00:00"',
        "the value must have a time zone, such as Z",
    ),
    (Annotated[time, Meta(tz=False)], '"12:00:00Z"', "the value must have no time zone"),
    (uuid.UUID, '"x"', "the value must be a UUID"),
    (Decimal, '"x"', "the value must be a decimal number"),
    (float, "1e999", "the value is too large, or is not a number"),
    (Positive, '{"x": -1}', "x is below zero"),
    (list[Positive], '[{"x": -1}]', "item [0]: x is below zero"),
]


def fail(kind: Any, document: str) -> msgspec.ValidationError:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(document, type=kind)
    return caught.value


@pytest.mark.parametrize(("kind", "document", "text"), CASES)
def test_a_wrong_value_is_explained_without_the_words_of_msgspec(kind: Any, document: str, text: str) -> None:
    assert explain_validation(fail(kind, document), kind) == text


def test_a_value_that_looks_like_a_place_is_taken_for_none_and_read_once() -> None:
    value = " - at `$.b` - at `$" * 200_000  # minutes, where each of them is tried
    for kind, document, begin in (
        (Literal["a"], value, "the value must be 'a', not ' - at"),
        (dict[str, Literal["a"]], {"k": value}, "a value in the value must be 'a', not ' - at"),
    ):
        with pytest.raises(msgspec.ValidationError) as refused:
            msgspec.json.decode(msgspec.json.encode(document), type=kind)
        assert explain_validation(refused.value, kind).startswith(begin)


def test_every_rule_is_shown_by_a_case() -> None:
    said = [str(fail(kind, document)).split(" - at `")[0].strip() for kind, document, _ in CASES]
    for pattern, _ in _RULES:
        assert any(pattern.fullmatch(each) for each in said), pattern.pattern


def test_every_text_of_msgspec_about_a_value_has_a_rule() -> None:
    """The texts are read from its compiled module: those that end with the place of the value."""
    module = Path(msgspec._core.__file__).read_bytes()  # type: ignore[attr-defined]
    texts = {each.decode() for each in re.findall(rb"[\x20-\x7e]{5,}(?=%U\x00)", module)}
    sample = {"%s": "int", "%lld": "3", "%llu": "3", "%zd": "3", "%U": "int", "%R": "3"}
    said = {re.sub("%(?:s|lld|llu|zd|U|R)", lambda match: sample[match[0]], text) for text in texts}
    said.discard(" - at ")
    # Two texts have further places for what is a word of theirs: a relation, and a type with or without a time zone.
    said = {re.sub("`int` (?=with)", "`time` ", text.replace("`float` int", "`float` >=")) for text in said}
    assert len(said) > 30
    unknown = [text for text in said if not any(rule.fullmatch(text.strip()) for rule, _ in _RULES)]
    assert unknown == []


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ('"a"', "texts must be a list, not a string"),
        ("[1]", "texts[0] must be a string, not a whole number"),
    ],
)
def test_a_name_stands_for_the_whole_value(document: str, text: str) -> None:
    assert explain_validation(fail(list[str], document), list[str], name="texts") == text


def test_a_field_follows_the_name_of_the_value() -> None:
    assert explain_validation(fail(Point, "{}"), Point, name="point") == "point.x is missing"


def test_what_came_may_be_left_out() -> None:
    assert explain_validation(fail(int, '"a"'), came=False) == "the value must be a whole number"


def test_a_wrong_choice_needs_no_type() -> None:
    assert explain_validation(fail(Level, '"x"')) == "the value has an unknown value, 'x'"


def test_a_long_list_of_values_is_cut() -> None:
    kind = Literal[tuple(range(30))]  # type: ignore[valid-type]
    assert explain_validation(fail(kind, "99"), kind).endswith("18, 19 or 10 more, not 99")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int | None, "the value must be a whole number, not a list"),
        (int | str | None, "the value must be a whole number or a string, not a list"),
        (int | str | bool | None, "the value must be true or false, a whole number or a string, not a list"),
    ],
)
def test_null_may_be_left_out(kind: Any, text: str) -> None:
    assert explain_validation(fail(kind, "[]"), kind, null=False) == text
