"""Triton's administrative extensions over gRPC: the same as over HTTP, from the same objects."""

from collections.abc import Collection
from typing import TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from mooring.codecs.proto import inference_pb2 as pb
from mooring.core.errors import InvalidInput, ModelNotFound, MooringError, Unsupported
from mooring.core.service import InferenceService, ModelAdministration
from mooring.core.tensors import Parameter
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.grpc_messages import async_handler, parse_message, sync_handler
from mooring.protocols.grpc_server import UnaryMethod
from mooring.protocols.kserve.repository import describe_state
from mooring.protocols.kserve.settings import LogSettings, TraceSettings
from mooring.protocols.kserve.shared_memory import (
    SHARED_MEMORY_OFF,
    SharedMemory,
    missing_cuda_region,
    no_cuda_region,
)
from mooring.protocols.kserve.statistics import usage_document
from mooring.protocols.load_options import LoadOptions, parse_config
from mooring.repository.triton_document import config_document
from mooring.tokens import Access

_FILE = "file:"
_Answer = TypeVar("_Answer", bound=Message)


class GrpcRepository:
    """The configuration, statistics and repository extensions."""

    def __init__(self, administration: ModelAdministration, *, dialect: Dialect = V2) -> None:
        self._administration = administration
        self._dialect = dialect

    def methods(self) -> dict[str, UnaryMethod]:
        """Return every RPC of the three extensions."""
        return {
            "ModelConfig": UnaryMethod(Access.INFERENCE, async_handler(pb.ModelConfigRequest, self._config)),
            "ModelStatistics": UnaryMethod(
                Access.INFERENCE, async_handler(pb.ModelStatisticsRequest, self._statistics)
            ),
            "RepositoryIndex": UnaryMethod(
                Access.INFERENCE, sync_handler(pb.RepositoryIndexRequest, self._index)
            ),
            "RepositoryModelLoad": UnaryMethod(
                Access.MANAGEMENT, async_handler(pb.RepositoryModelLoadRequest, self._load)
            ),
            "RepositoryModelUnload": UnaryMethod(
                Access.MANAGEMENT, async_handler(pb.RepositoryModelUnloadRequest, self._unload)
            ),
        }

    async def _config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        document = config_document(await self._administration.config(request.name, request.version))
        return pb.ModelConfigResponse(config=_to_message(document, pb.ModelConfig()))

    async def _statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        document = usage_document(await self._administration.usage(request.name, request.version))
        return _to_message(document, pb.ModelStatisticsResponse())

    def _index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        states = [state for state in self._administration.index() if state.ready or not request.ready]
        kind = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(models=[kind(**describe_state(state)) for state in states])

    async def _load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        model = _model_name(request)
        try:
            options = _read_load_options(request)
            await self._administration.load(
                model,
                config=options.config,
                files=options.files,
                parameters=options.parameters,
            )
        except MooringError as error:
            raise self._dialect.reword_load_error(error, model) from error
        return pb.RepositoryModelLoadResponse(model_name=model, is_loaded=True)

    async def _unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        model = _model_name(request)
        dependents = request.parameters["unload_dependents"].bool_param
        try:
            await self._administration.unload(model, dependents=dependents)
        except ModelNotFound:
            if not self._dialect.unloads_anything:
                raise
        return pb.RepositoryModelUnloadResponse(model_name=model, is_unloaded=True)


class GrpcSettings:
    """The logging and trace extensions: to change is management, to look is not."""

    def __init__(self, service: InferenceService, log: LogSettings, trace: TraceSettings) -> None:
        self._service = service
        self._log = log
        self._trace = trace

    def methods(self) -> dict[str, UnaryMethod]:
        """Return both RPCs."""
        return {
            "LogSettings": UnaryMethod(
                lambda message: _settings_access(parse_message(pb.LogSettingsRequest, message).settings),
                sync_handler(pb.LogSettingsRequest, self._log_settings),
            ),
            "TraceSetting": UnaryMethod(
                lambda message: _settings_access(parse_message(pb.TraceSettingRequest, message).settings),
                sync_handler(pb.TraceSettingRequest, self._trace_settings),
            ),
        }

    def _log_settings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        changes = {}
        for name, setting in request.settings.items():
            chosen = setting.WhichOneof("parameter_choice")
            if chosen is not None:
                changes[name] = getattr(setting, chosen)
        if changes:
            self._log.change(changes)
        response = pb.LogSettingsResponse()
        for name, value in self._log.current().items():
            if isinstance(value, bool):
                response.settings[name].bool_param = value
            elif isinstance(value, int):
                response.settings[name].uint32_param = value
            else:
                response.settings[name].string_param = value
        return response

    def _trace_settings(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        if request.model_name:
            self._service.ready(request.model_name)  # ready or not: it is there
        if request.settings:
            # No value is Triton's way to take a setting back.
            changes = {name: list(setting.value) or None for name, setting in request.settings.items()}
            self._trace.change(changes, request.model_name)
        response = pb.TraceSettingResponse()
        for name, value in self._trace.current(request.model_name).items():
            response.settings[name].value.extend(value if isinstance(value, list) else [value])
        return response


class GrpcSharedMemory:
    """The system shared memory extension; with ``memory`` None every RPC of it says that it is off.

    Those for a GPU's memory answer as where there is none: clients of every kind forget all regions before they begin.
    """

    def __init__(self, memory: SharedMemory | None) -> None:
        self._memory = memory

    def methods(self) -> dict[str, UnaryMethod]:
        """Return every RPC of the extension, and CUDA's."""
        return {
            name: UnaryMethod(Access.INFERENCE, call)
            for name, call in {
                "SystemSharedMemoryStatus": sync_handler(pb.SystemSharedMemoryStatusRequest, self._status),
                "SystemSharedMemoryRegister": sync_handler(
                    pb.SystemSharedMemoryRegisterRequest, self._register
                ),
                "SystemSharedMemoryUnregister": sync_handler(
                    pb.SystemSharedMemoryUnregisterRequest, self._unregister
                ),
                "CudaSharedMemoryStatus": sync_handler(pb.CudaSharedMemoryStatusRequest, _cuda_status),
                "CudaSharedMemoryRegister": sync_handler(pb.CudaSharedMemoryRegisterRequest, _cuda_register),
                "CudaSharedMemoryUnregister": sync_handler(
                    pb.CudaSharedMemoryUnregisterRequest, lambda _: pb.CudaSharedMemoryUnregisterResponse()
                ),
            }.items()
        }

    def _status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        memory = self._require_memory()
        for region in memory.regions(request.name):
            entry = response.regions[region.name]
            entry.name, entry.key = region.name, region.key
            entry.offset, entry.byte_size = region.offset, region.byte_size
        return response

    def _register(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        if not request.name:
            raise InvalidInput("a shared memory region needs a name")
        self._require_memory().register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def _unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._require_memory().unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def _require_memory(self) -> SharedMemory:
        if self._memory is None:
            raise Unsupported(SHARED_MEMORY_OFF)
        return self._memory


def _cuda_status(request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
    if request.name:
        raise ModelNotFound(missing_cuda_region(request.name))
    return pb.CudaSharedMemoryStatusResponse()


def _cuda_register(request: pb.CudaSharedMemoryRegisterRequest) -> pb.CudaSharedMemoryRegisterResponse:
    raise InvalidInput(no_cuda_region(request.name))


def _settings_access(settings: Collection[str]) -> Access:
    return Access.MANAGEMENT if settings else Access.INFERENCE


def _model_name(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    # Field 1 is Triton's repository_name and KServe's model_name: it names the model where field 2 does not.
    return request.model_name or request.repository_name


def _read_load_options(request: pb.RepositoryModelLoadRequest) -> LoadOptions:
    config = None
    files: dict[str, bytes] = {}
    parameters: dict[str, Parameter] = {}
    for name, parameter in request.parameters.items():
        value = _parameter_value(parameter)
        if name == "config":
            config = parse_config(value)
        elif name.startswith(_FILE) and isinstance(value, bytes):
            files[name.removeprefix(_FILE)] = value
        elif isinstance(value, bytes):
            raise InvalidInput(f"parameter '{name}' must be a string, a number or a boolean")
        elif value is not None:
            parameters[name] = value
    return LoadOptions(config, files or None, parameters or None)


def _parameter_value(parameter: pb.ModelRepositoryParameter) -> Parameter | bytes | None:
    chosen = parameter.WhichOneof("parameter_choice")
    if chosen is None:
        return None
    value: Parameter | bytes = getattr(parameter, chosen)
    return value


def _to_message(document: dict[str, object], message: _Answer) -> _Answer:
    """Fill a message from the JSON that HTTP would answer. Keys without a field are left out."""
    return ParseDict(document, message, ignore_unknown_fields=True)
