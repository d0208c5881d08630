"""What a worker needs of a model's code, and which kind of model gets which code."""

import abc
import importlib
from collections.abc import Mapping, Sequence

import msgspec

from mooring.core.errors import ModelLoadFailed
from mooring.core.requests import InferenceRequest
from mooring.core.service import ModelMetadata, Outcome, Reply
from mooring.repository.spec import ModelSpec


class LoadContext(msgspec.Struct, frozen=True):
    """Where a model is loaded. ``threads`` is how many its libraries may use; ``gpu`` None means the CPU."""

    worker: str = ""
    threads: int = 1
    gpu: int | None = None


class Backend(abc.ABC):
    """One model in one worker. Calls come one at a time, from one thread."""

    @abc.abstractmethod
    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Make the model ready to infer. Raises ``ModelLoadFailed``; anything else raised is a fault of its code."""

    @abc.abstractmethod
    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch: one outcome per request, in order.

        All requests are of one operation, and of at most ``spec.max_batch_size`` rows together (a single request may
        have more). A request that is at fault gets its own error as its outcome. Raising instead fails the whole
        batch; the worker then runs every request once more by itself, so that only the bad one fails.
        """

    def close(self) -> None:
        """Let go of files and threads; nothing is called afterwards."""


# Imported when the first model of the kind is loaded, in the worker, never in the server.
_BACKENDS: Mapping[str, str] = {
    "handler": "mooring.backends.handler.backend:HandlerBackend",
    "function": "mooring.backends.function:FunctionBackend",
    "builtin": "mooring.backends.builtin:BuiltinBackend",
}

# What a template process imports before it forks workers of a backend (docs/decisions: fork or spawn).
PRELOAD: Mapping[str, tuple[str, ...]] = {
    "handler": ("torch", "mooring.backends.handler.backend"),
    "function": ("numpy", "mooring.backends.function"),
    "builtin": ("numpy", "mooring.backends.builtin"),
}


def create(name: str) -> Backend:
    """A backend by its name, not loaded yet. Raises ``ModelLoadFailed`` for a name nobody knows."""
    where = _BACKENDS.get(name)
    if where is None:
        raise ModelLoadFailed(f"unknown backend '{name}'; known are {', '.join(sorted(_BACKENDS))}")
    module, _, attribute = where.partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend
