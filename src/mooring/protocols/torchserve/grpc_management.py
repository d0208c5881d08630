"""TorchServe's management service over gRPC. Answers are the texts of the HTTP API: JSON, or the status of a change.

A number that is zero counts as not set: proto3 messages cannot tell the difference.
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
from mooring.protocols.responses import RequestIds, to_pretty_json
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
    default_text,
    models_page,
    parse_metadata,
    read_worker_range,
    registration_text,
    scaling_text,
    unregistration_text,
    version_document,
)
from mooring.protocols.torchserve.paging import MAX_PAGE_SIZE
from mooring.protocols.torchserve.registration import registration_from_texts
from mooring.tokens import Access
from mooring.web.grpc.rpc import UnaryRpc

NAME = "org.pytorch.serve.grpc.management.ManagementAPIsService"
_RequestT = TypeVar("_RequestT", bound=Message)
_NamedRequest = (
    pb.DescribeModelRequest | pb.ScaleWorkerRequest | pb.SetDefaultRequest | pb.UnregisterModelRequest
)


class TorchServeManagementRpcs:
    """The handlers of the service. ``model_api`` False refuses to register and unregister models."""

    def __init__(
        self, service: InferenceService, administration: ModelAdministration, *, model_api: bool = True
    ) -> None:
        self._service = service
        self._administration = administration
        self._model_api = model_api
        self._new_id = RequestIds().new_id

    def service(self) -> Service:
        """Return the service to mount."""
        return Service(
            NAME,
            {
                name: UnaryMethod(Access.MANAGEMENT, call)
                for name, call in {
                    "ListModels": _text_method(pb.ListModelsRequest, self.list_models),
                    "DescribeModel": _text_method(pb.DescribeModelRequest, self.describe_model, _to_refusal),
                    "RegisterModel": self._unless_disabled(
                        _text_method(pb.RegisterModelRequest, self.register_model, _registration_refusal)
                    ),
                    "ScaleWorker": _text_method(pb.ScaleWorkerRequest, self.scale_workers, _to_refusal),
                    "SetDefault": _text_method(pb.SetDefaultRequest, self.set_default, _default_refusal),
                    "UnregisterModel": self._unless_disabled(
                        _text_method(pb.UnregisterModelRequest, self.unregister_model, _to_refusal)
                    ),
                }.items()
            },
        )

    async def list_models(self, request: pb.ListModelsRequest) -> str:
        """Return a page of the models, by name. Without a limit it is as long as HTTP's; TorchServe's would be empty."""
        limit = request.limit if 0 < request.limit <= MAX_PAGE_SIZE else MAX_PAGE_SIZE
        first = max(request.next_page_token, 0)
        return to_pretty_json(await models_page(self._service, self._administration, limit, first)).decode()

    async def describe_model(self, request: pb.DescribeModelRequest) -> str:
        """Return the description of one version of a model, or of all with the version "all"."""
        versions = await self._administration.describe(*_to_target(request))
        if request.customized and request.model_version != "all":
            metadata = parse_metadata(
                await self._read_handler_metadata(versions[0].name, versions[0].version)
            )
            return to_pretty_json([version_document(versions[0], metadata)]).decode()
        return to_pretty_json([version_document(version) for version in versions]).decode()

    async def _read_handler_metadata(self, model: str, version: str) -> bytes:
        """Return the output of the handler's ``describe_handle``; b"" for a model without a handler."""
        request = InferenceRequest(
            model,
            version,
            self._new_id(),
            [Tensor("body", "BYTES", [1], [b""])],
            form=Form.BODY,
            operation=Operation.DESCRIBE,
        )
        try:
            return await Prediction(self._service, request).read_whole()
        except Unsupported:
            return b""

    async def register_model(self, request: pb.RegisterModelRequest) -> str:
        """Register a model from the store or an allowed URL."""
        wait = request.synchronous
        scaled = await self._administration.register(registration_from_texts(_to_texts(request)), wait=wait)
        return registration_text(scaled) if wait or not scaled.workers else PROCESSING

    async def scale_workers(self, request: pb.ScaleWorkerRequest) -> str:
        """Change the number of workers of a version."""
        who, wait = _to_target(request), request.synchronous
        least, most = read_worker_range(_to_texts(request))
        scaled = await self._administration.scale(*who, least=least, most=most, wait=wait)
        if not wait:
            return PROCESSING
        return scaling_text(scaled, who) if scaled.done else SCALING

    async def set_default(self, request: pb.SetDefaultRequest) -> str:
        """Make a version the default."""
        await self._administration.set_default(*_to_target(request))
        return default_text(_to_target(request))

    async def unregister_model(self, request: pb.UnregisterModelRequest) -> str:
        """Unregister a version; return after its last request is answered."""
        await self._administration.unregister(*_to_target(request))
        return unregistration_text(_to_target(request))

    def _unless_disabled(self, method: UnaryHandler) -> UnaryHandler:
        return method if self._model_api else _refuse_model_api


def _refuse_model_api(_call: UnaryRpc) -> None:
    raise status_error("PERMISSION_DENIED", "Model API disabled")


def _text_method(
    kind: type[_RequestT],
    answer: Callable[[_RequestT], Coroutine[None, None, str]],
    refusal: Callable[[MooringError, _RequestT], Refusal] = lambda error, _: torchserve(error, Target()),
) -> UnaryHandler:
    """Return a method that answers with a text or TorchServe's error. It goes on when its client disconnects."""

    async def work(call: UnaryRpc) -> None:
        request = parse_message(kind, copy_bytes(call.take_message()))
        try:
            text = await run_to_end(answer(request))
        except MooringError as error:
            raise status_error(*grpc_torchserve(refusal(error, request))) from None
        call.respond([pb.ManagementResponse(msg=text).SerializeToString()])

    return work


def _to_target(request: _NamedRequest) -> Target:
    return Target(request.model_name, request.model_version)


def _to_texts(request: Message) -> dict[str, str]:
    """Return the fields of a message as the parameters of a query."""
    return {field.name: str(value) for field, value in request.ListFields()}


def _to_refusal(error: MooringError, request: _NamedRequest) -> Refusal:
    return torchserve(error, _to_target(request))


def _registration_refusal(error: MooringError, request: pb.RegisterModelRequest) -> Refusal:
    return torchserve_registration(error, request.url)


def _default_refusal(error: MooringError, request: pb.SetDefaultRequest) -> Refusal:
    return torchserve_default(error, _to_target(request))
