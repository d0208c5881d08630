"""Checks a manifest key by key against the classes that a client library generates from the API's own description.

The libraries' own deserializers ignore keys that they do not know; this does not. Run as a program, by a Python that has the
libraries: typed_classes.py MODULE... < [[CLASS, DOCUMENT], ...] prints the faults of each.
"""

import datetime as dt
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_LIST = re.compile(r"[Ll]ist\[(.*)\]")
_DICT = re.compile(r"[Dd]ict[(\[]str, (.*)[)\]]")
_PLAIN = {
    "str": str,
    "bytes": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "datetime": (str, dt.datetime),
    "ResourceQuantity": (str, int),
}


def finder(modules: Sequence[str]) -> Callable[[str], Any]:
    """A function that finds a class by its name in the first of some modules that has it."""
    loaded = [importlib.import_module(each) for each in modules]
    return lambda name: next(getattr(each, name) for each in loaded if hasattr(each, name))


def faults(value: Any, kind: str, find: Callable[[str], Any], place: str = "") -> Iterator[str]:
    """What a type has no place for, each with its own place: unknown keys, missing ones, and values of another type."""
    where = place or kind
    if kind == "object":
        return
    if kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{where}: {value!r} is no {kind}"
    elif found := _LIST.fullmatch(kind):
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for number, each in enumerate(value):
            yield from faults(each, found[1], find, f"{place}[{number}]")
    elif not isinstance(value, dict):
        yield f"{where}: {value!r} is no mapping"
    elif found := _DICT.fullmatch(kind):
        for name, each in value.items():
            yield from faults(each, found[1], find, f"{place}.{name}".lstrip("."))
    else:
        yield from _faults_of_class(value, find(kind), find, place)


def _faults_of_class(
    value: Mapping[str, Any], found: Any, find: Callable[[str], Any], place: str
) -> Iterator[str]:
    kinds = {key: found.openapi_types[name] for name, key in found.attribute_map.items()}
    for name, each in value.items():
        where = f"{place}.{name}".lstrip(".")
        if name not in kinds:
            yield f"{where}: unknown key"
        else:
            yield from faults(each, kinds[name], find, where)


if __name__ == "__main__":
    find_class = finder(sys.argv[1:])
    print(json.dumps([list(faults(document, kind, find_class)) for kind, document in json.load(sys.stdin)]))
