"""The six RPCs that AMD's server adds to ``inference.GRPCInferenceService``.

As over HTTP, unloading a model that is not loaded succeeds.
"""

from collections.abc import Mapping
from contextlib import suppress

from mooring.codecs.proto import inference_pb2 as pb
from mooring.core.errors import ModelNotFound
from mooring.core.service import ModelAdministration, ServerAdministration
from mooring.core.tensors import Parameter
from mooring.protocols.dialect import resolve_name
from mooring.protocols.grpc_messages import async_handler, sync_handler
from mooring.protocols.grpc_server import UnaryMethod
from mooring.tokens import Access


class AmdRpcs:
    """The handlers of the RPCs. Loads and unloads need the management token."""

    def __init__(self, administration: ModelAdministration, server: ServerAdministration) -> None:
        self._administration = administration
        self._server = server

    def methods(self) -> dict[str, UnaryMethod]:
        """Return all six methods by name."""
        changes = {
            "ModelLoad": async_handler(pb.ModelLoadRequest, self._load_model),
            "ModelUnload": async_handler(pb.ModelUnloadRequest, self._unload_model),
            "WorkerLoad": async_handler(pb.WorkerLoadRequest, self._load_worker),
            "WorkerUnload": async_handler(pb.WorkerUnloadRequest, self._unload_worker),
        }
        queries = {
            "ModelList": sync_handler(pb.ModelListRequest, self._list_models),
            "HasHardware": sync_handler(pb.HasHardwareRequest, self._has_hardware),
        }
        return {name: UnaryMethod(Access.MANAGEMENT, method) for name, method in changes.items()} | {
            name: UnaryMethod(Access.INFERENCE, method) for name, method in queries.items()
        }

    def _list_models(self, _request: pb.ModelListRequest) -> pb.ModelListResponse:
        ready = {
            state.name
            for state in self._administration.index()
            if state.ready and state.is_default and state.listed
        }
        return pb.ModelListResponse(models=sorted(ready))

    async def _load_model(self, request: pb.ModelLoadRequest) -> pb.ModelLoadResponse:
        await self._administration.load(
            self._resolve_name(request.name),
            request.version,
            parameters=_read_parameters(request.parameters) or None,
        )
        return pb.ModelLoadResponse()

    async def _unload_model(self, request: pb.ModelUnloadRequest) -> pb.ModelUnloadResponse:
        with suppress(ModelNotFound):
            await self._administration.unload(self._resolve_name(request.name), request.version)
        return pb.ModelUnloadResponse()

    async def _load_worker(self, request: pb.WorkerLoadRequest) -> pb.WorkerLoadResponse:
        endpoint = await self._administration.load_worker(
            request.name.lower(), _read_parameters(request.parameters)
        )
        return pb.WorkerLoadResponse(endpoint=endpoint)

    async def _unload_worker(self, request: pb.WorkerUnloadRequest) -> pb.WorkerUnloadResponse:
        with suppress(ModelNotFound):
            await self._administration.unload_worker(self._resolve_name(request.name))
        return pb.WorkerUnloadResponse()

    def _has_hardware(self, request: pb.HasHardwareRequest) -> pb.HasHardwareResponse:
        count = self._server.devices().get(request.name, 0)
        return pb.HasHardwareResponse(found=bool(count) and count >= request.num)

    def _resolve_name(self, name: str) -> str:
        return resolve_name(name, self._administration)


def _read_parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in parameters.items())
    return {name: getattr(value, field) for name, value, field in chosen if field is not None}
