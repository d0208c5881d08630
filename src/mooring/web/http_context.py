"""What a listener for HTTP/1.1 gives to its connections, beside what every listener gives."""

from collections.abc import Callable
from typing import Protocol

from mooring.observability.call_log import CallLog
from mooring.web.exchange import Exchange
from mooring.web.known_heads import KnownHead
from mooring.web.listener import ListenerContext

App = Callable[[Exchange], None]
ErrorRenderer = Callable[[int, str, str, bytes, bytes | None], tuple[bytes, bytes]]
"""Renders what a connection refuses by itself: status, kind, message, target and origin, as far as that was read, to
body and head. The origin is None where the app has had the request."""
AdmissionCheck = Callable[[Exchange], App | None]
"""Called with a head whose body is still to come: the app that refuses the request without it, or None to receive it."""


class HttpContext(ListenerContext, Protocol):
    """What the HTTP connections of one listener share.

    ``known_heads`` maps the bytes of a head to what the parser made of it. ``valid_hosts`` are the values of ``host``
    that were checked before. Targets that begin with ``root`` lose it. ``calls`` logs every request, unless it is None.
    """

    app: App
    render_error: ErrorRenderer
    admission_check: AdmissionCheck | None
    secure: bool
    root: bytes
    valid_hosts: set[bytes]
    known_heads: dict[bytes, KnownHead]
    calls: CallLog | None
