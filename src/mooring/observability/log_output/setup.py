"""Connects the loggers of this process with their outputs, once, at its start.

A start of ours logs to standard error. A start of TorchServe's command (``log_folder`` is set) logs to standard output and to
TorchServe's files, in TorchServe's lines. The access log, for one, is written like this, whether there is a file or not::

    get_logger(ACCESS_LOG).info("request", method="GET", path="/ping", status=200)

or, where the lines of TorchServe's files have another form than event and facts::

    logging.getLogger(ACCESS_LOG).info(Event("request", facts, line='/127.0.0.1:5 "GET /ping HTTP/1.1" 200 1'))
"""

import logging
import os
import sys
from pathlib import Path

from mooring.config.settings import Config
from mooring.config.torchserve_keys import system_properties
from mooring.observability.log_output.console import Console
from mooring.observability.log_output.files import NO_ROTATION, RotatedFile
from mooring.observability.log_output.layouts import JsonLayout, TextLayout
from mooring.observability.log_output.routes import ALL, NAMES, Output, Routes, torchserve_routes
from mooring.observability.logs import LEVELS, LOGS, MODEL_LOG, MODEL_METRICS, TS_METRICS


def setup_logging(config: Config, *, first: bool = True) -> list[str]:
    """Send the log of this process where the settings say; return what is to be warned of, a line each.

    The server's and the models' lines count from ``log_level`` up, where a configuration of log4j asks for no less, those of
    libraries from warnings up. A file that cannot be opened is left out. Only the ``first`` process empties files or begins
    new ones at the start. Raises ``ConfigError`` for a configuration that cannot be read.
    """
    warnings: list[str] = []
    routes = _find_routes(config, warnings)
    if routes is None:
        output, refused_file = _open_log(config.log_file)
        output.setFormatter(JsonLayout() if config.log_format == "json" else TextLayout())
        _connect("", logging.WARNING, [output])
        for name in NAMES:
            if name:
                _connect(name, logging.INFO if name in LOGS else logging.NOTSET, None)
        set_log_level(config.log_level)
        refused = refused_file | _open_metrics_files(config)
    else:
        refused = _apply_routes(routes if first else routes.appending(), config.log_level)
    for reason, files in refused.items():
        warnings.append(f"log files left out: {', '.join(map(str, files))} ({reason})")
    return warnings


def add_reader(reader: logging.Handler) -> None:
    """Have a handler see the records of the server and of models, beside the outputs; call it after ``setup_logging``."""
    for name in ("mooring", MODEL_LOG):
        logging.getLogger(name).addHandler(reader)


def set_log_level(level: str) -> None:
    """Set the level of the server's log and of what models log; ``level`` is a key of ``LEVELS``."""
    for name in ("mooring", MODEL_LOG):
        logging.getLogger(name).setLevel(_least_level(name, level))


def _least_level(name: str, level: str) -> int:
    """Return the level from which a logger's records count.

    Models log from INFO up. One that asks for more in its code has it, as with TorchServe, unless the log is quieter than that.
    """
    least = LEVELS[level]
    return ALL if name == MODEL_LOG and least <= logging.INFO else least


def _find_routes(config: Config, warnings: list[str]) -> Routes | None:
    """Return what goes to which output; None where all of it goes to standard error."""
    if config.log_config is not None:
        from mooring.observability.log_output.log4j import read_log_config  # noqa: PLC0415 - most starts have none

        system = system_properties(config.vmargs)
        routes, not_understood = read_log_config(config.log_config, os.environ, system)
        if not_understood:
            warnings.append(f"{config.log_config}: not applicable here: {', '.join(not_understood)}")
        return routes
    if config.log_folder is not None:
        folder = config.log_folder
        return torchserve_routes(folder, config.metrics_folder or folder, config.log_format)
    return None


def _open_log(file: Path | None) -> tuple[logging.Handler, dict[str, list[Path]]]:
    """Return the log's output; standard error where there is no file, or one that cannot be opened, with the reason."""
    if file is None:
        return Console(sys.stderr), {}
    try:
        return RotatedFile(file, NO_ROTATION), {}
    except OSError as error:
        return Console(sys.stderr), {str(error.strerror): [file]}


def _open_metrics_files(config: Config) -> dict[str, list[Path]]:
    """Connect the logs of metrics with files of their own where ``metrics_folder`` says so.

    Return the files that cannot be opened, by the reason.
    """
    folder, refused = config.metrics_folder, dict[str, list[Path]]()
    if folder is not None and config.metrics_mode != "prometheus":
        outputs = torchserve_routes(folder, folder, config.log_format).outputs
        for name in (TS_METRICS, MODEL_METRICS):
            output = outputs[name.lower()]
            try:
                _connect(name, logging.INFO, [_open_output(output)])
            except OSError as error:
                refused.setdefault(str(error.strerror), []).append(folder / f"{name.lower()}.log")
    return refused


def _apply_routes(routes: Routes, log_level: str) -> dict[str, list[Path]]:
    """Connect every logger with its outputs; return the files that cannot be opened, by the reason."""
    handlers: dict[str, logging.Handler] = {}
    refused: dict[str, list[Path]] = {}
    for name, output in routes.outputs.items():
        try:
            handlers[name] = _open_output(output)
        except OSError as error:
            assert output.file is not None
            refused.setdefault(str(error.strerror), []).append(output.file)
    for name, theirs in NAMES.items():
        chosen = [
            handlers[each] if not level else LevelGate(handlers[each], level)
            for each, level in routes.outputs_of(theirs).items()
            if each in handlers
        ]
        level = routes.level_of(theirs)
        if name in {"mooring", MODEL_LOG}:
            level = max(level, _least_level(name, log_level))
        _connect(name, level if name else max(level, logging.WARNING), chosen)
    return refused


class LevelGate(logging.Handler):
    """Passes a logger's records on to an output that others have, too, from a level up."""

    def __init__(self, output: logging.Handler, level: int) -> None:
        super().__init__(level)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= self._output.level:
            self._output.handle(record)


def _open_output(output: Output) -> logging.Handler:
    handler: logging.Handler
    if output.file is None:
        handler = Console(sys.stderr if output.stderr else sys.stdout)
    else:
        handler = RotatedFile(output.file, output.rotation, append=output.append)
    handler.setFormatter(output.layout)
    handler.setLevel(output.level)
    return handler


def _connect(name: str, level: int, handlers: list[logging.Handler] | None) -> None:
    """Give a logger its handlers; with None it uses those of the root."""
    logger = logging.getLogger(name)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)
    logger.propagate = handlers is None
    for handler in handlers or ():
        logger.addHandler(handler)
