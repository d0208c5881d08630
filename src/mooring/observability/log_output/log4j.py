"""Reads a configuration of log4j for TorchServe: its loggers, levels, files, patterns and JSON layouts.

What is not understood is named in the result, and the rest is obeyed.
"""

import functools
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mooring.observability.log_output.files import NO_ROTATION, Rotation, find_dates
from mooring.observability.log_output.log4j_layouts import find_layout
from mooring.observability.log_output.log4j_lookups import Lookups
from mooring.observability.log_output.log4j_tree import BrokenLogConfig, Node, read_tree
from mooring.observability.log_output.patterns import TORCHSERVE_PATTERN, PatternLayout, UnknownPattern
from mooring.observability.log_output.routes import ALL, NAMES, OFF, Output, Route, Routes

_LEVELS = {
    "all": ALL, "trace": ALL, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING,
    "warning": logging.WARNING, "error": logging.ERROR, "fatal": logging.CRITICAL, "off": OFF,
}  # fmt: skip
_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*(|b|kb|mb|gb)", re.IGNORECASE)
_FILES = {"file", "rollingfile", "rollingrandomaccessfile", "randomaccessfile", "memorymappedfile"}
_COMPRESSIONS = (".zip", ".bz2", ".xz", ".zst", ".deflate", ".pack200")


class LogConfig(NamedTuple):
    """What a file says: ``routes``, and the parts of it that are ``not_understood``, a text each."""

    routes: Routes
    not_understood: list[str]


def read_log_config(path: Path, environ: Mapping[str, str], system: Mapping[str, str]) -> LogConfig:
    """Read a configuration of log4j 2 (XML or properties) or log4j 1 (properties).

    ``environ`` is what ``${env:NAME}`` means, ``system`` what ``${sys:NAME}`` does. Raises ``BrokenLogConfig``.
    """
    reader = _Reader(Lookups(environ, system), environ)
    try:
        routes = reader.read_routes(read_tree(path))
    except RecursionError as error:
        raise BrokenLogConfig(f"{path}: something in it is nested too deeply") from error
    return LogConfig(routes, list(dict.fromkeys(reader.not_understood)))


class _Reader:
    """Reads the tree of one file into outputs and loggers."""

    def __init__(self, lookups: Lookups, environ: Mapping[str, str]) -> None:
        self.not_understood: list[str] = []
        self._lookups = lookups
        self._environ = environ
        self._outputs: dict[str, Output] = {}
        # Asynchronous appenders -> those that they pass records on to; and the names of those that are not understood.
        self._groups: dict[str, list[str]] = {}
        self._left_out: set[str] = set()

    def read_routes(self, tree: Node) -> Routes:
        """Read the whole file."""
        for node in _inside(tree, "properties"):
            self._lookups.properties[node.get("name")] = self._get(node, "value") or self._resolve(
                node, node.text
            )
        if tree.get("monitorInterval", "0") != "0":
            self._note(tree, "monitorInterval (the file is read at the start)")
        for node in _inside(tree, "appenders"):
            self._read_appender(node)
        loggers: dict[str, Route] = {}
        for node in _inside(tree, "loggers"):
            self._read_logger(node, loggers)
        self._note_others(tree, {"properties", "appenders", "loggers"})
        if "" not in loggers:  # as log4j does it
            self._note(tree, "no root logger, so errors alone go to standard output")
            self._outputs["default console"] = Output(PatternLayout(TORCHSERVE_PATTERN))
            loggers[""] = Route(logging.ERROR, (("default console", logging.NOTSET),))
        return Routes(self._outputs, loggers)

    def _read_appender(self, node: Node) -> None:
        name = self._get(node, "name")
        if node.kind == "async":
            self._groups[name] = [self._get(each, "ref") for each in node.find("appenderref")]
        elif node.kind == "console":
            layout, level = self._read_layout(node), self._read_filters(node)
            stderr = self._get(node, "target").upper() == "SYSTEM_ERR"
            self._outputs[name] = Output(layout, stderr=stderr, level=level)
            self._note_others(node, {"filters"}, ("layout", "filter"))
        elif node.kind in _FILES and node.get("fileName"):
            self._outputs[name] = self._read_file(node)
        else:
            self._left_out.add(name)
            if node.kind != "null":
                self._note(node, f"<{node.tag}>{' without fileName' if node.kind in _FILES else ''}")

    def _read_file(self, node: Node) -> Output:
        rolling = node.kind.startswith("rolling")
        names = {"filters", "filename", "filepattern", "policies", "defaultrolloverstrategy"}
        self._note_others(node, names, ("layout", "filter", "policy"))
        return Output(
            self._read_layout(node),
            Path(self._get(node, "fileName")),
            rotation=self._read_rotation(node) if rolling else NO_ROTATION,
            append=self._get(node, "append", "true").lower() != "false",
            level=self._read_filters(node),
        )

    def _read_rotation(self, node: Node) -> Rotation:
        pattern = self._resolve(node, node.get("filePattern"), keep_dates=True)
        if pattern.endswith(_COMPRESSIONS):
            self._note(node, f"the compression {Path(pattern).suffix} (.gz is known)")
        try:
            find_dates(pattern)
        except UnknownPattern as error:
            self._note(node, str(error))
            pattern = ""
        size, by_time, at_start, keep = 0, False, False, 7
        for each in [*_of_kind(node, "policy"), *_inside(node, "policies")]:
            if each.kind == "sizebasedtriggeringpolicy":
                size = self._read_size(each)
            elif each.kind == "timebasedtriggeringpolicy":
                by_time = True
                if self._get(each, "interval", "1") != "1":
                    self._note(each, "an interval of several dates (a file makes way with every date)")
            elif each.kind == "onstartuptriggeringpolicy":
                at_start = True
            else:
                self._note(each)
        for each in node.find("defaultrolloverstrategy"):
            most = self._get(each, "max", "7")
            keep = int(most) if most.isdecimal() else keep
            self._note_others(each, set())
        return Rotation(pattern, size, by_time, at_start, keep)

    def _read_size(self, node: Node) -> int:
        text = self._get(node, "size", "10 MB").strip()
        match = _SIZE.fullmatch(text)
        if match is None:
            self._note(node, f"the size '{text}'")
            return 10 << 20
        return int(float(match[1]) * _UNITS[match[2].lower()])

    def _read_filters(self, node: Node) -> int:
        """Return the level below which records are left out: of all filters, only thresholds are understood."""
        level = logging.NOTSET
        for each in [*_of_kind(node, "filter"), *_inside(node, "filters")]:
            denies = self._get(each, "onMismatch", "DENY").upper() == "DENY"
            if each.kind == "thresholdfilter" and denies and self._get(each, "onMatch").upper() != "DENY":
                level = max(level, self._read_level(each) or logging.NOTSET)
            else:
                self._note(each)
        return level

    def _read_layout(self, node: Node) -> logging.Formatter:
        layout = next(iter(_of_kind(node, "layout")), None)
        if layout is None:
            return PatternLayout("%m%n")
        self._note_others(
            layout, {"pattern", "keyvaluepair", "eventtemplate", "eventtemplateadditionalfield"}
        )
        made, unknown = find_layout(layout, functools.partial(self._get, layout), self._environ)
        for each in unknown:
            self._note(layout, each)
        return made

    def _read_logger(self, node: Node, loggers: dict[str, Route]) -> None:
        if node.kind not in {"root", "asyncroot", "logger", "asynclogger"}:
            self._note(node)
            return
        name = "" if node.kind.endswith("root") else self._get(node, "name")
        if name.startswith("org.pytorch.serve."):
            self._note(node, f"the logger {name} (what the server logs is org.pytorch.serve as a whole)")
        if not any(each == name or each.startswith(f"{name}.") for each in NAMES.values()):
            return  # of a Java library, such as io.netty: nothing here logs under its name
        self._note_others(node, {"appenderref"})
        loggers[name] = Route(
            self._read_level(node) if node.get("level") else None,
            tuple(self._read_references(node)),
            additive=self._get(node, "additivity", "true").lower() != "false",
        )

    def _read_references(self, node: Node) -> Iterator[tuple[str, int]]:
        """Yield the outputs of a logger, each with the level below which the logger's records are kept from it."""
        for reference in node.find("appenderref"):
            self._note_others(reference, set())
            level = (self._read_level(reference) if reference.get("level") else None) or logging.NOTSET
            wanted = self._get(reference, "ref")
            for name in self._groups.get(wanted, [wanted]):
                if name in self._outputs:
                    yield name, level
                elif name not in self._left_out:
                    self._note(reference, f"the appender '{name}', which is not there")

    def _read_level(self, node: Node) -> int | None:
        text = self._get(node, "level")
        if text.lower() not in _LEVELS:
            self._note(node, f"the level '{text}'")
        return _LEVELS.get(text.lower())

    def _get(self, node: Node, name: str, default: str = "") -> str:
        return self._resolve(node, node.get(name)) or default

    def _resolve(self, node: Node, text: str, *, keep_dates: bool = False) -> str:
        resolved = self._lookups.resolve(text.strip(), keep_dates=keep_dates)
        for unknown in self._lookups.unknown:
            self._note(node, unknown)
        self._lookups.unknown.clear()
        return resolved

    def _note(self, node: Node, text: str = "") -> None:
        place = f" in line {node.line}" if node.line else ""
        self.not_understood.append(f"{text or f'<{node.tag}>'}{place}")

    def _note_others(self, node: Node, known: Collection[str], endings: tuple[str, ...] = ()) -> None:
        """Note the children that are of none of these kinds."""
        for child in node.children:
            if child.kind not in known and not child.kind.endswith(endings or ("\0",)):
                self._note(child)


def _inside(node: Node, kind: str) -> list[Node]:
    return [child for group in node.find(kind) for child in group.children]


def _of_kind(node: Node, ending: str) -> list[Node]:
    return [child for child in node.children if child.kind.endswith(ending)]
