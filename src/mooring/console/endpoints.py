"""The endpoints of the console on the inference address: the page, what it reads, and what it changes."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from mooring.console.answers import encode, send_document, send_json
from mooring.console.event_streams import EventStreams
from mooring.console.live_state import LiveState
from mooring.console.secrets import hide_secrets
from mooring.console.static_files import StaticFiles
from mooring.observability.recent import MAX_ERRORS, RecentRecords, as_documents
from mooring.protocols.access import Check
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

PATH = "/console"
API = f"{PATH}/api"
# Seconds for which a reading of the state serves whoever asks, where nobody watches.
_FRESH = 0.5
_MOST_LINES = 500
_GET = frozenset({"GET"})


class ConsoleEndpoints:
    """The console of one server. It is not in the OpenAPI document: its interface is the page's own, and changes with it.

    ``state`` makes the document of the state, ``recent`` has what was logged, ``secrets`` returns the texts that are to be
    hidden in it.
    """

    def __init__(
        self,
        responses: Responses,
        state: LiveState,
        recent: RecentRecords,
        secrets: Callable[[], Sequence[str]],
    ) -> None:
        self._responses = responses
        self._state = state
        self._recent = recent
        self._secrets = secrets
        self._files = StaticFiles(responses)
        self._encoded = b""
        self._encoded_at = 0.0
        self.streams = EventStreams(responses, recent, self._read_state, self._read_fresh_state, self._hide)

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints."""
        return [
            *self._files.endpoints(),
            _reading("state", self.send_state),
            _reading("events", self.send_events),
            _reading("logs", self.send_logs),
            _reading("errors", self.send_errors),
        ]

    def set_check(self, check: Check | None) -> None:
        """Set the check of tokens on the console's address: streams end whose token holds no more."""
        self.streams.check = check

    def send_state(self, exchange: Exchange, _match: Match) -> None:
        """Answer with what the server and its models do now."""
        send_json(self._responses, exchange, self._read_fresh_state())

    def send_events(self, exchange: Exchange, _match: Match) -> None:
        """Answer with a stream of events."""
        self.streams.open(exchange)

    def send_logs(self, exchange: Exchange, _match: Match) -> None:
        """Answer with the last lines of the log, oldest first."""
        lines = self._hide(as_documents(self._recent.lines_after(0, _MOST_LINES)))
        send_document(self._responses, exchange, {"lines": lines})

    def send_errors(self, exchange: Exchange, _match: Match) -> None:
        """Answer with the last errors, newest first."""
        errors = self._hide(as_documents(self._recent.errors_after(0, MAX_ERRORS)))
        send_document(self._responses, exchange, {"errors": errors[::-1]})

    def _read_fresh_state(self) -> bytes:
        """Return the last reading where it is young enough, and where streams have one each second; else a new one."""
        age = time.monotonic() - self._encoded_at
        return self._encoded if self._encoded and (self.streams.count or age < _FRESH) else self._read_state()

    def _read_state(self) -> bytes:
        self._encoded = encode(self._state.read())
        self._encoded_at = time.monotonic()
        return self._encoded

    def _hide(self, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return hide_secrets(documents, self._secrets())


def _reading(name: str, handler: Callable[[Exchange, Match], None]) -> Endpoint:
    return Endpoint(f"{API}/{name}", handler, Access.MANAGEMENT, methods=_GET, same_site=True)
