"""log4j's JSON layouts: an object per line, whose values a template says (``{"$resolver": "message"}``)."""

import json
import logging
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mooring.observability.log_output.layouts import details_of, encode_json, message_of, to_plain
from mooring.observability.log_output.patterns import DateFormat, PatternLayout, UnknownPattern, level_of
from mooring.observability.logs import Event

Template = Mapping[str, Any]
_Value = Callable[[logging.LogRecord], Any]

# Syslog's numbers of log4j's levels.
_SEVERITIES = {"FATAL": 2, "ERROR": 3, "WARN": 4, "INFO": 6, "DEBUG": 7}
_ISO = "yyyy-MM-dd'T'HH:mm:ss.SSS'Z'"


class TemplateLayout(logging.Formatter):
    """Writes records as a template says. Resolvers that are not known are left out and listed in ``unknown``."""

    def __init__(self, template: Template) -> None:
        super().__init__()
        self.unknown: list[str] = []
        self._write = self._compile(template)

    def format(self, record: logging.LogRecord) -> str:
        return encode_json(self._write(record))

    def _compile(self, node: Any) -> _Value:
        if isinstance(node, list):
            parts = [self._compile(each) for each in node]
            return lambda record: [part(record) for part in parts]
        if not isinstance(node, dict):
            return lambda _record: node
        if "$resolver" in node:
            return self._find_resolver(node)
        fields = {name: self._compile(value) for name, value in node.items()}

        def write(record: logging.LogRecord) -> dict[str, Any] | None:
            written = {name: value(record) for name, value in fields.items()}
            return {name: value for name, value in written.items() if value is not None} or None

        return write

    def _find_resolver(self, node: Template) -> _Value:
        name = node["$resolver"]
        try:
            if name == "timestamp":
                return _timestamp(node)
            if name == "pattern":
                layout = PatternLayout(f"{node.get('pattern', '%m')}%ex{{none}}")
                self.unknown += layout.unknown
                return layout.format
            if name == "mdc":
                return _facts(node)
            return _RESOLVERS[name, str(node.get("field", ""))]
        except (KeyError, UnknownPattern):
            self.unknown.append(f"the resolver {json.dumps(node)}")
            return lambda _record: None


def _timestamp(node: Template) -> _Value:
    if (epoch := node.get("epoch")) is not None:
        unit = {"secs": 1.0, "millis": 1e3, "micros": 1e6, "nanos": 1e9}[epoch.get("unit", "millis")]
        rounded = epoch.get("rounded", True)
        return lambda record: int(record.created * unit) if rounded else round(record.created * unit, 6)
    pattern = node.get("pattern") or {}
    date = DateFormat(pattern.get("format", _ISO), pattern.get("timeZone", "UTC"))
    return lambda record: date.format(record.created)


def _facts(node: Template) -> _Value:
    key = node.get("key")

    def write(record: logging.LogRecord) -> Any:
        facts = to_plain(record.msg.facts) if isinstance(record.msg, Event) else {}
        return facts.get(key) if key else facts or None

    return write


def _exception_name(record: logging.LogRecord) -> str | None:
    if record.exc_info and record.exc_info[0] is not None:
        return record.exc_info[0].__qualname__
    return _last_line(record).partition(": ")[0] or None


def _exception_message(record: logging.LogRecord) -> str | None:
    if record.exc_info and record.exc_info[1] is not None:
        return str(record.exc_info[1])
    return _last_line(record).partition(": ")[2] or None


def _last_line(record: logging.LogRecord) -> str:
    return (details_of(record).splitlines() or [""])[-1]


def _severity(record: logging.LogRecord) -> int:
    return _SEVERITIES.get(level_of(record), 6)


_RESOLVERS: Mapping[tuple[str, str], _Value] = MappingProxyType(
    {
        ("level", "name"): level_of,
        ("level", ""): level_of,
        ("level", "severity"): _severity,
        ("logger", "name"): lambda record: record.name,
        ("logger", "fqcn"): lambda _record: "mooring",
        ("thread", "name"): lambda record: record.threadName,
        ("thread", "id"): lambda record: record.thread,
        ("thread", "priority"): lambda _record: 5,
        ("message", ""): message_of,
        ("exception", "className"): _exception_name,
        ("exception", "message"): _exception_message,
        ("exception", "stackTrace"): lambda record: details_of(record) or None,
        ("exceptionRootCause", "className"): _exception_name,
        ("exceptionRootCause", "message"): _exception_message,
        ("exceptionRootCause", "stackTrace"): lambda record: details_of(record) or None,
        ("source", "fileName"): lambda record: record.filename or None,
        ("source", "lineNumber"): lambda record: record.lineno or None,
        ("source", "methodName"): lambda record: record.funcName,
        ("source", "className"): lambda record: record.module,
        ("endOfBatch", ""): lambda _record: False,
        ("ndc", ""): lambda _record: None,
        ("marker", "name"): lambda _record: None,
        ("seconds", ""): lambda record: int(record.created),
        ("nanos", ""): lambda record: int(record.created % 1 * 1e9),
    }
)


def _resolver(name: str, field: str = "", **more: Any) -> dict[str, Any]:
    return {"$resolver": name, **({"field": field} if field else {}), **more}


def json_layout(*, millis: bool, context: bool, more: Template) -> dict[str, Any]:
    """Return the template of log4j's JsonLayout; with ``millis`` its time is a number, with ``context`` facts are in it."""
    time = {"timeMillis": _resolver("timestamp", epoch={"unit": "millis"})}
    instant = {"instant": {"epochSecond": _resolver("seconds"), "nanoOfSecond": _resolver("nanos")}}
    return {
        **(time if millis else instant),
        "thread": _resolver("thread", "name"),
        "level": _resolver("level", "name"),
        "loggerName": _resolver("logger", "name"),
        "message": _resolver("message"),
        "thrown": {
            "message": _resolver("exception", "message"),
            "name": _resolver("exception", "className"),
            "extendedStackTrace": _resolver("exception", "stackTrace"),
        },
        "endOfBatch": _resolver("endOfBatch"),
        "loggerFqcn": _resolver("logger", "fqcn"),
        **({"contextMap": _resolver("mdc")} if context else {}),
        "threadId": _resolver("thread", "id"),
        "threadPriority": _resolver("thread", "priority"),
        **more,
    }


def named_template(name: str) -> dict[str, Any] | None:
    """Return one of the templates that come with log4j, such as ``EcsLayout.json``; None for another name."""
    utc = _resolver("timestamp", pattern={"format": _ISO, "timeZone": "UTC"})
    message, stack = _resolver("message"), _resolver("exception", "stackTrace")
    level, logger, thread = (
        _resolver("level", "name"),
        _resolver("logger", "name"),
        _resolver("thread", "name"),
    )
    error, reason = _resolver("exception", "className"), _resolver("exception", "message")
    templates: dict[str, dict[str, Any]] = {
        "EcsLayout.json": {
            "@timestamp": utc, "ecs.version": "1.2.0", "log.level": level, "message": message,
            "process.thread.name": thread, "log.logger": logger, "labels": _resolver("mdc"), "error.type": error,
            "error.message": reason, "error.stack_trace": stack,
        },
        "LogstashJsonEventLayoutV1.json": {
            "mdc": _resolver("mdc"),
            "exception": {"exception_class": error, "exception_message": reason, "stacktrace": stack},
            "line_number": _resolver("source", "lineNumber"), "class": _resolver("source", "className"), "@version": 1,
            "source_host": socket.gethostname(), "message": message, "thread_name": thread, "@timestamp": utc,
            "level": level, "file": _resolver("source", "fileName"), "method": _resolver("source", "methodName"),
            "logger_name": logger,
        },
        "GelfLayout.json": {
            "version": "1.1", "host": socket.gethostname(), "short_message": message, "full_message": stack,
            "timestamp": _resolver("timestamp", epoch={"unit": "secs", "rounded": False}),
            "level": _resolver("level", "severity"), "_logger": logger, "_thread": thread, "_mdc": _resolver("mdc"),
        },
        "GcpLayout.json": {
            "timestamp": utc, "severity": level, "message": message,
            "logging.googleapis.com/labels": _resolver("mdc"), "_exception": {
                "class": error, "message": reason, "stackTrace": stack}, "_thread": thread, "_logger": logger,
        },
        "JsonLayout.json": json_layout(millis=False, context=True, more={}),
    }  # fmt: skip
    return templates.get(name)
