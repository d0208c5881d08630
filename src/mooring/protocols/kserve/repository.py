"""The model repository extension: which models there are, loading and unloading them."""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from mooring.core.buffers import Buffer, Payload, view_of
from mooring.core.errors import InvalidInput, ModelNotFound, MooringError
from mooring.core.service import ModelAdministration, ModelState
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.dialect import V2, Dialect, resolve_name
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve import operations as calls
from mooring.protocols.kserve.bodies import Bodies
from mooring.protocols.load_options import parse_load_options
from mooring.protocols.responses import Responses
from mooring.protocols.status import Target, kserve_v2
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

# Loads or unloads a model as the body of the request says, and answers.
_Work = Callable[[bytes], Coroutine[None, None, None]]

_WRITING = frozenset({"POST"})
_LISTED = {"READY": "READY", "LOADING": "LOADING", "UNLOADING": "UNLOADING"}


class Repository:
    """The extension's endpoints."""

    extensions = ("model_repository", "model_repository(unload_dependents)")

    def __init__(
        self,
        administration: ModelAdministration,
        responses: Responses,
        bodies: Bodies,
        *,
        dialect: Dialect = V2,
    ) -> None:
        self._administration = administration
        self._responses = responses
        self._bodies = bodies
        self._dialect = dialect
        self._answer_tasks = AnswerTasks(responses)

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints. There is one repository, whatever name a path gives it."""
        endpoints = []
        for path, named in (("/v2/repository", ""), ("/v2/repository/{repository_name}", "named_")):
            model = f"{path}/models/{{model_name}}"
            version = f"{model}/versions/{{model_version}}"
            endpoints += [
                Endpoint(f"{path}/index", self.index, Access.INFERENCE, calls.index(named), methods=_WRITING),
                Endpoint(
                    f"{model}/load",
                    self.load,
                    Access.MANAGEMENT,
                    calls.load(named),
                    methods=_WRITING,
                    changes=True,
                ),
                Endpoint(
                    f"{model}/unload",
                    self.unload,
                    Access.MANAGEMENT,
                    calls.unload(named),
                    methods=_WRITING,
                    changes=True,
                ),
                Endpoint(
                    f"{version}/load",
                    self.load,
                    Access.MANAGEMENT,
                    calls.load(f"{named}version_"),
                    methods=_WRITING,
                    changes=True,
                ),
                Endpoint(
                    f"{version}/unload",
                    self.unload,
                    Access.MANAGEMENT,
                    calls.unload(f"{named}version_"),
                    methods=_WRITING,
                    changes=True,
                ),
            ]
        return endpoints

    def index(self, exchange: Exchange, match: Match) -> None:
        """List every version of every model, or with ``{"ready": true}`` those that can answer."""

        def respond(document: dict[str, Any]) -> None:
            ready = document.get("ready", False)
            if type(ready) is not bool:
                raise InvalidInput('"ready" must be true or false')
            states = [state for state in self._administration.index() if state.ready or not ready]
            self._responses.send_json(exchange, [describe_state(state) for state in states])

        self._bodies.take_object(exchange, respond, Target())

    def load(self, exchange: Exchange, match: Match) -> None:
        """Load a model; answered when it is ready."""
        target = self._read_target(match)

        async def load(body: bytes) -> None:
            try:
                options = parse_load_options(body)
                await self._administration.load(
                    *target, config=options.config, files=options.files, parameters=options.parameters
                )
            except MooringError as error:
                raise self._dialect.reword_load_error(error, target.model) from error
            self._responses.send_json(exchange, {"name": target.model, "load": True})

        self._answer_when_done(exchange, target, load)

    def unload(self, exchange: Exchange, match: Match) -> None:
        """Unload a model; answered when its last request is."""
        target = self._read_target(match)

        async def unload(body: bytes) -> None:
            parameters = parse_load_options(body).parameters or {}
            dependents = parameters.get("unload_dependents", False)
            if type(dependents) is not bool:
                raise InvalidInput("parameter 'unload_dependents' must be true or false")
            with suppress(*([ModelNotFound] if self._dialect.unloads_anything else [])):
                await self._administration.unload(*target, dependents=dependents)
            self._responses.send_json(exchange, {"name": target.model, "unload": True})

        self._answer_when_done(exchange, target, unload)

    def _read_target(self, match: Match) -> Target:
        name = match.params["model_name"]
        if self._dialect.workers:
            name = resolve_name(name, self._administration)
        return Target(name, match.params.get("model_version", ""))

    def _answer_when_done(self, exchange: Exchange, target: Target, work: _Work) -> None:
        def refuse(error: MooringError) -> None:
            refusal = kserve_v2(error, target)
            if self._dialect.workers and isinstance(error, ModelNotFound):
                refusal = msgspec.structs.replace(refusal, status=400)
            self._responses.send_refusal(exchange, refusal)

        def respond(body: Payload) -> None:
            text = bytes(view_of(body))
            if isinstance(body, Buffer):
                body.release()
            self._answer_tasks.start(exchange, work(text), refuse)

        self._bodies.take(exchange, respond, refuse)


def describe_state(state: ModelState) -> dict[str, str]:
    """Return a version's entry in the index, with Triton's names of its states."""
    entry = {"name": state.name}
    if state.version:
        entry["version"] = state.version
    if state.state:
        entry["state"] = _LISTED.get(state.state, "UNAVAILABLE")
        entry["reason"] = state.reason or ("" if state.state in _LISTED else state.state.lower())
    return entry
