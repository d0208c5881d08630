"""TorchServe's launcher: it starts a server for a notebook or a test, hands over what that prints, and stops it."""

import subprocess
import sys
from queue import Full, Queue
from typing import Any

import httpx

from mooring.child_server import ServerProcess

_COMMAND = (sys.executable, "-m", "mooring", "torchserve")
_STARTED = "Model server started"
_MODELS = "http://localhost:8081/models"
_MAX_LINES = 1000  # that wait for whoever reads them


def start(
    model_store: str | None = None,
    snapshot_file: str | None = None,
    no_config_snapshots: bool = False,
    plugin_folder: str | None = None,
    disable_token: bool = False,
    models: str | None = None,
    enable_model_api: bool = False,
) -> "Queue[str | None]":
    """Stop the server that runs, start one with these flags of ``torchserve``, and return when it says that it is up.

    It goes on when this process ends. What it prints is printed here, and comes out of the queue, too, line by line; None
    ends it. A server that does not start has printed why.
    """
    stop()
    options = {
        "--model-store": model_store,
        "--ts-config": snapshot_file,
        "--plugins-path": plugin_folder,
        "--models": models,
    }
    flags = {
        "--no-config-snapshots": no_config_snapshots,
        "--disable-token-auth": disable_token,
        "--enable-model-api": enable_model_api,
    }
    command = ["torchserve", "--start", *(name for name, given in flags.items() if given)]
    for name, value in options.items():
        if value:
            command += [name, str(value)]
    lines: Queue[str | None] = Queue(_MAX_LINES)
    started = False

    def show(line: str) -> None:
        print(line.strip())  # noqa: T201 - what the server prints is its caller's to see
        if started:
            _offer(lines, line)

    server = ServerProcess(command, show=show)
    server.show_until(_STARTED)
    started = True
    server.keep_showing(ended=lambda: _end(lines))
    return lines


def stop(wait: bool = True) -> None:
    """Stop the server that runs; with ``wait`` return when it is gone."""
    subprocess.run([*_COMMAND, "--stop", *(["--foreground"] if wait else [])], check=False)  # noqa: S603 - our own command


def register_model(model_name: str, url: str) -> httpx.Response:
    """Register a model at the default management address, with one worker, and return the answer when that is ready."""
    return register_model_with_params(
        {"model_name": model_name, "url": url, "initial_workers": "1", "synchronous": "true"}
    )


def register_model_with_params(params: Any) -> httpx.Response:
    """Register a model with these parameters (a dict, or pairs)."""
    return httpx.post(_MODELS, params=params, timeout=None)  # noqa: S113 - a model may take minutes to load


def _end(lines: "Queue[str | None]") -> None:
    while not _offer(lines, None):  # whoever reads must see the end, and nobody reads a full queue any more
        lines.get()


def _offer(lines: "Queue[str | None]", line: str | None) -> bool:
    try:
        lines.put_nowait(line)
    except Full:
        return False
    return True
