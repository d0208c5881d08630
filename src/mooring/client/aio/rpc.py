"""A server over gRPC."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from mooring.client.documents import index_of, metadata_of, server_of, usage_of
from mooring.client.rest_calls import load_parameters
from mooring.client.result import IndexEntry, ServerMetadata
from mooring.client.rpc_calls import OPTIONS, SERVICE, document_of, error_of, piece_of
from mooring.codecs.proto import inference_pb2 as messages
from mooring.codecs.protobuf import decode_response, encode_request
from mooring.core.errors import ModelNotReady
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata, ModelUsage
from mooring.core.tensors import Parameter


class AsyncRpc:
    """The calls of the protocol as RPCs to ``target``; ``roots`` are the certificates to trust, None for no TLS."""

    def __init__(self, target: str, *, timeout: float, headers: Mapping[str, str], credentials: Any) -> None:
        self._timeout = timeout
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._channel = (
            grpc.aio.insecure_channel(target, OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, OPTIONS)
        )
        self._infer: Any = self._channel.unary_unary(f"{SERVICE}ModelInfer")

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def infer(self, request: InferenceRequest, timeout: float | None) -> InferenceResponse:
        """Send one request and return its answer."""
        try:
            answer: bytes = await self._infer(
                encode_request(request), timeout=timeout or self._timeout, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise error_of(error, model=request.model, version=request.version) from None
        return decode_response(answer)

    async def stream(
        self, request: InferenceRequest, timeout: float | None
    ) -> AsyncGenerator[InferenceResponse, None]:
        """Yield the pieces of an answer as they come; ``timeout`` (seconds) is for all of them."""
        start_stream: Any = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        call = start_stream(
            iter([encode_request(request)]), timeout=timeout or self._timeout, metadata=self._metadata
        )
        try:
            async for message in call:
                yield piece_of(message, model=request.model, version=request.version)
        except grpc.RpcError as error:
            raise error_of(error, model=request.model, version=request.version) from None
        finally:
            call.cancel()

    async def live(self) -> bool:
        """Whether the server runs."""
        answer: messages.ServerLiveResponse = await self._call("ServerLive")
        return answer.live

    async def ready(self, model: str, version: str) -> bool:
        """Whether the server, or one of its models, can answer now."""
        if not model:
            server: messages.ServerReadyResponse = await self._call("ServerReady")
            return server.ready
        answer: messages.ModelReadyResponse = await self._call("ModelReady", name=model, version=version)
        if not answer.ready:
            await self._require_known(model, version)
        return answer.ready

    async def _require_known(self, model: str, version: str) -> None:
        """Raise ``ModelNotFound`` for an unknown model, as HTTP does: ModelReady answers only that it is not ready."""
        with suppress(ModelNotReady):
            await self._call("ModelMetadata", name=model, version=version)

    async def server(self) -> ServerMetadata:
        """Return the server's name, version and extensions."""
        return server_of(document_of(await self._call("ServerMetadata")))

    async def metadata(self, model: str, version: str) -> ModelMetadata:
        """Return a model's inputs, outputs and versions."""
        return metadata_of(document_of(await self._call("ModelMetadata", name=model, version=version)))

    async def config(self, model: str, version: str) -> Mapping[str, Any]:
        """Return the configuration that a model was loaded with."""
        answer = document_of(await self._call("ModelConfig", name=model, version=version))
        config: dict[str, Any] = answer["config"]
        return config

    async def usage(self, model: str, version: str) -> list[ModelUsage]:
        """Return the statistics of one model, or of all models when ``model`` is empty."""
        return usage_of(document_of(await self._call("ModelStatistics", name=model, version=version)))

    async def index(self) -> list[IndexEntry]:
        """List every model in the repository."""
        return index_of(document_of(await self._call("RepositoryIndex"))["models"])

    async def load(
        self,
        model: str,
        config: Mapping[str, Any] | None,
        files: Mapping[str, bytes] | None,
        parameters: Mapping[str, Parameter] | None,
        timeout: float | None,
    ) -> None:
        """Load a model of the repository."""
        fields = {name: _encode_parameter(value) for name, value in load_parameters(config, parameters)}
        for name, data in (files or {}).items():
            fields[f"file:{name}"] = messages.ModelRepositoryParameter(bytes_param=data)
        await self._call("RepositoryModelLoad", timeout, model_name=model, parameters=fields)

    async def unload(self, model: str, dependents: bool, timeout: float | None) -> None:
        """Unload every version of a model."""
        fields = {"unload_dependents": messages.ModelRepositoryParameter(bool_param=dependents)}
        await self._call("RepositoryModelUnload", timeout, model_name=model, parameters=fields)

    async def _call(self, rpc: str, timeout: float | None = None, **fields: Any) -> Any:
        """Call the unary RPC ``rpc``, whose messages are ``{rpc}Request`` and ``{rpc}Response``."""
        request = getattr(messages, f"{rpc}Request")(**fields)
        call = self._channel.unary_unary(
            f"{SERVICE}{rpc}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(messages, f"{rpc}Response").FromString,
        )
        try:
            return await call(request, timeout=timeout or self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            model = fields.get("name") or fields.get("model_name") or ""
            raise error_of(error, model=model, version=fields.get("version", "")) from None


def _encode_parameter(value: Parameter) -> messages.ModelRepositoryParameter:
    if isinstance(value, bool):
        return messages.ModelRepositoryParameter(bool_param=value)
    if isinstance(value, int):
        return messages.ModelRepositoryParameter(int64_param=value)
    return messages.ModelRepositoryParameter(string_param=str(value))
