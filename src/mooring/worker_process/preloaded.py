"""Loading a model before the fork, so that its workers share its pages and are ready as soon as they are forked.

Only a process with a single thread may be forked. Where the library has started threads while it loaded the model, or
the model is on a GPU, every worker loads the model by itself (docs/decisions/0021-models-loaded-once.md).
"""

import ctypes
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mooring.backends.backend import Backend, create_backend
from mooring.backends.library_threads import limit_library_threads
from mooring.core.errors import MooringError
from mooring.core.service import ModelMetadata
from mooring.ipc.framing import Frames
from mooring.ipc.messages import Codec, CompleteConfig, Load, Trial
from mooring.ipc.template_protocol import LOADING_FAILED
from mooring.worker_process.model_logging import show_debug
from mooring.worker_process.outcomes import line_of


@dataclass(frozen=True, slots=True)
class Preloaded:
    """A model that its template has loaded."""

    backend: Backend
    metadata: ModelMetadata


def receive_order(control: socket.socket) -> Load | Trial | CompleteConfig:
    """Receive the only message on a control socket. Raises ``EOFError`` where the server closes it instead."""
    frames, codec = Frames(), Codec()
    while frames.receive(control):
        for frame in frames:
            message = codec.to_worker(frame)
            assert isinstance(message, Load | Trial | CompleteConfig)
            return message
    raise EOFError


def preload_model(load: Load) -> Preloaded | str:
    """Load the model in this process, which has one thread; return why it cannot be forked where that is so.

    Linux only.
    """
    if load.context.debug:
        show_debug()
    try:
        backend = create_backend(load.spec.backend)
        limit_library_threads(load.context.threads)
        metadata = backend.load(load.spec, load.context)
        limit_library_threads(load.context.threads)
    except Exception as error:  # each worker will get the same error when it loads the model, and report it
        return f"{LOADING_FAILED}: {error.message if isinstance(error, MooringError) else line_of(error)}"
    if backend.fork_unsafe_reason:
        return backend.fork_unsafe_reason
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        return f"loading it started {threads - 1} threads, which a fork would lose"
    # Memory that only loading needed is given back: every worker would hold it otherwise.
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    return Preloaded(backend, metadata)
