"""Every gRPC service of one address, put together."""

from collections.abc import Sequence

from mooring.core.buffers import Allocator
from mooring.core.options import TORCHSERVE_HEADERS, SequenceHeaders
from mooring.core.service import InferenceService, ModelAdministration, ServerAdministration
from mooring.protocols.access import Gate
from mooring.protocols.amd.rpcs import AmdRpcs
from mooring.protocols.dialect import Dialect
from mooring.protocols.grpc_health import Health
from mooring.protocols.grpc_reflection import Reflection
from mooring.protocols.grpc_server import ConnectionAge, GrpcServer, Service
from mooring.protocols.kserve.grpc_administration import GrpcRepository, GrpcSettings, GrpcSharedMemory
from mooring.protocols.kserve.grpc_infer import Inference
from mooring.protocols.kserve.settings import LogSettings, TraceSettings
from mooring.protocols.kserve.shared_memory import SharedMemory
from mooring.protocols.kserve.v2_grpc import KServeV2Grpc
from mooring.protocols.torchserve.grpc_inference import TorchServeInferenceRpcs
from mooring.protocols.torchserve.grpc_management import TorchServeManagementRpcs
from mooring.web.http1 import Limits


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
    gate: Gate | None = None,
    max_message_bytes: int = 0,
    max_request_bytes: int = 0,
    limits: Limits | None = None,
    age: ConnectionAge | None = None,
    sequence_headers: SequenceHeaders = TORCHSERVE_HEADERS,
    further: Sequence[Service] = (),
) -> GrpcServer:
    """A server that speaks v2 with its extensions, AMD's methods, TorchServe's inference, health and reflection.

    ``further`` services are mounted beside these, all of them behind the ``gate``.
    """
    inference = Inference(service, allocator, memory=memory, dialect=dialect)
    methods = {
        **GrpcRepository(administration, dialect=dialect).methods(),
        **GrpcSettings(service, log_settings, trace_settings).methods(),
        **GrpcSharedMemory(memory).methods(),
        **AmdRpcs(administration, control).methods(),
    }
    services = KServeV2Grpc(inference, version=version, extensions=extensions).services(methods)
    services += [TorchServeInferenceRpcs(service, allocator, sequence_headers).service(), *further]
    services.append(Health(service.ready, [each.name for each in services]).service())
    return grpc_of(
        services,
        gate=gate,
        allocator=allocator,
        max_message_bytes=max_message_bytes,
        max_request_bytes=max_request_bytes,
        limits=limits,
        age=age,
    )


def grpc_management(
    service: InferenceService, administration: ModelAdministration, *, model_api: bool
) -> Service:
    """TorchServe's management. ``model_api`` False refuses to register and unregister models."""
    return TorchServeManagementRpcs(service, administration, model_api=model_api).service()


def grpc_of(
    services: Sequence[Service],
    *,
    gate: Gate | None = None,
    allocator: Allocator | None = None,
    max_message_bytes: int = 0,
    max_request_bytes: int = 0,
    limits: Limits | None = None,
    age: ConnectionAge | None = None,
) -> GrpcServer:
    """A server of these services that tells, too, what they are."""
    services = [*services, *Reflection(services).services()]
    return GrpcServer(
        services,
        gate=gate,
        allocator=allocator,
        max_message_bytes=max_message_bytes,
        max_request_bytes=max_request_bytes,
        limits=limits,
        age=age,
    )
