"""What ``${...}`` means in a configuration of log4j: its properties, the environment, Java's properties, a date."""

import re
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from mooring.observability.log_output.patterns import DateFormat, UnknownPattern

# An expression with none inside it.
_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
_DEEPEST = 20
# Characters of a text in which expressions are still replaced: properties that hold others twice double it each time.
_LONGEST = 65_536


class Lookups:
    """Replaces expressions. Those that have no value and no default become empty and are listed in ``unknown``.

    ``environ`` is what ``${env:NAME}`` means, ``system`` what ``${sys:NAME}`` does beside a few names of Java's;
    ``properties`` are filled from the configuration.

    >>> Lookups({"LOG_LOCATION": "/var/log"}, {}).resolve("${env:LOG_LOCATION:-logs}/${sys:app:-ts}.log")
    '/var/log/ts.log'
    """

    def __init__(self, environ: Mapping[str, str], system: Mapping[str, str]) -> None:
        self.properties: dict[str, str] = {}
        self.unknown: list[str] = []
        self._environ = environ
        self._system = {
            "java.io.tmpdir": tempfile.gettempdir(),
            "user.dir": str(Path.cwd()),
            "user.home": str(Path.home()),
            "hostName": socket.gethostname(),
            "file.separator": "/",
            # TorchServe's command has set these for log4j 1.
            **{name: environ.get(name) or "logs" for name in ("LOG_LOCATION", "METRICS_LOCATION")},
            **system,
        }

    def resolve(self, text: str, *, keep_dates: bool = False) -> str:
        """Return the text with every expression replaced; with ``keep_dates``, ``${date:dd}`` becomes ``%d{dd}``."""
        text = text.replace("$${", "${")  # what log4j looks up later on
        for _ in range(_DEEPEST):
            changed = _INNERMOST.sub(lambda match: self._look_up(match[1], keep_dates=keep_dates), text)
            if changed == text:
                break
            text = changed
            if len(text) > _LONGEST:
                self.unknown.append(f"an expression that becomes longer than {_LONGEST} characters")
                return ""
        return text

    def _look_up(self, expression: str, *, keep_dates: bool) -> str:
        name, there, default = expression.partition(":-")
        prefix, _, key = name.rpartition(":")
        value: str | None
        match prefix.lower():
            case "":
                value = self.properties.get(key, self._system.get(key))
            case "env":
                value = self._environ.get(key)
            case "sys":
                value = self._system.get(key)
            case "date" if keep_dates:
                value = f"%d{{{key}}}"
            case "date":
                value = _format_now(key)
            case _:
                value = None
        if value is not None:
            return value
        if not there:
            self.unknown.append(f"${{{expression}}}")
        return default


def _format_now(pattern: str) -> str | None:
    try:
        return DateFormat(pattern).format(time.time())
    except UnknownPattern:
        return None
