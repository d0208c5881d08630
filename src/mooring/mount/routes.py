"""The endpoints of every address: the same tables for the first process and for every frontend process.

What a process lacks is absent in its ``Services``. An endpoint that would need it is not made there; a frontend process
relays those calls to the first process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mooring import __version__
from mooring.config.settings import Address
from mooring.console.endpoints import ConsoleEndpoints
from mooring.core.service import (
    InferenceService,
    ModelAdministration,
    ServerAdministration,
    WorkflowService,
)
from mooring.observability.metrics import Metrics
from mooring.protocols.amd.administration import AmdAdministration
from mooring.protocols.amd.inference_socket import InferenceSocket
from mooring.protocols.cors import Cors
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve.generate import Generate
from mooring.protocols.kserve.repository import Repository
from mooring.protocols.kserve.settings import LogSettings, Settings, TraceSettings
from mooring.protocols.kserve.shared_memory import SharedMemory, SharedMemoryEndpoints
from mooring.protocols.kserve.statistics import Statistics
from mooring.protocols.kserve.v1 import KServeV1
from mooring.protocols.kserve.v2 import KServeV2
from mooring.protocols.openapi import ApiDescription
from mooring.protocols.responses import Responses
from mooring.protocols.torchserve.inference import TorchServeInference
from mooring.protocols.torchserve.management import TorchServeManagement
from mooring.protocols.torchserve.metrics import TorchServeMetrics
from mooring.protocols.torchserve.tokens import TokenRenewal
from mooring.protocols.torchserve.workflows import TorchServeWorkflows
from mooring.tokens import Tokens
from mooring.web.http1 import App


@dataclass(frozen=True, kw_only=True, slots=True)
class Administrative:
    """What only the first process has: there is one of each, and whoever asks for it elsewhere is relayed."""

    models: ModelAdministration
    server: ServerAdministration
    workflows: WorkflowService
    metrics: Metrics
    log_settings: LogSettings
    trace_settings: TraceSettings
    worker_extensions: Sequence[str] = ()  # of v2: AMD's workers whose library is installed
    tokens: Tokens | None = None
    console: ConsoleEndpoints | None = None  # where it is served


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What the endpoints of one process call.

    A frontend process has no ``administrative`` services, and a ``relay`` that has the first process answer a call.
    """

    inference: InferenceService
    responses: Responses
    cors: Cors
    dialect: Dialect = V2
    administrative: Administrative | None = None
    ping_format: str = "both"
    console: str = ""  # the path of the console, where it is served
    relay: App | None = None


class Mount:
    """What one address serves, and the OpenAPI document that describes it. ``setting`` names the address's setting."""

    def __init__(self, setting: str, address: Address, description: ApiDescription) -> None:
        self.setting = setting  # the first one that has this address
        self.address = address
        self.description = description
        self.endpoints: list[Endpoint] = []
        self.add(description.endpoints())

    def add(self, endpoints: Sequence[Endpoint]) -> None:
        """Serve these, too, and describe them."""
        self.endpoints.extend(endpoints)
        self.description.add_endpoints(endpoints)


def inference_endpoints(
    services: Services, description: ApiDescription, shared_memory: SharedMemory | None = None
) -> tuple[list[Endpoint], list[str]]:
    """The endpoints of the inference address, and the extensions of v2 that they offer.

    ``shared_memory`` is None where clients may not name regions of it.
    """
    inference, responses = services.inference, services.responses
    endpoints = TorchServeInference(
        inference, responses, description, ping_format=services.ping_format, console=services.console
    ).endpoints()
    administrative = services.administrative
    if administrative is not None:
        endpoints += TorchServeWorkflows(administrative.workflows, responses).inference_endpoints()
        if administrative.console is not None:
            endpoints += administrative.console.endpoints()
    endpoints += KServeV1(inference, responses).endpoints()
    v2, extensions = _v2_endpoints(services, shared_memory)
    return endpoints + v2, extensions


def _v2_endpoints(services: Services, shared_memory: SharedMemory | None) -> tuple[list[Endpoint], list[str]]:
    """The Open Inference Protocol, Triton's extensions of it and what AMD's server adds."""
    inference, responses, dialect = services.inference, services.responses, services.dialect
    administrative = services.administrative
    v2 = KServeV2(
        inference,
        responses,
        version=__version__,
        dialect=dialect,
        memory=shared_memory,
        relay=services.relay,
    )
    endpoints = v2.endpoints()
    if administrative is None:
        # The list of extensions is the first process's.
        endpoints = [each for each in endpoints if each.pattern != "/v2"]
    generate = Generate(inference, responses, v2.bodies, dialect=dialect)
    v2.extensions.extend(generate.extensions)
    if administrative is None:
        endpoints += generate.endpoints()
    else:
        memory = SharedMemoryEndpoints(shared_memory, responses, v2.bodies)
        amd = AmdAdministration(administrative.models, administrative.server, responses)
        endpoints += memory.endpoints() + amd.endpoints() + generate.endpoints()
        for part in _administrative_parts(v2, services, administrative):
            endpoints += part.endpoints()
            v2.extensions.extend(part.extensions)
        if shared_memory is not None:
            v2.extensions.extend(memory.extensions)
        v2.extensions.extend(administrative.worker_extensions)
    cors = services.cors
    socket = InferenceSocket(
        inference, responses, any_origin=cors.any_origin, trusted_origins=cors.named_origins
    )
    return endpoints + socket.endpoints(), v2.extensions


def _administrative_parts(
    v2: KServeV2, services: Services, administrative: Administrative
) -> list[Repository | Statistics | Settings]:
    """Triton's extensions of v2 that only the first process answers."""
    responses, models = services.responses, administrative.models
    log, trace = administrative.log_settings, administrative.trace_settings
    return [
        Repository(models, responses, v2.bodies, dialect=services.dialect),
        Statistics(models, responses, dialect=services.dialect),
        Settings(services.inference, log, trace, responses, v2.bodies),
    ]


def management_endpoints(
    services: Services, administrative: Administrative, description: ApiDescription, *, model_api: bool
) -> list[Endpoint]:
    """TorchServe's management. With ``model_api`` False nobody registers or unregisters models over it."""
    responses = services.responses
    management = TorchServeManagement(
        services.inference, administrative.models, responses, description, model_api=model_api
    )
    endpoints = management.endpoints()
    if administrative.tokens is not None and administrative.tokens.renewable:
        endpoints += TokenRenewal(administrative.tokens, responses).endpoints()
    return endpoints + TorchServeWorkflows(administrative.workflows, responses).management_endpoints()


def readiness_endpoints(services: Services) -> list[Endpoint]:
    """KServe v1's readiness, for a management address that does not serve v1."""
    return KServeV1(services.inference, services.responses).readiness()


def metrics_endpoints(services: Services, administrative: Administrative) -> list[Endpoint]:
    """The metrics, as TorchServe shows them."""
    return TorchServeMetrics(administrative.metrics, services.responses).endpoints()
