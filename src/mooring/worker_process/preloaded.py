"""A model that is loaded before the fork, so that its workers share its pages and are ready as soon as they are born.

Only a process with a single thread may be forked, so what loading started decides: where the library has made a pool of
threads, or the model's device is no CPU, every worker loads the model by itself (docs/decisions/0021-models-loaded-once.md).
"""

import ctypes
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mooring.backends.backend import Backend, create_backend
from mooring.core.errors import MooringError
from mooring.core.service import ModelMetadata
from mooring.ipc.framing import Frames
from mooring.ipc.messages import Codec, Load, Trial
from mooring.worker_process.outcomes import line_of


@dataclass(frozen=True, slots=True)
class Preloaded:
    """A model as its template has it."""

    backend: Backend
    metadata: ModelMetadata


def receive_order(control: socket.socket) -> Load | Trial:
    """The first message on a control socket; nothing comes after it until it is answered. Raises ``EOFError``."""
    frames, codec = Frames(), Codec()
    while frames.receive(control):
        for frame in frames:
            message = codec.to_worker(frame)
            assert isinstance(message, Load | Trial)
            return message
    raise EOFError


def preload_model(load: Load) -> Preloaded | str:
    """Load the model in this process, which has one thread; else why it cannot be forked with it. Linux only."""
    try:
        backend = create_backend(load.spec.backend)
        metadata = backend.load(load.spec, load.context)
    except Exception as error:  # the worker will meet the same, and report it
        return f"loading failed: {error.message if isinstance(error, MooringError) else line_of(error)}"
    if backend.fork_unsafe_reason:
        return backend.fork_unsafe_reason
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return f"loading it started {threads - 1} threads, which a fork would lose"
    # What the loading itself needed would otherwise stay with all of them, and be used by none.
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    return Preloaded(backend, metadata)
