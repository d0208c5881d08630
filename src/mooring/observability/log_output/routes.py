"""Which log goes to which outputs, as data: what a configuration of log4j says, and TorchServe's own by default."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import msgspec

from mooring.observability.log_output.files import NO_ROTATION, Rotation
from mooring.observability.log_output.layouts import JsonLayout, TextLayout
from mooring.observability.log_output.patterns import TORCHSERVE_PATTERN, PatternLayout
from mooring.observability.logs import ACCESS_LOG, LOGS, MODEL_LOG, MODEL_METRICS, TS_METRICS

# Our loggers -> TorchServe's; "" is the root of both.
NAMES: Mapping[str, str] = MappingProxyType(
    {"": "", "mooring": "org.pytorch.serve", **{name: name for name in LOGS}}
)
ALL = logging.NOTSET + 1  # of log4j; NOTSET would be the level of the logger above
OFF = logging.CRITICAL + 1

_PLAIN = "%d{ISO8601} - %m%n"


@dataclass(frozen=True, slots=True)
class Output:
    """A file, or standard output or error where ``file`` is None. Records below ``level`` are left out."""

    layout: logging.Formatter
    file: Path | None = None
    stderr: bool = False
    rotation: Rotation = NO_ROTATION
    append: bool = True
    level: int = logging.NOTSET


@dataclass(frozen=True, slots=True)
class Route:
    """The outputs of a logger, by name, each with the level below which the logger's records are kept from it.

    ``level`` None is that of the logger above; ``additive``: its outputs, too.
    """

    level: int | None = None
    outputs: tuple[tuple[str, int], ...] = ()
    additive: bool = True


@dataclass(frozen=True, slots=True)
class Routes:
    """A whole configuration. ``loggers`` are by TorchServe's names, with the root under the empty one."""

    outputs: Mapping[str, Output]
    loggers: Mapping[str, Route]

    def level_of(self, name: str) -> int:
        """Return the level of a logger: its own, or that of the next above which has one."""
        levels = (route.level for route in self._chain(name) if route.level is not None)
        return next(levels, logging.ERROR)  # as in log4j

    def outputs_of(self, name: str) -> dict[str, int]:
        """Return the outputs of a logger and of those above it, each once, with the level that a record needs."""
        found: dict[str, int] = {}
        for route in self._chain(name):
            for output, level in route.outputs:
                found[output] = min(level, found.get(output, level))
            if not route.additive:
                break
        return found

    def appending(self) -> "Routes":
        """Return the same for a process that writes to files which another has opened before."""
        outputs = {
            name: replace(
                output, append=True, rotation=msgspec.structs.replace(output.rotation, at_start=False)
            )
            for name, output in self.outputs.items()
        }
        return Routes(outputs, self.loggers)

    def _chain(self, name: str) -> Iterator[Route]:
        while name:
            if name in self.loggers:
                yield self.loggers[name]
            name = name.rpartition(".")[0]
        if "" in self.loggers:
            yield self.loggers[""]


def torchserve_routes(logs: Path, metrics: Path, form: str) -> Routes:
    """Return what TorchServe logs to which file by default. Every log is on standard output and in ts_log.log, too.

    ``form`` is the setting ``log_format``: it decides over standard output, ts_log.log and model_log.log.
    """
    head = (
        PatternLayout(TORCHSERVE_PATTERN)
        if form == "torchserve"
        else JsonLayout()
        if form == "json"
        else TextLayout()
    )
    plain = PatternLayout(_PLAIN)

    def daily(folder: Path, name: str, layout: logging.Formatter) -> Output:
        rotation = Rotation(f"{folder / name}.%d{{dd-MMM}}.log.gz", 100 << 20, by_time=True, keep=5)
        return Output(layout, folder / f"{name}.log", rotation=rotation)

    outputs = {
        "STDOUT": Output(head),
        "ts_log": daily(logs, "ts_log", head),
        "model_log": daily(logs, "model_log", head),
        "access_log": daily(logs, "access_log", plain),
        "ts_metrics": daily(metrics, "ts_metrics", plain),
        "model_metrics": daily(metrics, "model_metrics", plain),
    }
    loggers = {
        "": Route(logging.INFO, (("STDOUT", 0), ("ts_log", 0))),
        "org.pytorch.serve": Route(logging.DEBUG),
        MODEL_LOG: Route(ALL, (("model_log", 0),)),
        ACCESS_LOG: Route(logging.INFO, (("access_log", 0),)),
        TS_METRICS: Route(ALL, (("ts_metrics", 0),)),
        MODEL_METRICS: Route(ALL, (("model_metrics", 0),)),
    }
    return Routes(outputs, loggers)
