"""TorchServe's management service over gRPC: what HTTP answers with, as a text; of what is changed only the status.

A number that is zero is one that was not said: the messages know no difference.
"""

from collections.abc import Callable, Coroutine
from typing import TypeVar

from google.protobuf.message import Message

from mooring.codecs.proto import torchserve_management_pb2 as pb
from mooring.core.errors import MooringError, Unsupported
from mooring.core.requests import Form, InferenceRequest, Operation
from mooring.core.service import InferenceService, ModelAdministration
from mooring.core.tensors import Tensor
from mooring.protocols.grpc_errors import status_error
from mooring.protocols.grpc_messages import copy_bytes, parse_message, run_to_end
from mooring.protocols.grpc_server import Service, UnaryHandler, UnaryMethod
from mooring.protocols.responses import RequestIds, pretty
from mooring.protocols.status import (
    Refusal,
    Target,
    grpc_torchserve,
    torchserve,
    torchserve_default,
    torchserve_registration,
)
from mooring.protocols.torchserve.grpc_inference import Prediction
from mooring.protocols.torchserve.management import (
    PROCESSING,
    SCALING,
    described,
    made_default,
    object_in,
    page_of,
    registered,
    scaled_to,
    unregistered,
    workers_of,
)
from mooring.protocols.torchserve.paging import PAGE
from mooring.protocols.torchserve.registration import registration_in
from mooring.tokens import Access
from mooring.web.grpc.rpc import UnaryRpc

NAME = "org.pytorch.serve.grpc.management.ManagementAPIsService"
_Asking = TypeVar("_Asking", bound=Message)
_Named = pb.DescribeModelRequest | pb.ScaleWorkerRequest | pb.SetDefaultRequest | pb.UnregisterModelRequest


class TorchServeManagementRpcs:
    """The methods of the service. ``model_api`` False refuses to register and unregister models."""

    def __init__(
        self, service: InferenceService, administration: ModelAdministration, *, model_api: bool = True
    ) -> None:
        self._service = service
        self._administration = administration
        self._model_api = model_api
        self._new_id = RequestIds().new

    def service(self) -> Service:
        """What the server mounts."""
        return Service(
            NAME,
            {
                name: UnaryMethod(Access.MANAGEMENT, call)
                for name, call in {
                    "ListModels": _saying(pb.ListModelsRequest, self.list),
                    "DescribeModel": _saying(pb.DescribeModelRequest, self.describe, _refusal),
                    "RegisterModel": self._changing(
                        _saying(pb.RegisterModelRequest, self.register, _refused_registration)
                    ),
                    "ScaleWorker": _saying(pb.ScaleWorkerRequest, self.scale, _refusal),
                    "SetDefault": _saying(pb.SetDefaultRequest, self.set_default, _refused_default),
                    "UnregisterModel": self._changing(
                        _saying(pb.UnregisterModelRequest, self.unregister, _refusal)
                    ),
                }.items()
            },
        )

    async def list(self, asked: pb.ListModelsRequest) -> str:
        """A page of the models, by name. No limit is HTTP's, where TorchServe has an empty page."""
        limit = asked.limit if 0 < asked.limit <= PAGE else PAGE
        first = max(asked.next_page_token, 0)
        return pretty(page_of(self._service, self._administration, limit, first)).decode()

    async def describe(self, asked: pb.DescribeModelRequest) -> str:
        """One version of a model, or with the version "all" every one."""
        versions = self._administration.describe(*_asked(asked))
        if asked.customized and asked.model_version != "all":
            metadata = object_in(await self._of_handler(versions[0].name, versions[0].version))
            return pretty([described(versions[0], metadata)]).decode()
        return pretty([described(version) for version in versions]).decode()

    async def _of_handler(self, model: str, version: str) -> bytes:
        """What the model's own ``describe_handle`` says."""
        request = InferenceRequest(
            model,
            version,
            self._new_id(),
            [Tensor("body", "BYTES", [1], [b""])],
            form=Form.BODY,
            operation=Operation.DESCRIBE,
        )
        try:
            return await Prediction(self._service, request).whole()
        except Unsupported:
            return b""  # it has no handler that could say anything

    async def register(self, asked: pb.RegisterModelRequest) -> str:
        """Add a model from the store or from where one may fetch it."""
        wait = asked.synchronous
        scaled = await self._administration.register(registration_in(_texts(asked)), wait=wait)
        return registered(scaled) if wait or not scaled.workers else PROCESSING

    async def scale(self, asked: pb.ScaleWorkerRequest) -> str:
        """Change how many workers a version has."""
        who, wait = _asked(asked), asked.synchronous
        least, most = workers_of(_texts(asked))
        scaled = await self._administration.scale(*who, least=least, most=most, wait=wait)
        if not wait:
            return PROCESSING
        return scaled_to(scaled, who) if scaled.done else SCALING

    async def set_default(self, asked: pb.SetDefaultRequest) -> str:
        """Let a version answer who names none."""
        self._administration.set_default(*_asked(asked))
        return made_default(_asked(asked))

    async def unregister(self, asked: pb.UnregisterModelRequest) -> str:
        """Take a version away; answered when its last request is."""
        await self._administration.unregister(*_asked(asked))
        return unregistered(_asked(asked))

    def _changing(self, method: UnaryHandler) -> UnaryHandler:
        return method if self._model_api else _disabled


def _disabled(_call: UnaryRpc) -> None:
    raise status_error("PERMISSION_DENIED", "Model API disabled")


def _saying(
    kind: type[_Asking],
    say: Callable[[_Asking], Coroutine[None, None, str]],
    refusal: Callable[[MooringError, _Asking], Refusal] = lambda error, _: torchserve(error, Target()),
) -> UnaryHandler:
    """A method that answers with a text, or is refused in TorchServe's words. It goes on when its client goes away."""

    async def work(call: UnaryRpc) -> None:
        asked = parse_message(kind, copy_bytes(call.take_message()))
        try:
            text = await run_to_end(say(asked))
        except MooringError as error:
            raise status_error(*grpc_torchserve(refusal(error, asked))) from None
        call.respond([pb.ManagementResponse(msg=text).SerializeToString()])

    return work


def _asked(asked: _Named) -> Target:
    return Target(asked.model_name, asked.model_version)


def _texts(asked: Message) -> dict[str, str]:
    """What a message says, as the parameters of a query would."""
    return {field.name: str(value) for field, value in asked.ListFields()}


def _refusal(error: MooringError, asked: _Named) -> Refusal:
    return torchserve(error, _asked(asked))


def _refused_registration(error: MooringError, asked: pb.RegisterModelRequest) -> Refusal:
    return torchserve_registration(error, asked.url)


def _refused_default(error: MooringError, asked: pb.SetDefaultRequest) -> Refusal:
    return torchserve_default(error, _asked(asked))
