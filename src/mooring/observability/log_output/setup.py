"""Connects the loggers of this process with their outputs, once, at its start.

A start of ours logs to standard error. A start of TorchServe's command (``log_folder`` is set) logs to standard output and to
TorchServe's files, in TorchServe's lines. The access log, for one, is written like this, whether there is a file or not::

    get_logger(ACCESS_LOG).info("request", method="GET", path="/ping", status=200)

or, where the lines of TorchServe's files have another form than event and facts::

    logging.getLogger(ACCESS_LOG).info(Event("request", facts, line='/127.0.0.1:5 "GET /ping HTTP/1.1" 200 1'))
"""

import logging
from pathlib import Path

from mooring.config.settings import Config
from mooring.observability.log_output.console import Console
from mooring.observability.log_output.files import RotatedFile
from mooring.observability.log_output.layouts import JsonLayout, TextLayout
from mooring.observability.log_output.routes import NAMES, Output, Routes, torchserve_routes
from mooring.observability.logs import LEVELS, LOGS, MODEL_LOG, get_logger

log = get_logger(__name__)


def setup_logging(config: Config) -> None:
    """Send the log of this process where the settings say: the server's and the models' from ``log_level`` up, that of
    libraries from warnings up. A file that cannot be opened is left out, with a warning.
    """
    if config.log_folder is None:
        console = Console(stderr=True)
        console.setFormatter(JsonLayout() if config.log_format == "json" else TextLayout())
        _connect("", logging.WARNING, [console])
        for name in NAMES:
            if name:
                _connect(name, logging.INFO if name in LOGS else logging.NOTSET, None)
        set_log_level(config.log_level)
        return
    folder = config.log_folder
    routes = torchserve_routes(folder, config.metrics_folder or folder, config.log_format)
    refused = _apply_routes(routes)
    set_log_level(config.log_level)
    for reason, files in refused.items():
        log.warning("log files left out", files=files, reason=reason)


def set_log_level(level: str) -> None:
    """Set the level of the server's log and of what models log; ``level`` is a key of ``LEVELS``."""
    for name in ("mooring", MODEL_LOG):
        logging.getLogger(name).setLevel(LEVELS[level])


def _apply_routes(routes: Routes) -> dict[str, list[Path]]:
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
        chosen = [handlers[each] for each in routes.outputs_of(theirs) if each in handlers]
        level = routes.level_of(theirs)
        _connect(name, level if name else max(level, logging.WARNING), chosen)
    return refused


def _open_output(output: Output) -> logging.Handler:
    handler: logging.Handler
    if output.file is None:
        handler = Console(stderr=output.stderr)
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
