"""What ``mooring serve`` shows of its start: the addresses at once, and how far each model is.

On a terminal that is a table which is drawn again and again below the lines of the log (live_table.py), elsewhere a line
for each step. Where the log goes to the same place, it has those lines already, and as JSON all of it are events.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mooring.cli.greeting import Shown, address_facts, address_lines, print_greeting
from mooring.cli.standard_streams import redirect_to_null, takes_text
from mooring.observability.logs import get_logger

if TYPE_CHECKING:
    from mooring.cli.live_table import LiveTable
    from mooring.config.settings import Config
    from mooring.core.example_requests import ExampleRequest
    from mooring.core.service import ModelState
    from mooring.server.start_progress import ModelProgress

log = get_logger(__name__)

_STARTING = "Mooring is starting."


class StartView:
    """Shows one start: ``begin`` it when the addresses are bound. It is the ``ProgressView`` of the server."""

    def __init__(self, up: str) -> None:
        self._up = up
        self._config: Config | None = None
        self._table: LiveTable | None = None
        self._lines: StepLines | None = None
        self._headed = False

    def begin(self, config: "Config") -> None:
        """Show the addresses."""
        if config.log_format == "json":
            log.info(_STARTING, detail="", **address_facts(config))
            return
        self._headed = _print([_STARTING, *address_lines(config)])
        if not self._headed:
            log.warning("start not shown", reason="standard output takes no text")
            return
        if _draws(sys.stdout):
            from mooring.cli.live_table import LiveTable

            self._table = LiveTable(
                sys.stdout, console_of_log() if _same_file(sys.stdout, sys.stderr) else None
            )
        elif not (_log_has_steps(config) and _same_file(sys.stdout, sys.stderr)):
            self._lines = StepLines(lambda line: _print([line]))

    def show(self, models: "Sequence[ModelProgress]") -> None:
        if self._table is not None:
            self._table.draw(models)
        elif self._lines is not None:
            self._lines.add(models)

    def finish(self, models: "Sequence[ModelProgress]") -> None:
        if self._table is not None:
            self._table.finish(models)
        elif self._lines is not None:
            self._lines.add(models)

    def started(
        self, listening: "Config", models: "Sequence[ModelState]", example: "ExampleRequest | None"
    ) -> None:
        """Show the greeting, without what was shown before."""
        told = self._table is not None or self._lines is not None
        shown = Shown(addresses=self._headed, models=told, reasons=self._headed)
        print_greeting(listening, models, example, up=self._up, shown=shown)


class StepLines:
    """Writes a line for each step of a model, once."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._told: dict[tuple[str, str], str] = {}

    def add(self, models: "Sequence[ModelProgress]") -> None:
        """Write the steps that have been made since the last time."""
        for each in models:
            told = self._told.get((each.name, each.version))
            if each.step in {told, "queued"} or (told == "ready" and each.step == "loading"):
                continue
            self._told[each.name, each.version] = each.step
            name = f"{each.name} {each.version}".rstrip()
            if told is None and each.step != "failed":
                self._write(f"loading {name} ...")
            if each.step == "ready":
                self._write(f"{name} is ready after {each.seconds:.1f} s")
            elif each.step == "failed":
                # Without a reason that the end of the start gives.
                self._write(f"{name} failed: {each.reason}" if each.reason else f"{name} failed")


def console_of_log() -> "logging.Handler | None":
    """Return the handler that writes the whole log to standard error; None where it goes elsewhere, too."""
    from mooring.observability.log_output.console import Console

    handlers = logging.getLogger().handlers
    return handlers[0] if len(handlers) == 1 and isinstance(handlers[0], Console) else None


def _log_has_steps(config: "Config") -> bool:
    """Whether the log is text on standard error, and has what is said of models that load."""
    return console_of_log() is not None and config.log_level in ("debug", "info")


def _draws(stream: object) -> bool:
    """Whether a stream is a terminal on which a table can be drawn anew."""
    isatty = getattr(stream, "isatty", None)
    return bool(isatty and isatty()) and os.environ.get("TERM", "dumb") != "dumb"


def _same_file(first: object, second: object) -> bool:
    try:
        one, other = (os.fstat(each.fileno()) for each in (first, second))  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        return False
    return (one.st_dev, one.st_ino, one.st_rdev) == (other.st_dev, other.st_ino, other.st_rdev)


def _print(lines: Sequence[str]) -> bool:
    """Print lines to standard output, unless nobody reads it; return whether it took them."""
    if not takes_text(sys.stdout):
        return False
    try:
        print("\n".join(lines), flush=True)  # noqa: T201 - a command speaks to its user
    except OSError:
        redirect_to_null(sys.stdout)
        return False
    return True
