"""Where each setting in force was set: noted while the settings are read, for whoever shows them."""

import functools
import re
import tomllib
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from mooring.config.properties import find_lines
from mooring.config.sources.ports import INFERENCE, apply_base
from mooring.config.sources.torchserve import find_key, name_variable

DEFAULT = "default"
_TABLE = re.compile(r"\s*\[")
_KEY = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")


class Origins:
    """The source of every setting that is not at its default. Where a setting stands in a file is looked up when it is asked.

    ``command`` is a command whose flags have other names than our settings; empty where they have the same.
    """

    def __init__(self, command: str = "") -> None:
        self.command = command
        self._describe: dict[str, Callable[[str], str]] = {}

    def of(self, name: str) -> str:
        """Return where a setting was set, as a text for people."""
        describe = self._describe.get(name)
        return describe(name) if describe is not None else DEFAULT

    def apply(self, chosen: dict[str, Any], later: Mapping[str, Any], describe: Callable[[str], str]) -> None:
        """Add the settings of a later source to those ``chosen`` so far; ``describe`` returns where one of them stands."""
        before = chosen.get(INFERENCE)
        apply_base(chosen, later)
        self._describe |= dict.fromkeys(later, describe)
        if before is not None and INFERENCE not in later and chosen.get(INFERENCE) != before:
            self._describe[INFERENCE] = self._of_base

    def apply_defaults(self, chosen: dict[str, Any], defaults: Mapping[str, Any]) -> None:
        """Add the defaults of a command."""
        self.apply(chosen, defaults, lambda _name: f"default of {self.command or 'this command'}")

    def apply_flags(
        self, chosen: dict[str, Any], flags: Mapping[str, Any], flag_name: Callable[[str], str]
    ) -> None:
        """Add what the user gave on the command line."""
        command = self.command

        def describe(name: str) -> str:
            if command:
                return f"flags of {command}"
            return "the command line" if name == "targets" else flag_name(name)

        self.apply(chosen, flags, describe)

    def note_placed(self, names: Iterable[str]) -> None:
        """Note that these addresses follow from host and port."""
        self._describe |= dict.fromkeys(names, self._of_base)

    def note(self, name: str, text: str) -> None:
        """Note where a setting comes from, as a text for people."""
        self._describe[name] = lambda _name: text

    def note_read_from(self, source: str, name: str) -> None:
        """Note that a setting was read from another one."""
        self._describe[name] = lambda _name: f"{source}: {self.of(source)}"

    def _of_base(self, _name: str) -> str:
        return ", ".join(f"{name}: {self.of(name)}" for name in ("host", "port") if name in self._describe)


def in_toml(path: Path, text: str) -> Callable[[str], str]:
    """Return a function that returns where a setting stands in a file of ours."""
    find = functools.cache(_toml_lines)

    def describe(name: str) -> str:
        line = find(text).get(name)
        return f"{path}: line {line}" if line is not None else str(path)

    return describe


def in_properties(path: Path, text: str) -> Callable[[str], str]:
    """Return the same for a file of TorchServe's, whose keys have names of their own."""
    find = functools.cache(find_lines)

    def describe(name: str) -> str:
        lines = find(text)
        key = find_key(name, lines)
        return f"{path}: line {lines[key]}" if key else str(path)

    return describe


def in_environment(prefix: str) -> Callable[[str], str]:
    """Return a function that returns the variable of a setting."""
    return lambda name: f"{prefix}{name.upper()} in the environment"


def in_variables(environ: Container[str]) -> Callable[[str], str]:
    """Return the same for TorchServe's variables."""

    def describe(name: str) -> str:
        keys = _Variables(environ)
        key = find_key(name, keys)
        return f"{name_variable(key)} in the environment" if key else "the environment"

    return describe


class _Variables:
    """TorchServe's keys whose variables are set."""

    def __init__(self, environ: Container[str]) -> None:
        self._environ = environ

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and name_variable(key) in self._environ


def _toml_lines(text: str) -> dict[str, int]:
    """Return the line of every setting: that of its first line which, with all before it, is a document that has it.

    A line of a text over several lines may look like a setting, so each candidate is tried.
    """
    lines = text.splitlines()
    known = tomllib.loads(text)
    found: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        key, table = _KEY.match(line), _TABLE.match(line)
        name = key[1] if key else line.strip(" \t[]\"'").partition(".")[0] if table else ""
        if name in known and name not in found and _is_whole("\n".join(lines[: number - 1])):
            found[name] = number
    return found


def _is_whole(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True
