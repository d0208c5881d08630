"""An inference server that speaks every serving protocol to every model. Importing does nothing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mooring.client.aio.client import AsyncClient
    from mooring.client.sync.client import Client
    from mooring.core.errors import (
        DeadlineExceeded,
        InvalidInput,
        ModelFailed,
        ModelLoadFailed,
        ModelNotFound,
        ModelNotReady,
        MooringError,
        QueueFull,
        Refused,
        ServerUnreachable,
        Unsupported,
    )
    from mooring.core.model_code import Model, Request, batch
    from mooring.core.tensors import Tensor
    from mooring.python_api.server import RunningServer, serve

# Written here and read by the build: asking the installed package costs every worker 30 ms.
__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "InvalidInput",
    "Model",
    "ModelFailed",
    "ModelLoadFailed",
    "ModelNotFound",
    "ModelNotReady",
    "MooringError",
    "QueueFull",
    "Refused",
    "Request",
    "RunningServer",
    "ServerUnreachable",
    "Tensor",
    "Unsupported",
    "__version__",
    "batch",
    "serve",
]

_ELSEWHERE = {
    "AsyncClient": "mooring.client.aio.client",
    "Client": "mooring.client.sync.client",
    "Model": "mooring.core.model_code",
    "Request": "mooring.core.model_code",
    "batch": "mooring.core.model_code",
    "RunningServer": "mooring.python_api.server",
    "Tensor": "mooring.core.tensors",
    "serve": "mooring.python_api.server",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'mooring' has no attribute '{name}'")
    import importlib  # noqa: PLC0415 - importing mooring does nothing

    return getattr(importlib.import_module(_ELSEWHERE.get(name, "mooring.core.errors")), name)
