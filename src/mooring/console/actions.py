"""What the page changes: models are loaded, unloaded, scaled, registered, and given a default version."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from mooring.config.settings import Config
from mooring.console.answers import send_document, send_error
from mooring.core.buffers import Buffer, view_of
from mooring.core.errors import (
    FetchFailed,
    InvalidInput,
    LoadingDisabled,
    MooringError,
    SourceRefused,
)
from mooring.core.service import ModelAdministration, Registration
from mooring.core.validation import explain_decoding
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.protocols.status import Target, kserve_v2
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_POST = frozenset({"POST"})
_MAX_BODY = 65_536  # bytes of JSON, which is read on the event loop
_STATUSES: dict[type[MooringError], int] = {LoadingDisabled: 403, SourceRefused: 403, FetchFailed: 400}


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Why a start does not let its clients change models; each text is empty where they may.

    ``load`` is about loading and unloading, ``register`` about archives of the store, ``scale`` about the number of workers
    and the default version.
    """

    load: str = ""
    register: str = ""
    scale: str = ""


def rules_of(config: Config) -> Rules:
    """Return what the settings say: the page may do no more than the clients of the other interfaces."""
    off = "{what} is not allowed here: {setting} is off; start with {remedy}"
    load = register = scale = ""
    if not config.enable_repository_api:  # Triton's --model-control-mode none and poll
        load = off.format(
            what="loading or unloading a model",
            setting="enable_repository_api",
            remedy="enable_repository_api = true (mooring tritonserver --model-control-mode explicit)",
        )
        register = load
        if not config.enable_management_api:
            scale = load.replace("loading or unloading", "changing")
    chosen = config.enable_model_api
    if not (config.inference_address.loopback if chosen is None else chosen):
        remedy = "enable_model_api = true (--enable-model-api)"
        register = register or off.format(
            what="registering a model", setting="enable_model_api", remedy=remedy
        )
        if chosen is False:
            load = load or off.format(
                what="loading or unloading a model", setting="enable_model_api", remedy=remedy
            )
    return Rules(load=load, register=register, scale=scale)


class VersionBody(msgspec.Struct, forbid_unknown_fields=True):
    """The version that is meant; empty for the default one or for all."""

    version: str = ""


class ScaleBody(msgspec.Struct, forbid_unknown_fields=True):
    """How many workers a version is to have."""

    min_workers: int
    max_workers: int
    version: str = ""


class RegisterBody(msgspec.Struct, forbid_unknown_fields=True):
    """The archive of the store, and the name that its model is to have; empty for its own."""

    url: str
    name: str = ""


B = TypeVar("B")


class Actions:
    """The endpoints that change something. ``on_change`` is called when they have."""

    def __init__(
        self,
        models: ModelAdministration,
        responses: Responses,
        rules: Rules,
        on_change: Callable[[], None],
    ) -> None:
        self._models = models
        self._responses = responses
        self._rules = rules
        self._on_change = on_change
        self._answer_tasks = AnswerTasks(responses)

    def endpoints(self, api: str) -> list[Endpoint]:
        """Return the endpoints, below the path of the console's interface."""
        model = f"{api}/models/{{model_name}}"
        calls = {
            f"{model}/load": self.load,
            f"{model}/unload": self.unload,
            f"{model}/scale": self.scale,
            f"{model}/default": self.set_default,
            f"{api}/models": self.register,
        }
        return [
            Endpoint(pattern, handler, Access.MANAGEMENT, methods=_POST, changes=True, same_site=True)
            for pattern, handler in calls.items()
        ]

    def load(self, exchange: Exchange, match: Match) -> None:
        """Load a model of the repository or of the store; answered when it is ready."""

        async def load(name: str, body: VersionBody) -> None:
            await self._models.load(name, body.version)

        self._answer(exchange, match, VersionBody, self._rules.load, load)

    def unload(self, exchange: Exchange, match: Match) -> None:
        """Unload a model or a version; answered when its last request is."""

        async def unload(name: str, body: VersionBody) -> None:
            await self._models.unload(name, body.version)

        self._answer(exchange, match, VersionBody, self._rules.load, unload)

    def scale(self, exchange: Exchange, match: Match) -> None:
        """Have so many workers; answered when they are there."""

        async def scale(name: str, body: ScaleBody) -> None:
            least, most = body.min_workers, body.max_workers
            if not 0 <= least <= most:
                raise InvalidInput(
                    f"min_workers and max_workers are {least} and {most}: give numbers from 0, the first not above the second"
                )
            await self._models.scale(name, body.version, least=least, most=most)

        self._answer(exchange, match, ScaleBody, self._rules.scale, scale)

    def set_default(self, exchange: Exchange, match: Match) -> None:
        """Set the version that answers who names none."""

        async def set_default(name: str, body: VersionBody) -> None:
            if not body.version:
                raise InvalidInput("version is missing: name the version that is to be the default one")
            await self._models.set_default(name, body.version)

        self._answer(exchange, match, VersionBody, self._rules.scale, set_default)

    def register(self, exchange: Exchange, match: Match) -> None:
        """Register an archive of the model store; answered when its workers are there."""

        async def register(_name: str, body: RegisterBody) -> None:
            await self._models.register(Registration(url=body.url, name=body.name))

        self._answer(exchange, match, RegisterBody, self._rules.register, register)

    def _answer(
        self,
        exchange: Exchange,
        match: Match,
        kind: type[B],
        refusal: str,
        act: Callable[[str, B], Coroutine[Any, Any, None]],
    ) -> None:
        """Do what a request asks, and answer ``{"done": true}`` or why it was not done."""
        name = match.params.get("model_name", "")
        if refusal:
            send_error(self._responses, exchange, 403, refusal)
            return
        content_type = exchange.header(b"content-type") or b""
        if content_type.partition(b";")[0].strip().lower() != b"application/json":
            # A form of another site could send any other type without being asked first.
            text = "send the body as JSON, with content-type: application/json"
            send_error(self._responses, exchange, 415, text)
            return

        def refuse(error: MooringError) -> None:
            self._on_change()  # a load that failed has a reason now
            status, text = describe_error(error, Target(name))
            send_error(self._responses, exchange, status, text)

        try:
            body = _decode(exchange, kind)
        except InvalidInput as error:
            refuse(error)
            return

        async def run() -> None:
            await act(name, body)
            self._on_change()
            send_document(self._responses, exchange, {"done": True})

        self._answer_tasks.start(exchange, run(), refuse)


def describe_error(error: MooringError, target: Target) -> tuple[int, str]:
    """Return the status and the text of an error."""
    refusal = kserve_v2(error, target)
    return _STATUSES.get(type(error), refusal.status), refusal.error or refusal.message


def _decode(exchange: Exchange, kind: type[B]) -> B:
    """Return what the body says. Raises ``InvalidInput``."""
    payload = exchange.take_body()
    try:
        if len(payload) > _MAX_BODY:
            raise InvalidInput(f"the body has {len(payload)} bytes, and may have {_MAX_BODY}")
        body = bytes(view_of(payload))
    finally:
        if isinstance(payload, Buffer):
            payload.release()
    try:
        return msgspec.json.decode(body.strip() or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(
            f"the body is not as it should be: {explain_decoding(error, kind, null=False)}"
        ) from None
