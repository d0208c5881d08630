"""What AMD's server offers beside v2: which hardware there is, models loaded by name, and workers loaded by kind."""

from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated

import msgspec
from msgspec import Meta

from mooring.core.errors import InvalidInput, ModelLoadFailed, ModelNotFound, MooringError
from mooring.core.service import ModelAdministration, ServerAdministration
from mooring.protocols.amd import operations as calls
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.load_options import parse_load_options, parse_parameters
from mooring.protocols.responses import Responses
from mooring.protocols.status import Refusal, Target, kserve_v2
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_POST = frozenset({"POST"})
# Clients take the body as it is, whatever this says: it is AMD's.
_TEXT = "text/html; charset=utf-8"


class _Hardware(msgspec.Struct):
    name: str = ""
    num: Annotated[int, Meta(ge=0)] = 1


_hardware = msgspec.json.Decoder(_Hardware)


def _refusal(error: MooringError, asked: Target) -> Refusal:
    refusal = kserve_v2(error, asked)
    # Its clients know one status of a request that cannot be met, whatever the reason.
    if isinstance(error, (InvalidInput, ModelNotFound, ModelLoadFailed)):
        return msgspec.structs.replace(refusal, status=400)
    return refusal


class AmdAdministration:
    """``/v2/hardware``, ``/v2/workers`` and the loads and unloads under ``/v2/models``.

    Unloading what is not there succeeds, as with AMD's server: its clients unload twice and ask no questions.
    """

    def __init__(
        self,
        administration: ModelAdministration,
        server: ServerAdministration,
        responses: Responses,
    ) -> None:
        self._administration = administration
        self._server = server
        self._responses = responses
        self._answer_tasks = AnswerTasks(responses)

    def endpoints(self) -> list[Endpoint]:
        """Everything mounted. What ``/v2/repository`` has of this is the repository extension's."""
        model, versioned = "/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"
        return [
            Endpoint("/v2/hardware", self.has_hardware, Access.INFERENCE, calls.HARDWARE, methods=_POST),
            Endpoint(f"{model}/load", self.load, Access.MANAGEMENT, calls.LOAD, methods=_POST, changes=True),
            Endpoint(
                f"{versioned}/load",
                self.load,
                Access.MANAGEMENT,
                calls.LOAD_VERSION,
                methods=_POST,
                changes=True,
            ),
            Endpoint(
                f"{model}/unload", self.unload, Access.MANAGEMENT, calls.UNLOAD, methods=_POST, changes=True
            ),
            Endpoint(
                f"{versioned}/unload",
                self.unload,
                Access.MANAGEMENT,
                calls.UNLOAD_VERSION,
                methods=_POST,
                changes=True,
            ),
            Endpoint(
                "/v2/workers/{worker_name}/load",
                self.load_worker,
                Access.MANAGEMENT,
                calls.LOAD_WORKER,
                methods=_POST,
                changes=True,
            ),
            Endpoint(
                "/v2/workers/{worker_name}/unload",
                self.unload_worker,
                Access.MANAGEMENT,
                calls.UNLOAD_WORKER,
                methods=_POST,
                changes=True,
            ),
        ]

    def has_hardware(self, exchange: Exchange, match: Match) -> None:
        """200 where there are at least as many devices of that name, else 404; neither has a body."""
        try:
            asked = _hardware.decode(bytes(exchange.body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            wrong = InvalidInput(f'the body must be a JSON object with "name" and "num": {error}')
            self._responses.send_refusal(exchange, _refusal(wrong, Target()))
            return
        found = self._server.devices().get(asked.name, 0)
        self._nothing(exchange, 200 if found and found >= asked.num else 404)

    def load(self, exchange: Exchange, match: Match) -> None:
        """Load a model of the repository; answered when it is ready."""

        async def load(asked: Target, body: bytes) -> None:
            options = parse_load_options(body)
            await self._administration.load(
                asked.model,
                asked.version,
                config=options.config,
                files=options.files,
                parameters=options.parameters,
            )
            self._nothing(exchange)

        asked = self._read_target(match)
        self._answer(exchange, asked, load(asked, bytes(exchange.body)))

    def unload(self, exchange: Exchange, match: Match) -> None:
        """Unload a model, whatever the body says."""

        async def unload(asked: Target) -> None:
            with suppress(ModelNotFound):
                await self._administration.unload(asked.model, asked.version)
            self._nothing(exchange)

        asked = self._read_target(match)
        self._answer(exchange, asked, unload(asked))

    def load_worker(self, exchange: Exchange, match: Match) -> None:
        """Load a worker by its kind; the body of the answer is its endpoint and nothing else."""

        async def load(worker: str, body: bytes) -> None:
            endpoint = await self._administration.load_worker(worker, parse_parameters(body))
            self._responses.send_body(exchange, endpoint.encode(), _TEXT)

        worker = match.params["worker_name"].lower()
        self._answer(exchange, Target(worker), load(worker, bytes(exchange.body)))

    def unload_worker(self, exchange: Exchange, match: Match) -> None:
        """Take one instance from an endpoint, whatever the body says."""

        async def unload(endpoint: str) -> None:
            with suppress(ModelNotFound):
                await self._administration.unload_worker(endpoint)
            self._nothing(exchange)

        endpoint = self._spelled(match.params["worker_name"])
        self._answer(exchange, Target(endpoint), unload(endpoint))

    def _answer(self, exchange: Exchange, asked: Target, work: Coroutine[None, None, None]) -> None:
        def refuse(error: MooringError) -> None:
            self._responses.send_refusal(exchange, _refusal(error, asked))

        self._answer_tasks.start(exchange, work, refuse)

    def _nothing(self, exchange: Exchange, status: int = 200) -> None:
        self._responses.counter.count(status)
        exchange.respond(status, b"", self._responses.build_head(self._responses.read_request_id(exchange)))

    def _read_target(self, match: Match) -> Target:
        return Target(self._spelled(match.params["model_name"]), match.params.get("model_version", ""))

    def _spelled(self, name: str) -> str:
        return spelled(name, self._administration)


def spelled(name: str, administration: ModelAdministration) -> str:
    """A model's name as it is known: AMD's server lowers every name it loads, so one that nobody has but in lower
    case is meant so.
    """
    lower = name.lower()
    if lower == name:
        return name
    known = {state.name for state in administration.index()}
    return lower if lower in known and name not in known else name
