"""Every gRPC service of one address, put together."""

from collections.abc import Sequence

from mooring.core.buffers import Allocator
from mooring.core.service import InferenceService, ModelAdministration, ServerAdministration
from mooring.protocols.amd.rpcs import AmdRpcs
from mooring.protocols.dialect import Dialect
from mooring.protocols.grpc_health import Health
from mooring.protocols.grpc_reflection import Reflection
from mooring.protocols.grpc_server import GrpcServer
from mooring.protocols.kserve.grpc_administration import GrpcRepository, GrpcSettings, GrpcSharedMemory
from mooring.protocols.kserve.grpc_infer import Inference
from mooring.protocols.kserve.settings import LogSettings, TraceSettings
from mooring.protocols.kserve.shared_memory import SharedMemory
from mooring.protocols.kserve.v2_grpc import KServeV2Grpc
from mooring.protocols.torchserve.grpc_inference import TorchServeInferenceRpcs


def grpc_server(
    service: InferenceService,
    administration: ModelAdministration,
    control: ServerAdministration,
    allocator: Allocator,
    *,
    version: str,
    extensions: Sequence[str],
    dialect: Dialect,
    memory: SharedMemory | None,
    log_settings: LogSettings,
    trace_settings: TraceSettings,
    changes: bool,
    max_message_bytes: int = 0,
) -> GrpcServer:
    """A server that speaks v2 with its extensions, AMD's methods, TorchServe's inference, health and reflection.

    ``changes`` False refuses whatever would change what is served.
    """
    inference = Inference(service, allocator, memory=memory, dialect=dialect)
    methods = {
        **GrpcRepository(administration, changes=changes, dialect=dialect).methods(),
        **GrpcSettings(service, log_settings, trace_settings, changes=changes).methods(),
        **GrpcSharedMemory(memory).methods(),
        **AmdRpcs(administration, control, changes=changes).methods(),
    }
    services = KServeV2Grpc(inference, version=version, extensions=extensions).services(methods)
    services.append(TorchServeInferenceRpcs(service, allocator).service())
    services.append(Health(service.ready, [each.name for each in services]).service())
    return GrpcServer([*services, *Reflection(services).services()], max_message_bytes=max_message_bytes)
