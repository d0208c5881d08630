"""AMD's extensions of v2 over HTTP: hardware, loads and unloads of models by name, and of workers by kind."""

from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated

import msgspec
from msgspec import Meta

from mooring.core.errors import InvalidInput, ModelLoadFailed, ModelNotFound, MooringError
from mooring.core.service import ModelAdministration, ServerAdministration
from mooring.core.validation import explain_decoding
from mooring.protocols.amd import operations as calls
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.dialect import resolve_name
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.load_options import parse_load_options, parse_parameters
from mooring.protocols.responses import Responses
from mooring.protocols.status import Refusal, Target, kserve_v2
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_POST_ONLY = frozenset({"POST"})
# AMD's content type, although the body is plain text; its clients do not look at it.
_TEXT = "text/html; charset=utf-8"


class _Hardware(msgspec.Struct):
    name: str = ""
    num: Annotated[int, Meta(ge=0)] = 1


_hardware_decoder = msgspec.json.Decoder(_Hardware)


def _to_refusal(error: MooringError, target: Target) -> Refusal:
    refusal = kserve_v2(error, target)
    # AMD's clients expect 400 for every request that cannot be met.
    if isinstance(error, (InvalidInput, ModelNotFound, ModelLoadFailed)):
        return msgspec.structs.replace(refusal, status=400)
    return refusal


class AmdAdministration:
    """``/v2/hardware``, ``/v2/workers`` and the loads and unloads under ``/v2/models``.

    Unloading a model that is not loaded succeeds, as with AMD's server: its clients unload twice.
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
        """Return the endpoints; those under ``/v2/repository`` belong to the repository extension."""
        model, versioned = "/v2/models/{model_name}", "/v2/models/{model_name}/versions/{model_version}"
        return [
            Endpoint("/v2/hardware", self.has_hardware, Access.INFERENCE, calls.HARDWARE, methods=_POST_ONLY),
            Endpoint(
                f"{model}/load", self.load, Access.MANAGEMENT, calls.LOAD, methods=_POST_ONLY, changes=True
            ),
            Endpoint(
                f"{versioned}/load",
                self.load,
                Access.MANAGEMENT,
                calls.LOAD_VERSION,
                methods=_POST_ONLY,
                changes=True,
            ),
            Endpoint(
                f"{model}/unload",
                self.unload,
                Access.MANAGEMENT,
                calls.UNLOAD,
                methods=_POST_ONLY,
                changes=True,
            ),
            Endpoint(
                f"{versioned}/unload",
                self.unload,
                Access.MANAGEMENT,
                calls.UNLOAD_VERSION,
                methods=_POST_ONLY,
                changes=True,
            ),
            Endpoint(
                "/v2/workers/{worker_name}/load",
                self.load_worker,
                Access.MANAGEMENT,
                calls.LOAD_WORKER,
                methods=_POST_ONLY,
                changes=True,
            ),
            Endpoint(
                "/v2/workers/{worker_name}/unload",
                self.unload_worker,
                Access.MANAGEMENT,
                calls.UNLOAD_WORKER,
                methods=_POST_ONLY,
                changes=True,
            ),
        ]

    def has_hardware(self, exchange: Exchange, match: Match) -> None:
        """Answer 200 if there are at least ``num`` devices of that name, else 404; neither has a body."""
        try:
            target = _hardware_decoder.decode(bytes(exchange.body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            refused = InvalidInput(
                f'the body must be a JSON object with "name" and "num": {explain_decoding(error)}'
            )
            self._responses.send_refusal(exchange, _to_refusal(refused, Target()))
            return
        count = self._server.devices().get(target.name, 0)
        self._send_empty(exchange, 200 if count and count >= target.num else 404)

    def load(self, exchange: Exchange, match: Match) -> None:
        """Load a model of the repository and answer when it is ready."""

        async def load(target: Target, body: bytes) -> None:
            options = parse_load_options(body)
            await self._administration.load(
                target.model,
                target.version,
                config=options.config,
                files=options.files,
                parameters=options.parameters,
            )
            self._send_empty(exchange)

        target = self._read_target(match)
        self._start_answer(exchange, target, load(target, bytes(exchange.body)))

    def unload(self, exchange: Exchange, match: Match) -> None:
        """Unload a model; the body is ignored."""

        async def unload(target: Target) -> None:
            with suppress(ModelNotFound):
                await self._administration.unload(target.model, target.version)
            self._send_empty(exchange)

        target = self._read_target(match)
        self._start_answer(exchange, target, unload(target))

    def load_worker(self, exchange: Exchange, match: Match) -> None:
        """Load a worker by its kind; the body of the answer is its endpoint's name."""

        async def load(worker: str, body: bytes) -> None:
            endpoint = await self._administration.load_worker(worker, parse_parameters(body))
            self._responses.send_body(exchange, endpoint.encode(), _TEXT)

        worker = match.params["worker_name"].lower()
        self._start_answer(exchange, Target(worker), load(worker, bytes(exchange.body)))

    def unload_worker(self, exchange: Exchange, match: Match) -> None:
        """Remove one instance of an endpoint; the body is ignored."""

        async def unload(endpoint: str) -> None:
            with suppress(ModelNotFound):
                await self._administration.unload_worker(endpoint)
            self._send_empty(exchange)

        endpoint = self._resolve_name(match.params["worker_name"])
        self._start_answer(exchange, Target(endpoint), unload(endpoint))

    def _start_answer(self, exchange: Exchange, target: Target, work: Coroutine[None, None, None]) -> None:
        def refuse(error: MooringError) -> None:
            self._responses.send_refusal(exchange, _to_refusal(error, target))

        self._answer_tasks.start(exchange, work, refuse)

    def _send_empty(self, exchange: Exchange, status: int = 200) -> None:
        self._responses.counter.count(status)
        exchange.respond(status, b"", self._responses.build_head(self._responses.read_request_id(exchange)))

    def _read_target(self, match: Match) -> Target:
        return Target(self._resolve_name(match.params["model_name"]), match.params.get("model_version", ""))

    def _resolve_name(self, name: str) -> str:
        return resolve_name(name, self._administration)
