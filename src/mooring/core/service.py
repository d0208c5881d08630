"""What protocols may know of the engine, and what a model's code may know of the server."""

import abc
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from mooring.core.errors import MooringError
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import TensorSpec

Outcome = InferenceResponse | MooringError
Done = Callable[[Outcome], None]
"""Receives every piece of a streamed answer (``final`` False) and then, exactly once, the last piece or an error."""


class ModelMetadata(msgspec.Struct, frozen=True):
    """What a loaded model says of itself. Handlers declare no tensors."""

    name: str
    versions: list[str] = []
    platform: str = ""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []


class ModelState(msgspec.Struct, frozen=True):
    """One version of a model as the index and the readiness probes see it."""

    name: str
    version: str
    state: str
    ready: bool
    is_default: bool
    reason: str = ""


class Ticket(Protocol):
    """A request on its way."""

    def cancel(self) -> None:
        """Nobody waits any more: ``done`` is not called again. Queued work is dropped, running work is told."""
        ...


class InferenceService(abc.ABC):
    """Asks models. The engine is one, and so is a client of another server."""

    @abc.abstractmethod
    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        """Send a request on its way. ``done`` may be called before this returns; every refusal goes there too.

        No coroutine and no task: this is the fast path. Must be called on the event loop's thread. The payloads of
        the request are released by the service once the request has been answered.
        """

    @abc.abstractmethod
    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether a model (or with no name: every model asked for) can answer now.

        Raises ``ModelNotFound`` or ``VersionNotFound``.
        """

    @abc.abstractmethod
    def healthy(self) -> bool:
        """Whether every default version has as many live workers as it was given (TorchServe's /ping)."""

    @abc.abstractmethod
    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What a loaded model says of itself. Raises ``ModelNotFound``, ``VersionNotFound`` or ``ModelNotReady``."""

    @abc.abstractmethod
    def models(self) -> Sequence[ModelState]:
        """Every version of every model, sorted by name, then version in order of registration."""


class Reply(Protocol):
    """What a worker passes into every ``Backend.infer``. ``row`` is the index of a request in the batch."""

    def emit(self, row: int, piece: InferenceResponse) -> None:
        """Send a piece of a streamed answer now; the value returned at the end is the last piece."""
        ...

    def cancelled(self, row: int) -> bool:
        """Whether nobody waits for this request any more."""
        ...

    def metric(self, name: str, value: float, unit: str, kind: str, dimensions: dict[str, str]) -> None:
        """Record a metric of the model's own. ``kind`` is counter, gauge or histogram."""
        ...


class WorkerDescription(msgspec.Struct, frozen=True):
    """One worker process. ``started`` is in seconds since the epoch, ``memory`` in bytes."""

    id: str
    pid: int
    state: str
    started: float
    memory: int


class ModelDescription(msgspec.Struct, frozen=True):
    """Everything there is to tell of one version. Times are in seconds.

    ``reason`` is why it is not ready, in a line; ``detail`` the last traceback of its workers.
    """

    name: str
    version: str
    url: str
    state: str
    is_default: bool
    reason: str
    detail: str
    runtime: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_delay: float
    response_timeout: float
    startup_timeout: float
    retry_timeout: float
    client_timeout: float
    queue_size: int
    pending: int
    loaded_at_startup: bool
    workers: list[WorkerDescription]


class ModelAdministration(abc.ABC):
    """What an operator may see of the models, and later change."""

    @abc.abstractmethod
    def describe(self, model: str, version: str = "") -> Sequence[ModelDescription]:
        """One version (by default the default one), or with version "all" every one of them.

        Raises ``ModelNotFound`` or ``VersionNotFound``.
        """
