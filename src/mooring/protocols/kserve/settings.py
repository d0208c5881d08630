"""The logging extension, and the settings of the trace extension, which are kept and shown."""

from collections.abc import Mapping
from typing import Any

from mooring.core.errors import InvalidInput, MooringError
from mooring.core.service import InferenceService, ServerAdministration
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve import operations as calls
from mooring.protocols.kserve.bodies import Bodies
from mooring.protocols.responses import Responses
from mooring.protocols.status import Target, kserve_v2
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_READING, _WRITING = frozenset({"GET", "HEAD"}), frozenset({"POST"})
_SWITCHES = ("log_info", "log_warning", "log_error")
_FORMATS = ("default", "ISO8601")

Setting = str | list[str]
TRACE_DEFAULTS: Mapping[str, Setting] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
_TRACE_LEVELS = frozenset({"OFF", "TIMESTAMPS", "TENSORS"})
_LOWEST = {"trace_rate": 0, "trace_count": -1, "log_frequency": 0}


class LogSettings:
    """The server's log level in Triton's five settings. Levels include each other here: errors are always logged.

    ``file`` is where the log goes, empty for standard error.
    """

    def __init__(self, server: ServerAdministration, file: str = "") -> None:
        self._server = server
        self._file = file
        self._verbose = 1
        self._format = "default"

    def current(self) -> dict[str, Any]:
        """Return all settings by their names in Triton."""
        level = self._server.log_level()
        return {
            "log_file": self._file,
            "log_info": level in {"debug", "info"},
            "log_warning": level in {"debug", "info", "warning"},
            "log_error": True,
            "log_verbose_level": self._verbose if level == "debug" else 0,
            "log_format": self._format,
        }

    def change(self, changes: Mapping[str, Any]) -> None:
        """Apply the settings that are sent; unknown names are ignored, as in Triton.

        Raises ``InvalidInput``, and changes nothing then.
        """
        settings = self.current()
        for name in _SWITCHES:
            settings[name] = value = changes.get(name, settings[name])
            if type(value) is not bool:
                raise InvalidInput(f"'{name}' must be true or false, not {value!r}")
        verbose = changes.get("log_verbose_level", settings["log_verbose_level"])
        if type(verbose) is not int or not 0 <= verbose < 2**31:
            raise InvalidInput(f"'log_verbose_level' must be a whole number from 0, not {verbose!r}")
        log_format = changes.get("log_format", self._format)
        if log_format not in _FORMATS:
            raise InvalidInput(f"'log_format' must be one of {', '.join(_FORMATS)}, not {log_format!r}")
        if changes.get("log_file", self._file) != self._file:
            where = f"'{self._file}'" if self._file else "the server's standard error"
            raise InvalidInput(f"'log_file' cannot be changed while the server runs: the log goes to {where}")
        self._verbose, self._format = verbose or 1, log_format
        if verbose:
            self._server.set_log_level("debug")
        elif settings["log_info"]:
            self._server.set_log_level("info")
        else:
            self._server.set_log_level("warning" if settings["log_warning"] else "error")


class TraceSettings:
    """The global settings, and what models have of their own."""

    def __init__(self) -> None:
        self._all = dict(TRACE_DEFAULTS)
        self._models: dict[str, dict[str, Setting]] = {}

    def current(self, model: str = "") -> dict[str, Setting]:
        """Return the settings that hold for a model, or the global ones."""
        return {**self._all, **self._models.get(model, {})}

    def change(self, changes: Mapping[str, Any], model: str = "") -> None:
        """Apply settings; null resets one: a model's to the global one, a global one to its default.

        Raises ``InvalidInput``, and changes nothing then.
        """
        values = {
            name: None if value is None else _check_setting(name, value, self.current(model))
            for name, value in changes.items()
        }
        for name, value in values.items():
            if value is not None:
                (self._models.setdefault(model, {}) if model else self._all)[name] = value
            elif model:
                self._models.get(model, {}).pop(name, None)
            else:
                self._all[name] = TRACE_DEFAULTS[name]


def _check_setting(name: str, value: Any, current: Mapping[str, Setting]) -> Setting:
    if name not in TRACE_DEFAULTS:
        raise InvalidInput(f"unknown trace setting '{name}'; known are {', '.join(TRACE_DEFAULTS)}")
    if name == "trace_level":
        levels = [value] if isinstance(value, str) else value
        if not isinstance(levels, list) or not levels or not all(level in _TRACE_LEVELS for level in levels):
            raise InvalidInput(
                f"'trace_level' must be a list of {', '.join(sorted(_TRACE_LEVELS))}, not {value!r}"
            )
        return [str(level) for level in levels]
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    text = str(text) if type(text) is int else text
    if name in _LOWEST:
        if not isinstance(text, str) or not text.removeprefix("-").isdecimal() or int(text) < _LOWEST[name]:
            raise InvalidInput(f"'{name}' must be a whole number from {_LOWEST[name]}, not {value!r}")
        return str(int(text))
    if text != current[name]:
        raise InvalidInput(f"'{name}' cannot be changed while the server runs")
    return str(text)


class Settings:
    """The endpoints of both. ``changes`` False refuses what would change anything."""

    extensions = ("logging",)

    def __init__(
        self,
        service: InferenceService,
        log_settings: LogSettings,
        trace: TraceSettings,
        responses: Responses,
        bodies: Bodies,
    ) -> None:
        self._service = service
        self._log = log_settings
        self._trace = trace
        self._responses = responses
        self._bodies = bodies

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints."""
        log, trace, model = "/v2/logging", "/v2/trace/setting", "/v2/models/{model_name}/trace/setting"
        return [
            Endpoint(log, self.log_settings, Access.INFERENCE, calls.LOG_SETTINGS, methods=_READING),
            Endpoint(
                log, self.change_log, Access.MANAGEMENT, calls.CHANGE_LOG, methods=_WRITING, changes=True
            ),
            Endpoint(trace, self.trace_settings, Access.INFERENCE, calls.TRACE_SETTINGS, methods=_READING),
            Endpoint(
                trace,
                self.change_trace,
                Access.MANAGEMENT,
                calls.CHANGE_TRACE,
                methods=_WRITING,
                changes=True,
            ),
            Endpoint(
                model, self.trace_settings, Access.INFERENCE, calls.MODEL_TRACE_SETTINGS, methods=_READING
            ),
            Endpoint(
                model,
                self.change_trace,
                Access.MANAGEMENT,
                calls.CHANGE_MODEL_TRACE,
                methods=_WRITING,
                changes=True,
            ),
        ]

    def log_settings(self, exchange: Exchange, match: Match) -> None:
        """Show the log settings."""
        self._responses.send_json(exchange, self._log.current())

    def change_log(self, exchange: Exchange, match: Match) -> None:
        """Change the log settings, and show the result."""

        def respond(document: dict[str, Any]) -> None:
            self._log.change(document)
            self._responses.send_json(exchange, self._log.current())

        self._bodies.take_object(exchange, respond, Target())

    def trace_settings(self, exchange: Exchange, match: Match) -> None:
        """Show the trace settings."""
        model = match.params.get("model_name", "")
        try:
            self._require_model(model)
        except MooringError as error:
            self._responses.send_refusal(exchange, kserve_v2(error, Target(model)))
        else:
            self._responses.send_json(exchange, self._trace.current(model))

    def change_trace(self, exchange: Exchange, match: Match) -> None:
        """Change the trace settings, and show the result."""
        model = match.params.get("model_name", "")

        def respond(document: dict[str, Any]) -> None:
            self._require_model(model)
            self._trace.change(document, model)
            self._responses.send_json(exchange, self._trace.current(model))

        self._bodies.take_object(exchange, respond, Target(model))

    def _require_model(self, model: str) -> None:
        if model:
            self._service.ready(model)  # ready or not: it is there
