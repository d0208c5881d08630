"""Every gRPC service of one address, put together."""

import ssl
from collections.abc import Callable, Sequence

from mooring.core.buffers import Allocator
from mooring.core.options import TORCHSERVE_HEADERS, SequenceHeaders
from mooring.core.service import InferenceService, ModelAdministration, ServerAdministration
from mooring.protocols.access import Gate
from mooring.protocols.amd.rpcs import AmdRpcs
from mooring.protocols.dialect import Dialect
from mooring.protocols.grpc_health import NAME as HEALTH_NAME
from mooring.protocols.grpc_health import Health
from mooring.protocols.grpc_reflection import Reflection
from mooring.protocols.grpc_relay import CallRelay, relaying_handler
from mooring.protocols.grpc_server import ConnectionAge, GrpcServer, Service, UnaryMethod
from mooring.protocols.kserve.grpc_administration import GrpcRepository, GrpcSettings, GrpcSharedMemory
from mooring.protocols.kserve.grpc_infer import Inference
from mooring.protocols.kserve.settings import LogSettings, TraceSettings
from mooring.protocols.kserve.shared_memory import SharedMemory
from mooring.protocols.kserve.v2_grpc import NAME as V2_NAME
from mooring.protocols.kserve.v2_grpc import KServeV2Grpc
from mooring.protocols.torchserve.grpc_inference import TorchServeInferenceRpcs
from mooring.protocols.torchserve.grpc_management import TorchServeManagementRpcs
from mooring.tokens import Access
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
    tls: Callable[[], ssl.SSLContext] | None = None,
    reuse_port: bool = False,
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
    return grpc_of(
        [*services, _health(service, services)],
        gate=gate,
        allocator=allocator,
        max_message_bytes=max_message_bytes,
        max_request_bytes=max_request_bytes,
        limits=limits,
        age=age,
        tls=tls,
        reuse_port=reuse_port,
    )


def frontend_grpc_server(
    service: InferenceService,
    allocator: Allocator,
    relay: CallRelay,
    relayed: Sequence[tuple[str, str, Access]],
    *,
    version: str,
    extensions: Sequence[str],
    dialect: Dialect,
    gate: Gate,
    max_message_bytes: int,
    max_request_bytes: int,
    limits: Limits,
    age: ConnectionAge,
    tls: Callable[[], ssl.SSLContext] | None,
    reuse_port: bool,
    sequence_headers: SequenceHeaders,
) -> GrpcServer:
    """The same in a frontend process. ``relayed`` are service, name and access of the first process's unary methods.

    It answers inference, metadata, health and reflection by itself; every other call goes over the ``relay``.
    """
    inference = Inference(service, allocator, dialect=dialect, relay=relay)
    handler = relaying_handler(relay)
    missing: dict[str, dict[str, UnaryMethod]] = {}
    for name, method, access in relayed:
        missing.setdefault(name, {})[method] = UnaryMethod(access, handler)
    services = KServeV2Grpc(inference, version=version, extensions=extensions).services(
        missing.pop(V2_NAME, {})
    )
    services.append(TorchServeInferenceRpcs(service, allocator, sequence_headers).service())
    own = {each.name for each in services} | {HEALTH_NAME}
    services += [Service(name, methods) for name, methods in missing.items() if name not in own]
    return grpc_of(
        [*services, _health(service, services)],
        gate=gate,
        allocator=allocator,
        max_message_bytes=max_message_bytes,
        max_request_bytes=max_request_bytes,
        limits=limits,
        age=age,
        tls=tls,
        reuse_port=reuse_port,
    )


def _health(service: InferenceService, services: Sequence[Service]) -> Service:
    return Health(service.ready, [each.name for each in services]).service()


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
    tls: Callable[[], ssl.SSLContext] | None = None,
    reuse_port: bool = False,
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
        tls=tls,
        reuse_port=reuse_port,
    )
