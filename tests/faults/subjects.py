"""The servers under test: how each is started, asked about its models, and ended."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[1]))

from port_kit import free_ports

MODEL = Path(__file__).parent / "model"
WEIGHTS = "the weights of this model"
PATIENCE = 60.0


class NotHere(Exception):
    """A case that cannot be run on this machine; the text says why."""


def until(reached: Callable[[], object], *, within: float = PATIENCE, every: float = 0.01) -> float:
    """Return when ``reached()`` is true, and how many seconds that took; raises ``TimeoutError``."""
    began = time.monotonic()
    while not reached():
        if time.monotonic() - began > within:
            raise TimeoutError("it did not come true in time")
        time.sleep(every)
    return time.monotonic() - began


def archive(store: Path, name: str, config: Mapping[str, object], *, also: Sequence[str] = ()) -> Path:
    """The model of faults as ``NAME.mar``; the empty files ``also`` tell it how to behave while it loads, and with
    ``waiting`` among them its handler is asynchronous.
    """
    file = store / f"{name}.mar"
    model = {
        "modelName": name,
        "modelVersion": "1.0",
        "handler": f"{'waiting' if 'waiting' in also else 'fault'}_handler.py",
        "configFile": "model-config.yaml",
    }
    manifest = {"createdOn": "01/01/2026 00:00:00", "runtime": "python", "model": model}
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest | {"archiverVersion": "0.12.0"}))
        for handler in MODEL.glob("*.py"):
            packed.write(handler, handler.name)
        packed.writestr("weights", WEIGHTS)
        packed.writestr("model-config.yaml", json.dumps(dict(config)))  # JSON is YAML
        for each in also:
            packed.writestr(each, "")
    return file


class Subject:
    """A server process and all that it started. ``ports`` are those of inference, management and metrics."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.store.mkdir(parents=True, exist_ok=True)
        self.host = "127.0.0.1"
        self.ports = free_ports(5)
        self.process: subprocess.Popen[bytes]
        self.log_file = folder / "server.log"

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def _last_words(self) -> str:
        return self.log[-3000:] if self.log_file.exists() else ""

    def manage(self, method: str, target: str) -> tuple[int, object]:
        """A call of TorchServe's management API: the status, and the JSON of the answer."""
        url = f"http://127.0.0.1:{self.ports[1]}{target}"
        asked = urllib.request.Request(url, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def register(
        self, name: str, *, workers: int = 1, also: Sequence[str] = (), **config: object
    ) -> tuple[int, object]:
        """Pack a model of faults and load it, with this configuration (TorchServe's keys)."""
        archive(self.store, name, {"minWorkers": workers, "maxWorkers": workers, **config}, also=also)
        query = f"url={name}.mar&initial_workers={workers}&synchronous=true"
        return self.manage("POST", f"/models?{query}")

    def registered(self, name: str, *, workers: int = 1, also: Sequence[str] = (), **config: object) -> str:
        """``register``, which must succeed. Returns the name."""
        status, told = self.register(name, workers=workers, also=also, **config)
        assert status == 200, told
        until(lambda: len(self.workers(name)) >= workers)
        return name

    def unregister(self, name: str) -> None:
        self.manage("DELETE", f"/models/{name}")

    def describe(self, name: str) -> dict:
        status, told = self.manage("GET", f"/models/{name}")
        assert status == 200, told
        assert isinstance(told, list)
        return told[0]

    def workers(self, name: str) -> list[int]:
        """The process ids of those that have the model."""
        found = self.describe(name)["workers"]
        return [worker["pid"] for worker in found if worker["status"] == "READY" and worker["pid"] > 0]

    def holds(self, **models: int) -> bool:
        """Whether these models have so many workers each."""
        try:
            return all(len(self.workers(name)) == count for name, count in models.items())
        except AssertionError:  # one is not known yet
            return False

    def family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def zombies(self) -> list[psutil.Process]:
        """Processes that ended and that nobody has asked why."""
        found = []
        for each in self.family():
            with suppress(psutil.NoSuchProcess):
                if each.status() == psutil.STATUS_ZOMBIE:
                    found.append(each)
        return found

    def pings(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def await_start(self) -> None:
        def up() -> bool:
            assert self.process.poll() is None, f"{self.name} ended by itself:\n{self._last_words()}"
            return self.pings()

        until(up, within=2 * PATIENCE, every=0.05)

    def kill(self) -> None:
        """End it and all that it started, without kindness."""
        if not hasattr(self, "process"):
            return
        for process in reversed(self.family()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE)


class Mooring(Subject):
    """``mooring serve``, or another of its commands, as a case wants it: with other variables, a command ``before`` it, its ``output``
    elsewhere.
    """

    name = "Mooring"

    def __init__(
        self,
        folder: Path,
        *arguments: str | Path,
        command: str = "serve",
        environ: Mapping[str, str] = {},
        before: Sequence[str] = (),
        output: Path | None = None,
        wait: bool = False,
    ) -> None:
        super().__init__(folder)
        named = zip(("inference", "management", "metrics"), self.ports, strict=False)
        flags = [f"--{name}-address=http://127.0.0.1:{port}" for name, port in named]
        if command == "serve":
            flags += ["--grpc-address=127.0.0.1:0", "--grpc-management-address=127.0.0.1:0"]
            flags += [f"--model-store={self.store}"]
        elif command == "torchserve":
            flags = []
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("MOORING_", "TS_"))
        }
        self._command = [*before, sys.executable, "-m", "mooring", command, *flags, *map(str, arguments)]
        # Of its own, too: the file of TorchServe's process id is there.
        (folder / "tmp").mkdir()
        self._environ = inherited | {"TMPDIR": str(folder / "tmp")} | dict(environ)
        self._output = output or self.log_file
        if not wait:  # for files that are still to be written
            self.start()

    def start(self) -> None:
        """Start it, for the first time or again."""
        with self._output.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=self._environ,
            )  # fmt: skip

    def add(self, *arguments: str) -> None:
        """Start with these as well the next time."""
        self._command += arguments

    def forget(self, arguments: Sequence[str]) -> None:
        """Start without these the next time."""
        self._command = [each for each in self._command if each not in arguments]

    def stop(self) -> int:
        """As an init system would; the exit status. Fails if anything it started is left."""
        family = self.family()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        gone(family)
        return int(status)


class TorchServe(Subject):
    """TorchServe of an installation in a virtual environment; it needs Java."""

    name = "TorchServe"

    def __init__(self, folder: Path, home: Path) -> None:
        super().__init__(folder)
        inference, management, metrics, grpc, grpc_management = self.ports
        config = folder / "config.properties"
        config.write_text(
            f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
            f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={grpc}\n"
            f"grpc_management_port={grpc_management}\n"
        )
        (folder / "tmp").mkdir()
        environ = os.environ | {
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
            "TMPDIR": str(folder / "tmp"),
            "LOG_LOCATION": str(folder / "logs"),
            "METRICS_LOCATION": str(folder / "logs"),
        }
        environ.pop("PYTHONPATH", None)
        command = [
            home / "bin/torchserve",
            "--start",
            "--foreground",
            "--ncs",
            "--disable-token-auth",
            "--enable-model-api",
        ]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--model-store", self.store, "--ts-config", config],
                cwd=folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environ,
            )  # fmt: skip
        self.await_start()


def gone(processes: Sequence[psutil.Process], *, within: float = 3.0) -> None:
    """Fail if any of these still runs after ``within`` seconds."""
    _, alive = psutil.wait_procs(list(processes), timeout=within)
    left = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"left behind: {left}"
