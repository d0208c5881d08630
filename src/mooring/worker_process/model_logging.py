"""Python's ``logging`` in a worker: what a model logs from INFO up reaches the server with its level, logger and requests.

Models written for TorchServe expect that: its worker sends the root logger's records from INFO up to standard output. A model
that configures logging itself replaces this, and its lines are text like those that it prints.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mooring.core.requests import InferenceRequest
from mooring.ipc.log_records import MAX_REQUESTS, ModelRecord, encode_record

# What ``basicConfig`` may be told without asking for another form or place.
_LEVEL_ONLY = {"level", "force", "encoding", "errors"}


class RunningRequests:
    """The requests that the model works on at the moment, in every thread of a worker that runs one call at a time."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests: Sequence[InferenceRequest] = ()


running = RunningRequests()
# The same where calls overlap: those of the task that asks.
requests_of_call: ContextVar[Sequence[InferenceRequest]] = ContextVar("requests_of_call")


class ServerHandler(logging.Handler):
    """Sends records to the server over the worker's output; ``fd`` is a descriptor of its own for it."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if _is_shown(record, self):
                return
            line = encode_record(_to_model_record(record))
        except Exception:  # such as arguments that do not fit the message, which is the model's to know
            self.handleError(record)
            return
        rest = memoryview(line)
        with suppress(OSError):  # the server has gone
            while rest:
                rest = rest[os.write(self.fd, rest) :]


_handler: ServerHandler | None = None


def install_handler(output: int) -> None:
    """Have the root logger's records from INFO up sent over the descriptor ``output``.

    In a worker that was forked with its model, only the descriptor is replaced: the model may have configured logging.
    """
    global _handler
    fd = os.dup(output)
    if _handler is not None:
        os.close(_handler.fd)
        _handler.fd = fd
        return
    _handler = ServerHandler(fd)
    logging.root.addHandler(_handler)
    logging.root.setLevel(logging.INFO)
    logging.basicConfig = _yielding(_handler, logging.basicConfig)


def show_debug() -> None:
    """Have records of all levels sent."""
    logging.root.setLevel(logging.DEBUG)


def show_warnings_only() -> None:
    """Have only records from WARNING up sent, whatever the level of the loggers."""
    if _handler is not None:
        _handler.setLevel(logging.WARNING)


def _yielding(ours: ServerHandler, configure: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``logging.basicConfig``, which does nothing where the root has a handler, so that ours makes way."""

    def basicConfig(**options: Any) -> None:  # noqa: N802 - the name that it replaces
        if ours in logging.root.handlers and options.keys() <= _LEVEL_ONLY:
            if options.get("force"):
                logging.root.handlers[:] = [ours]
            if options.get("level") is not None:
                logging.root.setLevel(options["level"])
            return
        logging.root.removeHandler(ours)
        configure(**options)

    return basicConfig


def _is_shown(record: logging.LogRecord, ours: logging.Handler) -> bool:
    """Whether a handler of the model's own writes the record to standard output or error already."""
    logger: logging.Logger | None = logging.getLogger(str(record.name))
    while logger is not None:
        for handler in logger.handlers:
            if handler is not ours and record.levelno >= handler.level and _stream_of(handler) in _STREAMS:
                return True
        if not logger.propagate:
            break
        logger = logger.parent
    return False


def _stream_of(handler: logging.Handler) -> object:
    stream = getattr(handler, "stream", None)
    return stream if stream is not None else getattr(getattr(handler, "console", None), "file", None)


class _StandardStreams:
    """Standard output and error, also where the model has replaced them."""

    def __contains__(self, stream: object) -> bool:
        return stream is not None and any(
            stream is each for each in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
        )


_STREAMS = _StandardStreams()
_FORMATTER = logging.Formatter()


def _name_for_people(logger: str) -> str:
    """Return the name of a logger, by its file where it is called as a model's module, which has a private name."""
    module, *rest = logger.split(".")
    path = getattr(sys.modules.get(module), "__file__", None) if module.startswith("_mooring_") else None
    return ".".join((Path(path).stem, *rest)) if path else logger


def _to_model_record(record: logging.LogRecord) -> ModelRecord:
    requests = requests_of_call.get(running.requests)
    parts = []
    if record.exc_info:
        parts.append(record.exc_text or _FORMATTER.formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return ModelRecord(
        record.levelno,
        str(record.levelname),
        _name_for_people(str(record.name)),
        record.getMessage(),
        "\n".join(parts),
        len(requests),
        [request.id for request in requests[:MAX_REQUESTS] if request.id],
    )
