"""The endpoints of the console on the inference address: the page, what it reads, and what it changes."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from mooring.console.actions import Actions, Rules, describe_error
from mooring.console.answers import encode, send_document, send_error, send_json
from mooring.console.event_streams import EventStreams
from mooring.console.live_state import LiveState
from mooring.console.model_details import FindExample, describe_version
from mooring.console.secrets import hide_secrets
from mooring.console.static_files import StaticFiles
from mooring.core.errors import MooringError
from mooring.core.service import InferenceService, ModelAdministration
from mooring.observability.recent import MAX_ERRORS, RecentRecords, as_documents
from mooring.protocols.access import Check
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.protocols.status import Target
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
    hidden in it. ``settings`` returns the settings in force, ``find_example`` a request for a version. ``rules`` say what may
    not be changed.
    """

    def __init__(
        self,
        responses: Responses,
        service: InferenceService,
        models: ModelAdministration,
        state: LiveState,
        recent: RecentRecords,
        *,
        secrets: Callable[[], Sequence[str]],
        settings: Callable[[], list[dict[str, Any]]],
        find_example: FindExample,
        rules: Rules,
    ) -> None:
        self._responses = responses
        self._service = service
        self._models = models
        self._state = state
        self._settings = settings
        self._find_example = find_example
        self._actions = Actions(models, responses, rules, self._on_change)
        self._recent = recent
        self._secrets = secrets
        self._files = StaticFiles(responses)
        self._encoded = b""
        self._encoded_at = 0.0
        self._answer_tasks = AnswerTasks(responses)
        self.streams = EventStreams(
            responses, recent, self._read_in_turns, self._read_fresh_state, self._hide
        )

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints."""
        return [
            *self._files.endpoints(),
            _reading("state", self.send_state),
            _reading("events", self.send_events),
            _reading("logs", self.send_logs),
            _reading("errors", self.send_errors),
            _reading("settings", self.send_settings),
            _reading("models/{model_name}/versions/{model_version}", self.send_version),
            *self._actions.endpoints(API),
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

    def send_settings(self, exchange: Exchange, _match: Match) -> None:
        """Answer with the settings in force."""
        send_document(self._responses, exchange, {"settings": self._settings()})

    def send_version(self, exchange: Exchange, match: Match) -> None:
        """Answer with all that is known of one version of a model."""
        target = Target(match.params["model_name"], match.params["model_version"])

        async def answer() -> None:
            document = await describe_version(self._service, self._models, self._find_example, *target)
            send_document(self._responses, exchange, document)

        def refuse(error: MooringError) -> None:
            send_error(self._responses, exchange, *describe_error(error, target))

        self._answer_tasks.start(exchange, answer(), refuse)

    def _on_change(self) -> None:
        """Show at the next reading what was loaded or unloaded, or why it was not."""
        self._state.forget_index()
        self._encoded = b""

    def _read_fresh_state(self) -> bytes:
        """Return the last reading where it is young enough, and where streams have one each second; else a new one."""
        age = time.monotonic() - self._encoded_at
        return self._encoded if self._encoded and (self.streams.count or age < _FRESH) else self._read_state()

    def _read_state(self) -> bytes:
        return self._keep(self._state.read())

    async def _read_in_turns(self) -> bytes:
        return self._keep(await self._state.read_in_turns())

    def _keep(self, document: dict[str, Any]) -> bytes:
        self._encoded = encode(document)
        self._encoded_at = time.monotonic()
        return self._encoded

    def _hide(self, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return hide_secrets(documents, self._secrets())


def _reading(name: str, handler: Callable[[Exchange, Match], None]) -> Endpoint:
    return Endpoint(f"{API}/{name}", handler, Access.MANAGEMENT, methods=_GET, same_site=True)
