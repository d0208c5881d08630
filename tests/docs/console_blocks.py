"""Runs a page of the documents as its reader would: writes its files, types its commands, compares what they print.

What a page may hold, from its top to its bottom:

- A block ```` ```console ````: each line ``$ COMMAND`` is run, and the lines after it are what it prints. A line ``...``
  stands for any lines, ``...`` in a line for any text. A command with no lines after it prints nothing. A line that ends
  with a backslash goes on in the next.
- A block whose first line is a comment with the name of a file, ``# app.py``: the file is written.
- ``mooring serve`` and the other commands that start a server: it runs until the same page starts another one at the same
  port, or ends. What it has printed until then is what is compared.
- Comments that a reader does not see, ``<!-- console: WHAT -->``:
  ``needs NAME ...``     the page is run where these modules or programs are installed
  ``copy FOLDER``        the files of this folder of the repository are in the reader's folder
  ``link NAME``          so is this file or folder, as a link
  ``run COMMAND``        one more command, whatever it prints
  ``file NAME`` TEXT     the lines after the first are written to this file
  ``keep``               the next server is started beside those that run
  ``stop``               the servers that run are stopped
  ``log``                the next block is part of what the last server has logged
  ``skip REASON``        the next block is not run

Commands that install packages are not run (NOT_RUN). The test has the list of all commands that are not run.

Commands run in one shell, so that ``cd`` and ``export`` work. Ports of a page are replaced by free ones, in its files,
its commands and, back again, in what is printed.

``python tests/docs/console_blocks.py PAGE`` shows where a page differs from what its commands print.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Self

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

from port_kit import free_ports, free_row

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "src/mooring/cli/templates"
PATIENCE = 90.0  # seconds for a command or a start, on a machine that is busy with other things

# What differs from run to run and from machine to machine, and what stands in its place on both sides.
VOLATILE = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?Z?"), "TIME"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"(\bpid\b[\"=: ]+)\d+"), r"\1PID"),
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:ms|s|seconds|MB)\b"), "QUANTITY"),
    (re.compile(r"(seconds=|;dur=)\d+(?:\.\d+)?"), r"\1QUANTITY"),
    (re.compile(r"(\d\.\d{4})\d+"), r"\1"),  # the last digits of a model's floating point numbers
)
# Commands that no page's run may give, and why.
NOT_RUN = {
    "pip install": "it installs packages",
    "make": "it installs packages, or takes minutes",
    "docker": "it needs Docker",
    "MODEL=": "it downloads a model",
}
_ADDRESSES = {  # the settings with an address, and the ports that they have by themselves
    "inference_address": ("http://127.0.0.1:", 8080),
    "management_address": ("http://127.0.0.1:", 8081),
    "metrics_address": ("http://127.0.0.1:", 8082),
    "grpc_address": ("127.0.0.1:", 7070),
    "grpc_management_address": ("127.0.0.1:", 7071),
}
_OTHER_DEFAULTS = (8000, 8001, 8002, 8998, 50051)  # Triton's and AMD's
_COMMENT = re.compile(r"<!-- console: (\w+) ?(.*?)\s*-->", re.DOTALL)
_FENCE = re.compile(r"( *)```(\w*)")
_FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)")
_PORT_IN_TEXT = re.compile(r"(?:127\.0\.0\.1|localhost|0\.0\.0\.0):(\d{4,5})\b")
_ROW_IN_TEXT = re.compile(r"--port[= ](\d{4,5})\b")
_STARTS_A_SERVER = re.compile(
    r"(?:\w+=\S+ )*(?:\.venv/bin/)?mooring (?:serve|tritonserver|amdinfer-server|torchserve .*--foreground)\b(?!.*--help)"
)
_STARTS_IN_THE_BACKGROUND = re.compile(r"mooring torchserve .*--start\b(?!.*--foreground)")
_IS_UP = re.compile(r"Mooring is up\.|Model server started\.|HTTP server starting |Started Metrics Service ")


class Step(NamedTuple):
    """One thing that a reader does or sees: ``kind`` is command, file, log or the word of a comment."""

    kind: str
    line: int
    text: str
    shown: str = ""


def read_steps(text: str) -> Iterator[Step]:
    """Yield what a page has a reader do, in order."""
    lines = iter(enumerate(text.splitlines(), 1))
    pending: Step | None = None  # a comment that is about the next block
    for number, line in lines:
        if line.startswith("<!-- console:"):
            whole = line
            while not whole.endswith("-->"):
                whole += "\n" + next(lines)[1]
            comment = _COMMENT.fullmatch(whole)
            assert comment, f"line {number}: {line}"
            step = Step(comment[1], number, comment[2])
            if step.kind in ("skip", "log"):
                pending = step
            elif step.kind == "file":
                name, _, content = step.text.partition("\n")
                yield Step("file", number, name, f"{content}\n")
            else:
                yield step
        elif fence := _FENCE.match(line):
            block = []
            for _, inner in lines:
                if inner.strip() == "```":
                    break
                block.append(inner.removeprefix(fence[1]))
            yield from _read_block(fence[2], number, block, pending)
            pending = None


def _read_block(language: str, number: int, block: list[str], pending: Step | None) -> Iterator[Step]:
    if pending and pending.kind == "skip":
        yield Step("skip", number, block[0].removeprefix("$ ") if block else "", pending.text)
    elif pending:
        yield Step("log", number, "\n".join(block))
    elif language == "console":
        yield from _read_commands(number, block)
    elif block and (name := _FILE_NAME.fullmatch(block[0])):
        yield Step("file", number, name[1], "\n".join([*block, ""]))


def _read_commands(number: int, block: list[str]) -> Iterator[Step]:
    command, at, shown = "", number, list[str]()
    for offset, line in enumerate([*block, "$ "], 1):
        if command.endswith("\\"):
            command += f"\n{line}"
        elif line.startswith("$ "):
            reason = next((why for start, why in NOT_RUN.items() if command.startswith(start)), "")
            if reason:
                command = command.partition(" #")[0].strip()
            if command:
                yield Step("skip" if reason else "command", at, command, reason or "\n".join(shown))
            command, at, shown = line[2:], number + offset, []
        else:
            shown.append(line)


def normalize(text: str) -> str:
    """The text with a word for each volatile part, and without blanks at its ends."""
    for pattern, word in VOLATILE:
        text = pattern.sub(word, text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def matches(shown: str, printed: str, *, whole: bool = True) -> bool:
    """Whether a page shows what was printed. Without ``whole`` it may show the beginning alone."""
    pattern = ""
    for line in normalize(shown).splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(map(re.escape, line.split("..."))) + r"\n"
    found = re.compile(pattern if whole else pattern + r"(?:.*\n)*")
    return found.fullmatch(normalize(printed) + "\n" if printed.strip() else "") is not None


def missing_modules(text: str) -> list[str]:
    """The modules and programs that a page needs and that are not installed."""
    needed = [name for step in read_steps(text) if step.kind == "needs" for name in step.text.split()]
    return [name for name in needed if find_spec(name) is None and shutil.which(name) is None]


class Ports:
    """Free ports in the place of those that a page names."""

    def __init__(self, text: str) -> None:
        self._map: dict[int, int] = {}
        for first in {int(port) for port in _ROW_IN_TEXT.findall(text)}:
            row = free_row(len(_ADDRESSES))
            self._map |= {first + place: row + place for place in range(len(_ADDRESSES))}
        named = {int(port) for port in _PORT_IN_TEXT.findall(text)}
        named |= {port for _, port in _ADDRESSES.values()} | set(_OTHER_DEFAULTS)
        rest = sorted(named - set(self._map))
        self._map |= zip(rest, free_ports(len(rest)), strict=True)
        self._to_free = self._pattern(self._map)
        self._to_page = self._pattern(self._map.values())
        self._page = {free: page for page, free in self._map.items()}

    def __getitem__(self, port: int) -> int:
        return self._map[port]

    @staticmethod
    def _pattern(ports) -> re.Pattern[str]:
        return re.compile(rf"(?<=[:=\s])(?:{'|'.join(map(str, ports))})\b")

    def to_free(self, text: str) -> str:
        return self._to_free.sub(lambda found: str(self._map[int(found[0])]), text)

    def to_page(self, text: str) -> str:
        return self._to_page.sub(lambda found: str(self._page[int(found[0])]), text)


class RunningServer:
    """A server that a command has started, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_up(self) -> bool:
        """Whether it serves; else it has ended."""
        end = time.monotonic() + PATIENCE
        while not _IS_UP.search(self.log):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < end, f"the server did not start:\n{self.log}"
            time.sleep(0.02)
        return True

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        if self.process.poll() is None:
            self.process.kill()


class PageRun:
    """A reader's folder, shell and servers. As a context manager it ends the servers."""

    def __init__(self, page: Path, text: str, home: Path) -> None:
        self.page, self.text = page, text
        self.folder = home / "reader"
        self._state = home / "state.sh"
        self._logs = home / "logs"
        self._shims = home / "bin"
        self._ports = Ports(text)
        self._servers: dict[str, RunningServer] = {}
        self._last: RunningServer | None = None
        self._keep = False
        self._commands = 0
        for folder in (self.folder, self._logs, self._shims, home / "tmp"):
            folder.mkdir(exist_ok=True)
        self._environ = self._make_environ(home)
        self._write_shims()
        self._state.write_text("")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._servers.values():
            server.stop()
        if (self._logs.parent / "tmp/.model_server.pid").exists():
            self._run("mooring torchserve --stop")

    def _make_environ(self, home: Path) -> Mapping[str, str]:
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("MOORING_", "TS_"))
        }
        addresses = {
            f"MOORING_{name.upper()}": f"{scheme}{self._ports[port]}"
            for name, (scheme, port) in _ADDRESSES.items()
            if not re.search(rf"^{name} ?=", self.text, re.MULTILINE)
        }
        return inherited | addresses | {
            "PATH": f"{self._shims}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src/mooring/compat"),  # as an installed Mooring has it
            "COLUMNS": "110", "HF_HUB_OFFLINE": "1", "HOME": str(self.folder), "TMPDIR": str(home / "tmp"),
        }  # fmt: skip

    def _write_shims(self) -> None:
        """Commands as a reader has them, which find the server at this run's ports."""
        program, ports = Path(sys.executable).parent / "mooring", self._ports
        shims = {
            "curl": f'exec {shutil.which("curl")} -sS "$@"',
            "mooring": f"""
url="--url http://127.0.0.1:{ports[8080]}"
case " $* " in *" --grpc "*) url="--url grpc://127.0.0.1:{ports[7070]}" ;; esac
case " $* " in *" --url "*|*" --help "*) url= ;; esac
triton="--http-port={ports[8000]} --grpc-port={ports[8001]} --metrics-port={ports[8002]}"
amd="--http-port={ports[8998]} --grpc-port={ports[50051]}"
case "$1" in
    infer|models) exec {program} "$@" $url ;;
    tritonserver) exec {program} "$@" $triton ;;
    amdinfer-server) exec {program} "$@" $amd ;;
    *) exec {program} "$@" ;;
esac""",
        }
        for name, script in shims.items():
            (self._shims / name).write_text(f"#!/bin/sh\n{script}\n")
            (self._shims / name).chmod(0o755)

    def do(self, step: Step) -> str:
        """Do one step, and return in what the page is wrong, or nothing."""
        match step.kind:
            case "command":
                return self._do_command(step)
            case "file":
                file = self.folder / step.text
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self._ports.to_free(step.shown))
            case "log":
                return self._compare_log(step)
            case "run":
                self._do_command(step)
            case "copy":
                shutil.copytree(
                    ROOT / step.text, self.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.mar")
                )
            case "link":
                (self.folder / step.text).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / step.text).symlink_to(ROOT / step.text)
            case "keep":
                self._keep = True
            case "stop":
                for port in list(self._servers):
                    self._stop_server(port)
            case "needs" | "skip":
                pass
            case _:
                return f"{self.page}:{step.line}: there is no comment 'console: {step.kind}'\n"
        return ""

    def _do_command(self, step: Step) -> str:
        if _STARTS_A_SERVER.match(step.text):
            printed, whole, status = self._start_server(step)
        else:
            if _STARTS_IN_THE_BACKGROUND.match(step.text):
                self._stop_server("default")
            status, printed = self._run(step.text)
            whole = True
        printed = self._to_page(printed)
        if step.kind == "run":
            assert status == 0, f"{step.text}: {printed}"
            return ""
        # A status tells whether a command that shows nothing has worked.
        if (whole or step.shown) and not matches(step.shown, printed, whole=whole):
            return self._differ(step, printed)
        if status and step.shown in ("", "..."):
            return self._differ(step, f"{printed}\n(status {status})")
        return ""

    def _start_server(self, step: Step) -> tuple[str, bool, int]:
        """Start a server in the place of the one at its port; return its log, whether it has ended, and its status."""
        row = _ROW_IN_TEXT.search(step.text)
        port = row[1] if row else "default"
        if not self._keep:
            self._stop_server(port)
        self._keep = False
        log = self._logs / f"server-{step.line}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["sh", "-c", f". {self._state}\nexec env {self._command(step.text)}"],
                cwd=self.folder, env=self._environ, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        server = RunningServer(process, log)
        try:
            up = server.wait_until_up()
        except AssertionError:
            process.kill()
            raise
        if not up:
            return server.log, True, process.returncode
        self._servers[port] = self._last = server
        end = time.monotonic() + 2  # what stands behind the line that it is up
        while not matches(step.shown, self._to_page(server.log), whole=False) and time.monotonic() < end:
            time.sleep(0.02)
        return server.log, False, 0

    def _stop_server(self, port: str) -> None:
        if server := self._servers.pop(port, None):
            server.stop()

    def _command(self, command: str) -> str:
        """The command with this run's ports. One that names a row of ports has no other address."""
        unset = "".join(f"-u MOORING_{name.upper()} " for name in _ADDRESSES)
        if _STARTS_A_SERVER.match(command) and _ROW_IN_TEXT.search(command):
            command = unset + command
        return self._ports.to_free(command).replace(".venv/bin/mooring", "mooring")

    def _run(self, command: str) -> tuple[int, str]:
        script = f". {self._state}\nset -a\ncd .\n{self._command(command)}\nstatus=$?\n"
        script += f"{{ export -p; echo \"cd '$PWD'\"; }} > {self._state}\nexit $status\n"
        self._commands += 1
        output = self._logs / f"command-{self._commands}.log"
        with output.open("wb") as file:  # no pipe: a server in the background goes on writing to it
            process = subprocess.Popen(
                ["sh", "-c", script], cwd=self.folder, env=self._environ, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        return status, output.read_text(errors="replace")

    def _compare_log(self, step: Step) -> str:
        assert self._last is not None, f"{self.page}:{step.line}: no server has been started"
        end = time.monotonic() + PATIENCE / 3
        shown = f"...\n{step.text}\n..."
        while not matches(shown, self._to_page(self._last.log)):
            if time.monotonic() > end:
                return self._differ(step, self._to_page(self._last.log))
            time.sleep(0.05)
        return ""

    def _to_page(self, printed: str) -> str:
        return self._ports.to_page(printed).replace(str(self.folder), "/home/you")

    def _differ(self, step: Step, printed: str) -> str:
        lines = printed.splitlines()
        if len(lines) > 60:
            printed = "\n".join([*lines[:30], f"({len(lines) - 60} lines)", *lines[-30:]])
        return f"{self.page}:{step.line}: $ {step.text}\n--- the page shows\n{step.shown}\n--- printed was\n{printed}\n"


def pages() -> list[Path]:
    """Every page whose blocks are run, from the root of the repository."""
    found = [
        ROOT / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("examples/*/README.md"),
        *TEMPLATES.glob("*/README.md"),
    ]
    return sorted(file.relative_to(ROOT) for file in found)


def run_page(page: Path, home: Path) -> list[str]:
    """Do all that a page says in the folder ``home``, and return where the page is wrong."""
    text = (ROOT / page).read_text()
    with PageRun(page, text, home) as run:
        if page.is_relative_to(TEMPLATES.relative_to(ROOT)):
            run.do(Step("run", 0, f"mooring init project --template {page.parent.name}"))
            run.do(Step("run", 0, "cd project"))
        return [wrong for step in read_steps(text) if (wrong := run.do(step))]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write("\n".join(run_page(Path(shlex.quote(name)), Path(folder))))
