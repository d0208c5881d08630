"""The six RPCs that AMD's server adds to ``inference.GRPCInferenceService``.

As over HTTP, unloading what is not there succeeds.
"""

from collections.abc import Mapping
from contextlib import suppress

from mooring.codecs.proto import inference_pb2 as pb
from mooring.core.errors import ModelNotFound
from mooring.core.service import ModelAdministration, ServerAdministration
from mooring.core.tensors import Parameter
from mooring.protocols.amd.administration import spelled
from mooring.protocols.grpc_messages import async_handler, sync_handler
from mooring.protocols.grpc_server import UnaryMethod
from mooring.tokens import Access


class AmdRpcs:
    """The methods. Loads and unloads are management."""

    def __init__(self, administration: ModelAdministration, server: ServerAdministration) -> None:
        self._administration = administration
        self._server = server

    def methods(self) -> dict[str, UnaryMethod]:
        """Every RPC of AMD's."""
        changing = {
            "ModelLoad": async_handler(pb.ModelLoadRequest, self._load),
            "ModelUnload": async_handler(pb.ModelUnloadRequest, self._unload),
            "WorkerLoad": async_handler(pb.WorkerLoadRequest, self._load_worker),
            "WorkerUnload": async_handler(pb.WorkerUnloadRequest, self._unload_worker),
        }
        asking = {
            "ModelList": sync_handler(pb.ModelListRequest, self._list),
            "HasHardware": sync_handler(pb.HasHardwareRequest, self._has_hardware),
        }
        return {name: UnaryMethod(Access.MANAGEMENT, method) for name, method in changing.items()} | {
            name: UnaryMethod(Access.INFERENCE, method) for name, method in asking.items()
        }

    def _list(self, _asked: pb.ModelListRequest) -> pb.ModelListResponse:
        ready = {state.name for state in self._administration.index() if state.ready and state.is_default}
        return pb.ModelListResponse(models=sorted(ready))

    async def _load(self, asked: pb.ModelLoadRequest) -> pb.ModelLoadResponse:
        await self._administration.load(
            self._spelled(asked.name), asked.version, parameters=_parameters(asked.parameters) or None
        )
        return pb.ModelLoadResponse()

    async def _unload(self, asked: pb.ModelUnloadRequest) -> pb.ModelUnloadResponse:
        with suppress(ModelNotFound):
            await self._administration.unload(self._spelled(asked.name), asked.version)
        return pb.ModelUnloadResponse()

    async def _load_worker(self, asked: pb.WorkerLoadRequest) -> pb.WorkerLoadResponse:
        endpoint = await self._administration.load_worker(asked.name.lower(), _parameters(asked.parameters))
        return pb.WorkerLoadResponse(endpoint=endpoint)

    async def _unload_worker(self, asked: pb.WorkerUnloadRequest) -> pb.WorkerUnloadResponse:
        with suppress(ModelNotFound):
            await self._administration.unload_worker(self._spelled(asked.name))
        return pb.WorkerUnloadResponse()

    def _has_hardware(self, asked: pb.HasHardwareRequest) -> pb.HasHardwareResponse:
        found = self._server.devices().get(asked.name, 0)
        return pb.HasHardwareResponse(found=bool(found) and found >= asked.num)

    def _spelled(self, name: str) -> str:
        return spelled(name, self._administration)


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in given.items())
    return {name: getattr(value, field) for name, value, field in chosen if field is not None}
