"""What is wrong with a value, in plain English: the texts of msgspec, which name Python's types, in our own words.

Settings, bodies of value functions and hints of model code are all validated by msgspec, and their errors read alike
because all of them come from here.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect

# What a type of msgspec's is called where it is wanted, and where it came; any other name is shown as it is.
_WANTED: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
    "bytes": "a string in base64",
    "datetime": "a date and time, such as 2026-01-31T12:00:00Z",
    "date": "a date, such as 2026-01-31",
    "time": "a time, such as 12:00:00",
    "duration": "a duration, such as PT1H30M",
    "uuid": "a UUID",
    "decimal": "a decimal number",
}
_CAME: Mapping[str, str] = {
    **_WANTED,
    "bool": "a boolean",
    "float": "a number with a fraction",
    "bytes": "bytes",
}
_PARTS: Mapping[str, tuple[str, str]] = {
    "str": ("character", "characters"),
    "array": ("item", "items"),
    "object": ("key", "keys"),
    "bytes": ("byte", "bytes"),
}
_LONGEST_NAME = 200
_LISTED = 20  # values or names that a text lists at most

_PLACE = re.compile(r"(?P<key>key` in `)?\$(?P<path>.*)`", re.DOTALL)
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<item>[0-9]+|\.\.\.)\]")


def explain_validation(
    error: msgspec.ValidationError, kind: Any = None, *, name: str = "", came: bool = True, null: bool = True
) -> str:
    """Return what msgspec says of a wrong value in plain English: "a[0].b must be a whole number, not a string".

    ``name`` is what the whole value is called, such as the argument ``texts``: its second item is ``texts[1]`` then.
    With ``kind``, the type that was wanted, the text lists the values or the fields that are allowed. Unless ``came``,
    the text leaves out what came instead, for callers who show the value itself. Unless ``null``, it does not say that null is
    allowed, which TOML and settings do not have. A text that is not msgspec's, such as
    that of a ``ValueError`` in ``__post_init__``, is kept, with its place before it.
    """
    text = str(error)
    # The last one: a client's value, which may stand before it, may look like a place itself, and be large.
    said, _, at = text.rpartition(" - at `")
    place = _PLACE.fullmatch(at)
    said = said if place else text
    path = place["path"] if place else ""
    of_key = bool(place and place["key"])
    for pattern, explain in _RULES:
        if match := pattern.fullmatch(said.strip()):
            reason = explain(match, _Wanted(kind, path, of_key=of_key))
            if not null:
                reason = re.sub(r"(,[^,]*)? or null", _leave_null_out, reason)
            if reason.startswith("."):
                return _named(f"{name}{path}{reason}")
            if not came:
                reason = reason.partition(", not ")[0]
            return f"{_subject(path, name, of_key=of_key)} {reason}"
    return f"{_subject(path, name)}: {said}" if path or name else said


def _leave_null_out(match: re.Match[str]) -> str:
    return f" or{match[1][1:]}" if match[1] else ""


def explain_decoding(error: Exception, kind: Any = None, *, null: bool = True) -> str:
    """Return why some bytes could not be decoded to a type: ``explain_validation``, or the decoder's own words."""
    if isinstance(error, msgspec.ValidationError):
        return explain_validation(error, kind, null=null)
    return str(error)


def _named(path: str) -> str:
    return path.removeprefix(".")


def _subject(path: str, name: str, *, of_key: bool = False) -> str:
    """Return what a text speaks of: a value, one of the values of an object, or one of its keys."""
    if of_key:
        return f"a key of {_subject(path, name)}"
    if path.endswith("[...]"):
        return f"a value in {_subject(path[:-5], name)}"
    subject = _named(f"{name}{path}")
    return f"item {subject}" if subject.startswith("[") else subject or "the value"


class _Wanted:
    """The types that a schema has at the place of an error, of which a text names the values or fields."""

    def __init__(self, kind: Any, path: str, *, of_key: bool = False) -> None:
        self._types: list[inspect.Type] = []
        self._parents: list[inspect.Type] = []
        if kind is None:
            return
        try:
            self._types = list(_alternatives(inspect.type_info(kind)))
        except TypeError:  # a type that msgspec does not know is not described
            return
        for step in _STEP.finditer(path):
            self._parents = self._types
            self._types = [inner for kind in self._types for inner in _inner(kind, step["field"] or "")]
        if of_key:
            self._types = [
                each
                for kind in self._types
                if isinstance(kind, inspect.DictType)
                for each in _alternatives(kind.key_type)
            ]

    def values(self) -> list[object]:
        """Return the values that are allowed here, as JSON has them; none where it is not an enumeration."""
        found: list[object] = []
        for kind in self._types:
            if isinstance(kind, inspect.EnumType):
                found += [each.value for each in kind.cls]
            elif isinstance(kind, inspect.LiteralType):
                found += kind.values
        return found

    def tags(self) -> list[object]:
        """Return the values that tell the objects of a union apart."""
        return [kind.tag for kind in self._parents if isinstance(kind, inspect.StructType) and kind.tag]

    def fields(self) -> list[str]:
        """Return the names of the fields that the object has."""
        # Once each: classes of a union may share them.
        return list(dict.fromkeys(field.encode_name for kind in self._types for field in _fields(kind)))


def _alternatives(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _alternatives(each)
    elif isinstance(kind, inspect.Metadata):
        yield from _alternatives(kind.type)
    else:
        yield kind


def _fields(kind: inspect.Type) -> tuple[inspect.Field, ...]:
    return getattr(kind, "fields", ())


def _inner(kind: inspect.Type, field: str) -> Iterator[inspect.Type]:
    """Yield the types of a field, or of the items and values where no field is named."""
    if field:
        inner = [each.type for each in _fields(kind) if each.encode_name == field]
    elif isinstance(kind, inspect.DictType):
        inner = [kind.value_type]
    elif isinstance(kind, inspect.TupleType):
        inner = list(kind.item_types)
    else:
        inner = [kind.item_type] if hasattr(kind, "item_type") else []
    for each in inner:
        yield from _alternatives(each)


def _join(words: list[str]) -> str:
    if len(words) > _LISTED:
        words = [*words[:_LISTED], f"{len(words) - _LISTED} more"]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _join_types(names: str) -> str:
    return _join([_WANTED.get(name, name) for name in names.split(" | ")])


def _wrong_type(match: re.Match[str], _: _Wanted) -> str:
    came = match["came"]
    wanted = f"must be {_join_types(match['names'])}"
    return f"{wanted}, not {_CAME.get(came, came)}" if came else wanted


def _wrong_choice(match: re.Match[str], wanted: _Wanted) -> str:
    values = wanted.values() or wanted.tags()
    value = match["value"]
    if not values:
        return f"has an unknown value, {value}"
    return f"must be {_join([_quoted(each) for each in values])}, not {value}{_suggestion(value, values)}"


def _quoted(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else msgspec.json.encode(value).decode()


def _suggestion(value: str, known: list[object]) -> str:
    if len(value) > _LONGEST_NAME:  # not a misspelt name, and slow to compare
        return ""
    close = difflib.get_close_matches(
        value.strip("'\"`"), [each for each in known if isinstance(each, str)], n=1, cutoff=0.75
    )
    return f"; did you mean '{close[0]}'?" if close else ""


def _unknown_field(match: re.Match[str], wanted: _Wanted) -> str:
    fields = wanted.fields()
    if not fields:
        return f".{match['field']} is not a known field"
    suggestion = _suggestion(match["field"], list(fields)) or f": the fields are {_cut(fields)}"
    return f".{match['field']} is not a known field{suggestion}"


def _cut(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _wrong_range(match: re.Match[str], _: _Wanted) -> str:
    relation = {">=": "of at least", "<=": "of at most", ">": "greater than", "<": "less than"}[
        match["relation"]
    ]
    return f"must be {_WANTED[match['name']]} {relation} {match['limit'].removesuffix('.0')}"


def _counted(name: str, count: str) -> str:
    one, many = _PARTS[name]
    return f"{count} {one if count == '1' else many}"


def _wrong_length(match: re.Match[str], _: _Wanted) -> str:
    relation = "at least" if match["relation"] == ">=" else "at most"
    return f"must have {relation} {_counted(match['name'], match['length'])}"


def _wrong_count(match: re.Match[str], _: _Wanted) -> str:
    least = match["least"] or ""
    return f"must be a list of {least}{_counted('array', match['length'])}" + (
        f", not {match['came']}" if match["came"] else ""
    )


def _say(text: str) -> Callable[[re.Match[str], _Wanted], str]:
    return lambda match, _: text.format_map(match.groupdict())


# Each text that msgspec has for a value, and what it is here.
_RULES = tuple(
    (re.compile(pattern, re.DOTALL), explain)
    for pattern, explain in (
        (r"Expected `(?P<names>[^`]+)`(?:, got `(?P<came>[^`]+)`)?", _wrong_type),
        (r"Object missing required field `(?P<field>.+)`", _say(".{field} is missing")),
        (r"Object contains unknown field `(?P<field>.+)`", _unknown_field),
        (r"Invalid (?:enum )?value (?P<value>.+)", _wrong_choice),
        (r"Expected `(?P<name>int|float)` (?P<relation>[<>]=?) (?P<limit>\S+)", _wrong_range),
        (
            r"Expected `(?:int|float)` that's a multiple of (?P<factor>\S+)",
            _say("must be a multiple of {factor}"),
        ),
        (r"Expected `(?P<name>\w+)` of length (?P<relation>[<>]=) (?P<length>\d+)", _wrong_length),
        (
            r"Expected `array` of (?P<least>at least |at most )?length (?P<length>\d+(?: to \d+)?)(?:, got (?P<came>\d+))?",
            _wrong_count,
        ),
        (
            r"Expected `str` matching regex (?P<regex>.+)",
            _say("must match the regular expression {regex}"),
        ),
        (r"Expected `(?:datetime|time)` with a timezone component", _say("must have a time zone, such as Z")),
        (r"Expected `(?:datetime|time)` with no timezone component", _say("must have no time zone")),
        (r"Invalid RFC3339 encoded datetime", _say(f"must be {_WANTED['datetime']}")),
        (r"Invalid RFC3339 encoded date", _say(f"must be {_WANTED['date']}")),
        (r"Invalid RFC3339 encoded time", _say(f"must be {_WANTED['time']}")),
        (
            r"Invalid ISO8601 duration|Only units 'D', 'H', 'M', and 'S' are supported.*",
            _say(f"must be {_WANTED['duration']}, in days, hours, minutes and seconds"),
        ),
        (r"Invalid base64 encoded string", _say("must be a string in base64")),
        (r"Invalid UUID(?: bytes)?", _say("must be a UUID")),
        (r"Invalid decimal string", _say("must be a decimal number")),
        (
            r"(?:(?:Integer value|Number) out|(?:Timestamp|Duration) is out) of range|Invalid (?:epoch|MessagePack) timestamp.*",
            _say("is too large, or is not a number"),
        ),
    )
)
