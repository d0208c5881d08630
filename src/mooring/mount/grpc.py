"""The gRPC services of an address, in the first process and in a frontend process, and the listener that serves them."""

from collections.abc import Sequence

from mooring import __version__
from mooring.config.settings import Address, Config
from mooring.core.buffers import Allocator
from mooring.core.options import SequenceHeaders
from mooring.core.service import InferenceService, ModelAdministration
from mooring.mount.listeners import Listeners, limits_of
from mooring.mount.routes import Administrative
from mooring.protocols.amd.rpcs import AmdRpcs
from mooring.protocols.dialect import Dialect
from mooring.protocols.grpc_health import NAME as HEALTH_NAME
from mooring.protocols.grpc_health import Health
from mooring.protocols.grpc_reflection import Reflection
from mooring.protocols.grpc_relay import CallRelay, relaying_handler
from mooring.protocols.grpc_server import ConnectionAge, GrpcServer, Service, UnaryMethod
from mooring.protocols.kserve.grpc_administration import GrpcRepository, GrpcSettings, GrpcSharedMemory
from mooring.protocols.kserve.grpc_infer import Inference
from mooring.protocols.kserve.shared_memory import SharedMemory
from mooring.protocols.kserve.v2_grpc import NAME as V2_NAME
from mooring.protocols.kserve.v2_grpc import KServeV2Grpc
from mooring.protocols.status import HIDDEN, FaultWords
from mooring.protocols.torchserve.grpc_inference import TorchServeInferenceRpcs
from mooring.protocols.torchserve.grpc_management import TorchServeManagementRpcs
from mooring.tokens import Access


def inference_services(
    service: InferenceService,
    administrative: Administrative,
    allocator: Allocator,
    *,
    extensions: Sequence[str],
    dialect: Dialect,
    memory: SharedMemory | None,
    sequence_headers: SequenceHeaders,
    faults: FaultWords = HIDDEN,
    further: Sequence[Service] = (),
) -> list[Service]:
    """The first process's services of the inference address: v2 with its extensions, AMD's RPCs, TorchServe's, health.

    ``extensions`` are those that ServerMetadata lists. Health knows the ``further`` services, too.
    """
    inference = Inference(service, allocator, memory=memory, dialect=dialect)
    methods = {
        **GrpcRepository(administrative.models, dialect=dialect).methods(),
        **GrpcSettings(service, administrative.log_settings, administrative.trace_settings).methods(),
        **GrpcSharedMemory(memory).methods(),
        **AmdRpcs(administrative.models, administrative.server).methods(),
    }
    services = KServeV2Grpc(inference, version=__version__, extensions=extensions).services(methods)
    services += [
        TorchServeInferenceRpcs(service, allocator, sequence_headers, faults=faults).service(),
        *further,
    ]
    return [*services, _health(service, services)]


def frontend_services(
    service: InferenceService,
    allocator: Allocator,
    relay: CallRelay,
    relayed: Sequence[tuple[str, str, Access]],
    *,
    extensions: Sequence[str],
    dialect: Dialect,
    sequence_headers: SequenceHeaders,
    faults: FaultWords = HIDDEN,
) -> list[Service]:
    """The same services in a frontend process, which answers inference, metadata and health by itself.

    ``relayed`` are service, name and access of the first process's unary methods; calls of those that are not here go
    over the ``relay``.
    """
    inference = Inference(service, allocator, dialect=dialect, relay=relay)
    handler = relaying_handler(relay)
    missing: dict[str, dict[str, UnaryMethod]] = {}
    for name, method, access in relayed:
        missing.setdefault(name, {})[method] = UnaryMethod(access, handler)
    v2 = KServeV2Grpc(inference, version=__version__, extensions=extensions)
    services = v2.services(missing.pop(V2_NAME, {}))
    services.append(TorchServeInferenceRpcs(service, allocator, sequence_headers, faults=faults).service())
    own = {each.name for each in services} | {HEALTH_NAME}
    services += [Service(name, methods) for name, methods in missing.items() if name not in own]
    return [*services, _health(service, services)]


def management_service(
    service: InferenceService, administration: ModelAdministration, *, model_api: bool
) -> Service:
    """TorchServe's management. ``model_api`` False refuses to register and unregister models."""
    return TorchServeManagementRpcs(service, administration, model_api=model_api).service()


def grpc_listener(
    config: Config,
    listeners: Listeners,
    address: Address,
    services: Sequence[Service],
    allocator: Allocator,
    age: ConnectionAge,
    *,
    reuse_port: bool = False,
) -> GrpcServer:
    """The listener of these services, and of the reflection that describes them; it is still to be started."""
    return GrpcServer(
        [*services, *Reflection(services).services()],
        gate=listeners.gate(address),
        tls=listeners.rpc_tls(address),
        reuse_port=reuse_port,
        allocator=allocator,
        max_message_bytes=config.grpc_max_message_size,
        max_request_bytes=config.grpc_max_request_size,
        limits=limits_of(config),
        age=age,
        calls=listeners.calls,
        times_all=config.server_timing,
        traffic=listeners.traffic["grpc"],
    )


def _health(service: InferenceService, services: Sequence[Service]) -> Service:
    return Health(service.ready, [each.name for each in services]).service()
