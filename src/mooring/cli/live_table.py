"""A table of the models of a start on a terminal, drawn again and again in one place, below the lines of the log.

``format_rows`` is pure. ``LiveTable`` writes without ever waiting for the terminal: the server goes on while it is stopped.
"""

import contextlib
import os
import re
import select
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len, set_cell_size

from mooring.observability.log_output.console import Console, open_again, write_piece
from mooring.server.start_progress import ModelProgress, Step

if TYPE_CHECKING:
    import logging

# Lines of the table at most, and lines of the terminal that stay above it.
_MOST_LINES, _ABOVE = 12, 4
# Which are shown first where not all are.
_ORDER = (Step.FAILED, Step.LOADING, Step.READY, Step.QUEUED)
_COLORS: Mapping[Step, str] = {
    Step.FAILED: "31",
    Step.LOADING: "36",
    Step.READY: "32",
    Step.QUEUED: "2",
}
_LONGEST_NAME = 40
_INDENT = "  "
# Lines of a reason while the table is drawn; the last time all are.
_REASON_LINES = 3
_TO_TOP, _CLEAR = "\r\x1b[{}A", "\x1b[J"
_EVENTS = frozenset({"loading model", "model ready", "model failed", "model left out"})


def format_rows(
    models: Sequence[ModelProgress], width: int, height: int, *, color: bool = False, last: bool = False
) -> list[str]:
    """Return the lines of the table on a terminal of so many columns and lines; none is wider, and few enough fit.

    With ``last`` it is not drawn again, and reasons may take as many lines as they need.

    >>> format_rows([ModelProgress("a", "1", Step.READY, 0.25), ModelProgress("b", "", Step.QUEUED)], 80, 24)
    ['  a 1  ready    0.2 s', '  b    queued']
    """
    limit = max(2, min(_MOST_LINES, height - _ABOVE))
    ordered = sorted(models, key=lambda each: _ORDER.index(each.step))
    names = {id(each): _printable(f"{each.name} {each.version}".rstrip()) for each in ordered}
    wide = min(max((cell_len(name) for name in names.values()), default=0), _LONGEST_NAME, max(width // 2, 8))
    lines: list[str] = []
    left = Counter(each.step for each in ordered)
    for each in ordered:
        rows = list(_format_model(each, names[id(each)], wide, width, color=color, last=last))
        if len(lines) + len(rows) > limit - (sum(left.values()) > 1) and not (
            last and each.step is Step.FAILED
        ):
            break
        lines += rows
        left[each.step] -= 1
    rest = ", ".join(f"{count} more {step}" for step in reversed(_ORDER) if (count := left[step]))
    return [*lines, _cut(f"{_INDENT}and {rest}", width)] if rest else lines


def _format_model(
    model: ModelProgress, name: str, wide: int, width: int, *, color: bool, last: bool
) -> Iterator[str]:
    shown = set_cell_size(name, wide) if cell_len(name) <= wide else f"{set_cell_size(name, wide - 1)}…"
    seconds = f"{model.seconds:.1f} s" if model.step in (Step.LOADING, Step.READY) else ""
    line = _cut(f"{_INDENT}{shown}  {model.step:8} {seconds}".rstrip(), width)
    if color:
        line = line.replace(f"  {model.step}", f"  \x1b[{_COLORS[model.step]}m{model.step}\x1b[0m", 1)
    yield line
    if model.step is Step.FAILED and model.reason:
        room = max(width - 7, 10)
        reason = textwrap.wrap(_printable(model.reason), room) or [""]
        for part in reason if last else reason[:_REASON_LINES]:
            yield _cut(f"{_INDENT * 3}{part}", width)


def _cut(line: str, width: int) -> str:
    """Return a line that leaves the last column free, since a terminal may wrap there."""
    return line if cell_len(line) < width else set_cell_size(line, max(width - 1, 1)).rstrip()


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


class LiveTable:
    """Draws the table on a terminal. ``console`` is the handler of the log that writes to the same one, if there is one.

    How this works: a frame begins by going back over the last one and clearing it. A line of the log does the same first
    (``Console.set_interlude``), and draws the frame again below itself. What the table says of a model is left out of the
    log on the terminal meanwhile, but for tracebacks.
    """

    def __init__(self, stream: TextIO, console: "logging.Handler | None") -> None:
        self._fd, self._owned = open_again(stream.fileno())
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)
        self._color = not os.environ.get("NO_COLOR")
        self._frame: list[str] = []
        self._drawn = 0  # lines of the frame that is on the terminal
        self._console = console if isinstance(console, Console) else None
        if self._console is not None:
            self._console.addFilter(self._passes)
            self._console.set_interlude(self._interlude)

    def draw(self, models: Sequence[ModelProgress]) -> None:
        """Draw how far the models are, unless that is on the terminal already or the terminal takes nothing now."""
        with self._locked():
            self._draw(models, last=False)

    def finish(self, models: Sequence[ModelProgress]) -> None:
        """Draw the table for the last time, and leave it there."""
        with self._locked():
            self._draw(models, last=True)
            self._drawn, self._frame = 0, []
        if self._owned:
            os.close(self._fd)
        if self._console is not None:
            self._console.set_interlude(None)
            self._console.removeFilter(self._passes)

    def _draw(self, models: Sequence[ModelProgress], *, last: bool) -> None:
        try:
            width, height = os.get_terminal_size(self._fd)
        except OSError:
            width, height = 80, 24
        frame = format_rows(models, width or 80, height or 24, color=self._color, last=last)
        if frame != self._frame or last:
            self._frame = frame
            self._write(f"{self._erasure()}{self._text()}")

    def _erasure(self) -> str:
        return f"{_TO_TOP.format(self._drawn)}{_CLEAR}" if self._drawn else ""

    def _text(self) -> str:
        return "".join(f"{line}\n" for line in self._frame)

    def _write(self, text: str) -> None:
        """Write what has room; a terminal that takes a part of it gets the next frame below."""
        if not text or not self._poll.poll(0):
            return
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        with contextlib.suppress(OSError):
            whole = write_piece(self._fd, data) == len(data)
            self._drawn = len(self._frame) if whole else 0

    @contextlib.contextmanager
    def _interlude(self) -> Iterator[None]:
        """Make room for a line of the log."""
        if self._drawn:
            frame, self._frame = self._frame, []
            self._write(self._erasure())
            self._drawn = 0
            yield
            self._frame = frame
            self._write(self._text())
        else:
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._console.lock if self._console is not None else None
        with lock or contextlib.nullcontext():
            yield

    def _passes(self, record: "logging.LogRecord") -> bool:
        """Whether a record says what the table does not."""
        name = str(getattr(record.msg, "name", ""))
        if name in _EVENTS:
            return False
        if re.fullmatch("worker failed( again)?", name):
            return self._without_reason(record)
        return True

    @staticmethod
    def _without_reason(record: "logging.LogRecord") -> bool:
        event: Any = record.msg
        event.facts.pop("reason", None)
        return bool(event.detail)
