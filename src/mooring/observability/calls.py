"""The calls of clients, as the access log and metrics that are lines report them.

    a listener begins a call ──▶ the engine says what became of its requests ──▶ the listener ends it ──▶ ``CallLog``

Only a server with an access log, or with metrics that are lines, makes an ``ObservedCall``.
"""

import functools
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import msgspec

from mooring.observability.logs import Event, format_fact

GRPC = "gRPC"
"""The method of every call over gRPC, as TorchServe has it in its access log."""

CLIENT_GONE = 499
"""The status of a call over HTTP whose client went away before it was answered: nginx's number, since there is no answer."""

_URL = re.compile(r"(?<=[?&]url=)[^&]*")
_BARE = re.compile(r"(?<=[?&])[^=&]+(?=&|$)")
_SECRET = re.compile(r"([?&][^=&]*(?:token|secret|pass|pwd|sig|key|auth|cred)[^=&]*=)[^&]+", re.IGNORECASE)
_ANSWERED_ID = re.compile(rb"\r\nx-request-id: ([^\r]+)\r\n")
_USER = re.compile(r"(?<=://)[^/?#]*@")


class ModelCall(NamedTuple):
    """What the engine knows of a request that has ended: seconds in the queue, and of the call of the model with its rows."""

    queue: float
    rows: int
    batch_rows: int = 0
    seconds: float = 0.0


class _CallBasis(msgspec.Struct, eq=False):
    """What is known of a call when it begins; given without a keyword."""

    client: str
    method: str
    target: bytes
    protocol: str
    began: float
    on_end: "Callable[[ObservedCall], None] | None"


class ObservedCall(_CallBasis, eq=False, kw_only=True):
    """One call of a client, from the moment when it was received to the end of its answer. Times are in seconds.

    ``client`` is its address with the port, empty on a unix socket; ``began`` is on the monotonic clock. ``status`` is 0
    until there is one. ``broken_off`` says that the client does not have the whole answer. ``model``, ``version``,
    ``request_id`` and ``model_call`` are those of its last request for a model; of several, such as those of a stream,
    ``requests`` says how many there were. ``head`` is what the head of an answer over HTTP begins with.
    """

    status: int = 0
    broken_off: bool = False
    seconds: float = 0.0
    requests: int = 0
    model: str = ""
    version: str = ""
    request_id: str = ""
    model_call: ModelCall | None = None
    head: bytes = b""

    def end(self) -> None:
        """End the call. A second end does nothing."""
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            self.seconds = time.monotonic() - self.began
            on_end(self)

    def to_event(self) -> Event:
        """Return the call as the loggers take it."""
        return _CallEvent(self)

    def to_torchserve_line(self) -> str:
        """Return the call as TorchServe's access log has it."""
        client = f"/{self.client}" if self.client else "0.0.0.0"  # noqa: S104 - as TorchServe names unix sockets
        path = _path_for_log(self.target)
        return f'{client} "{self.method} {path} {self.protocol}" {self.status} {self.seconds * 1000:.0f}'

    def to_text(self) -> str:
        """Return the call as our access log has it in plain text: the event ``request`` with ``to_facts``."""
        text = (
            f"request method={self.method} path={_fact_of_path(self.target)} protocol={self.protocol}"
            f" status={self.status} ms={self.seconds * 1000:.3f} client={self.client or 'unix'}"
        )
        if self.broken_off:
            text += " broken_off=True"
        if self.model:
            text += f" model={_fact(self.model)} version={_fact(self.version)}"
        if request_id := self.request_id or self._answered_id():
            text += f" request={format_fact(request_id)}"
        if self.requests > 1:
            text += f" requests={self.requests}"
        call = self.model_call
        if call is not None:
            text += f" queue_ms={call.queue * 1000:.3f} rows={call.rows}"
            if call.batch_rows:
                text += f" batch_rows={call.batch_rows} inference_ms={call.seconds * 1000:.3f}"
        return text

    def to_facts(self) -> dict[str, Any]:
        """Return the call as our access log has it; times are in milliseconds there."""
        facts: dict[str, Any] = {
            "method": self.method,
            "path": _path_for_log(self.target),
            "protocol": self.protocol,
            "status": self.status,
            "ms": round(self.seconds * 1000, 3),
            "client": self.client or "unix",
        }
        if self.broken_off:
            facts["broken_off"] = True
        if self.model:
            facts["model"] = self.model
            facts["version"] = self.version
        if request_id := self.request_id or self._answered_id():
            facts["request"] = request_id
        if self.requests > 1:
            facts["requests"] = self.requests
        call = self.model_call
        if call is not None:
            facts["queue_ms"] = round(call.queue * 1000, 3)
            facts["rows"] = call.rows
            if call.batch_rows:
                facts["batch_rows"] = call.batch_rows
                facts["inference_ms"] = round(call.seconds * 1000, 3)
        return facts

    def _answered_id(self) -> str:
        """Return the id that the answer names, where no model was asked."""
        match = _ANSWERED_ID.search(self.head)
        return match[1].decode("latin-1") if match is not None else ""


class _CallEvent(Event):
    """A call as an event, whose text is made where it is needed: no output has both forms."""

    __slots__ = ("_call",)

    def __init__(self, call: ObservedCall) -> None:
        self.name, self.detail, self.text = "request", "", ""
        self._call = call

    def __str__(self) -> str:
        return self._call.to_text()

    @property
    def facts(self) -> dict[str, Any]:  # type: ignore[override]
        return self._call.to_facts()

    @property
    def line(self) -> str:  # type: ignore[override]
        return self._call.to_torchserve_line()


CURRENT: ContextVar[ObservedCall | None] = ContextVar("call", default=None)
"""The call that is being served here, where calls are observed; tasks that it starts have it, too."""


def path_for_log(target: bytes) -> str:
    """Return a request's target as it may be logged: an archive's URL in it loses password and signature.

    So do parameters whose names say that they are secret, and those without a name. What cannot be printed is escaped.

    >>> path_for_log(b"/models?url=https://me:secret@a.example/m.mar?sig=secret&more=secret")
    '/models?url=https://a.example/m.mar'
    >>> path_for_log(b"/models?url=m.mar&initial_workers=1")
    '/models?url=m.mar&initial_workers=1'
    >>> path_for_log(b"/predictions/m?token=secret&a=1")
    '/predictions/m?token=...&a=1'
    >>> path_for_log(b"/predictions/m?secret")
    '/predictions/m?...'
    """
    text = target.decode("latin-1")
    if "url=" in text and (match := _URL.search(text)) is not None:
        text = _hide_secrets(text, match)
    if "?" in text:
        text = _BARE.sub("...", _SECRET.sub(r"\1...", text))
    if "@" in text:
        text = _USER.sub("", text)
    if not text.isprintable() or '"' in text:
        text = "".join(sign if sign.isprintable() and sign != '"' else f"%{ord(sign):02X}" for sign in text)
    return text


@functools.lru_cache(1024)
def _path_for_log(target: bytes) -> str:
    return path_for_log(target)


@functools.lru_cache(1024)
def _fact_of_path(target: bytes) -> str:
    return format_fact(path_for_log(target))


_fact = functools.lru_cache(1024)(format_fact)


def _hide_secrets(text: str, match: re.Match[str]) -> str:
    url = unquote(match[0])
    address, *query = re.split(r"[?#]", url, maxsplit=1)
    scheme, separator, rest = address.partition("://")
    plain = f"{scheme}{separator}{rest.rpartition('@')[2]}"
    if plain == url:
        return text
    # Of a URL that was not quoted, what follows its question mark may be its signature, too.
    tail = "" if query and "%" not in match[0] else text[match.end() :]
    return text[: match.start()] + quote(plain, safe="/:") + tail
