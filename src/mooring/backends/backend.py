"""The interface of backends, and how one is made by its name."""

import abc
import importlib
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mooring.core.errors import ModelLoadFailed
from mooring.core.requests import InferenceRequest
from mooring.core.service import Joining, LoadContext, ModelAccess, ModelMetadata, Outcome, Reply
from mooring.repository.platforms import CLASSES
from mooring.repository.spec import ModelSpec

if TYPE_CHECKING:
    import asyncio  # 30 ms that most workers need not spend

T = TypeVar("T")


class Concurrent(abc.ABC):
    """A loaded model that takes any number of batches at once. All its coroutines run on ``loop``."""

    loop: "asyncio.AbstractEventLoop"
    # Whether requests of one message are answered together. A model that joins them itself gets each by itself.
    joins_requests = True

    def serve(self, serve_forever: Callable[[], None]) -> None:
        """Call ``serve_forever``, which runs ``loop`` until no request can come any more.

        A model whose code needs this thread calls it on another one.
        """
        serve_forever()

    @abc.abstractmethod
    async def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch as ``Backend.infer``, while others run. It is cancelled with its requests, and when its time is over.

        The model's own code must have no view of the requests' memory, which is given back as soon as they are
        answered: a coroutine may go on for longer.
        """


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, and return its result. Raises ``RuntimeError`` where it waits.

    Plain models and models that wait share one way through a batch, which is a coroutine.
    """
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        result: T = stopped.value
        return result
    raise RuntimeError("a plain model cannot wait for anything")


class Stepwise(abc.ABC):
    """A loaded model that works on requests step by step: others join and leave between any two steps."""

    @abc.abstractmethod
    def run_step(self, requests: Sequence[InferenceRequest], started: int, reply: Reply) -> Sequence[Outcome]:
        """Run one step and return an outcome for every request, in order. A piece of a request that goes on is not ``final``.

        The first ``started`` requests have been in a step before, in this order; a request that is not among them any
        more was cancelled. Raising fails all of them, because the effects of a step cannot be repeated.
        """


class Backend(abc.ABC):
    """One model in one worker. Calls come one at a time, from one thread.

    ``overlap`` is set by ``load`` for a model that takes requests while others run; ``infer`` is only asked then for
    what is no prediction.
    """

    overlap: Concurrent | Stepwise | None = None
    # The reason why a process that has loaded the model must not be forked; empty where there is none.
    fork_unsafe_reason: str = ""
    # Whether requests are joined, for a model that is a file; set by ``load``.
    joining: Joining | None = None
    # The server's other models, for code that may call them; set before ``load``, or before ``after_fork``.
    models: ModelAccess | None = None
    # Names of exception classes that are the client's mistake; ``load`` may set some, the configuration adds its own.
    client_errors: frozenset[str] = frozenset()
    # Whether requests, or a request of many instances, came that joining would have made faster.
    missed_joining = False
    # Whether it notes its calls of the model in ``CallTimes``; else a whole batch counts as the call.
    notes_calls = False

    @abc.abstractmethod
    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Make the model ready to infer. Raises ``ModelLoadFailed``; anything else raised is a fault of its code."""

    @abc.abstractmethod
    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch: one outcome per request, in order.

        All requests are of one operation, and of at most ``spec.batching.max_batch_size`` rows together (a single
        request may have more). A request that is at fault gets its own error as its outcome. Raising instead fails the
        whole batch; the worker then runs every request once more by itself, so that only the bad one fails.
        """

    def after_fork(self, context: LoadContext) -> None:  # noqa: B027 - most have no number of threads to set
        """Prepare a worker that was forked from the process which loaded the model.

        It is the first call in that worker.
        """

    def join_requests(self) -> None:  # noqa: B027 - of most it is known from the start
        """Let requests share calls from now on: their rows were shown to be independent.

        Called between two calls of the model.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Release files and threads. Nothing is called afterwards."""


def create_backend(name: str) -> Backend:
    """Create a backend by its name, or by ``package.module:Class`` for a user's own. Its model is not loaded yet.

    Raises ``ModelLoadFailed`` for an unknown name.
    """
    path = CLASSES.get(name, name)
    if ":" not in path:
        raise ModelLoadFailed(f"unknown backend '{name}'; known are {', '.join(sorted(CLASSES))}")
    module, _, attribute = path.partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend
