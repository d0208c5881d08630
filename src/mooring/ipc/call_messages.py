"""The messages between a worker whose model calls other models, and the server, on a socket of their own."""

from typing import Any

import msgspec

from mooring.core.errors import ErrorRecord
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.ipc.messages import MessageDecoder, MessageEncoder


class Call(msgspec.Struct, array_like=True, tag="call"):
    """A request that the model ``caller`` sends to another model."""

    key: int
    caller: str
    request: InferenceRequest


class CancelCall(msgspec.Struct, array_like=True, tag="cancel"):
    """Nobody waits for the answer any more."""

    key: int


class LoadModel(msgspec.Struct, array_like=True, tag="load"):
    """Load a model of the repository, or the one that ``files`` are, with this configuration over its own."""

    key: int
    caller: str
    model: str
    files: dict[str, bytes]
    config: dict[str, Any] | None


class UnloadModel(msgspec.Struct, array_like=True, tag="unload"):
    """Unload a model, and with ``dependents`` what only it uses."""

    key: int
    caller: str
    model: str
    dependents: bool


class AskReady(msgspec.Struct, array_like=True, tag="ready"):
    """Ask whether a model can answer."""

    key: int
    model: str
    version: str


class CallOutcome(msgspec.Struct, array_like=True, tag="outcome"):
    """The answer to a call, a piece of it, or the error that ends it."""

    key: int
    outcome: InferenceResponse | ErrorRecord


class Done(msgspec.Struct, array_like=True, tag="done"):
    """The answer to any other message: its error, or whether the model can answer."""

    key: int
    ready: bool = False
    error: ErrorRecord | None = None


ToModels = Call | CancelCall | LoadModel | UnloadModel | AskReady
ToCaller = CallOutcome | Done


class CallCodec(MessageEncoder):
    """Encodes and decodes these messages. No payload travels as a slot of shared memory."""

    def __init__(self) -> None:
        super().__init__()
        self.to_models = MessageDecoder(ToModels).decode
        self.to_caller = MessageDecoder(ToCaller).decode
