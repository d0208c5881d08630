"""A server over gRPC."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from mooring.client.address import Address
from mooring.client.connections import AsyncConnections
from mooring.client.documents import index_of, metadata_of, server_of, usage_of
from mooring.client.rest_calls import load_parameters
from mooring.client.result import IndexEntry, ServerMetadata
from mooring.client.rpc_calls import SERVICE, channel_options, document_of, error_of, piece_of
from mooring.client.stalls import AsyncCancelled, AsyncStallTimer
from mooring.client.timing import AsyncTimedRpc
from mooring.codecs.proto import inference_pb2 as messages
from mooring.codecs.protobuf import decode_response, encode_request
from mooring.core.errors import DeadlineExceeded, ModelNotReady, MooringError
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata, ModelUsage
from mooring.core.tensors import Parameter


class AsyncRpc:
    """The calls of the protocol as RPCs to a server, over one connection; without ``credentials`` there is no TLS."""

    def __init__(
        self, address: Address, *, connect_timeout: float, headers: Mapping[str, str], credentials: Any
    ) -> None:
        self._address = address
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._options = channel_options(connect_timeout)
        self._credentials = credentials
        self._connections = AsyncConnections(self._connect)

    def _connect(self) -> tuple[grpc.aio.Channel, Any]:
        """Return a connection, and the call that most requests are."""
        channel = (
            grpc.aio.insecure_channel(self._address.authority, self._options)
            if self._credentials is None
            else grpc.aio.secure_channel(self._address.authority, self._credentials, self._options)
        )
        return channel, channel.unary_unary(f"{SERVICE}ModelInfer")

    @property
    def _channel(self) -> grpc.aio.Channel:
        return self._connections.get()[0]

    async def close(self) -> None:
        """Close the connection."""
        connection = self._connections.pop()
        if connection is not None:
            await connection[0].close()

    async def infer(
        self, request: InferenceRequest, timed: bool, timeout: float
    ) -> tuple[InferenceResponse, str]:
        """Send one request; return its answer, and where its time went, if that is asked for."""
        infer, told = self._connections.get()[1], ""
        answer: bytes
        try:
            if timed:
                rpc = AsyncTimedRpc(infer)
                answer, told = await rpc.ask(encode_request(request), timeout, self._metadata)
            else:
                answer = await infer(encode_request(request), timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._error_of(error, "ModelInfer", request.model, request.version, timeout) from None
        return decode_response(answer), told

    async def stream(
        self, request: InferenceRequest, timeout: float
    ) -> AsyncGenerator[InferenceResponse, None]:
        """Yield the pieces of an answer as they come; ``timeout`` (seconds) is for each of them."""
        start_stream: Any = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        call = start_stream(
            iter([encode_request(request)]), metadata=(*self._metadata, ("triton_grpc_error", "true"))
        )
        timer = AsyncStallTimer(timeout, call.cancel)
        timer.wait()
        try:
            async for message in call:
                timer.pause()
                yield piece_of(message, model=request.model, version=request.version)
                timer.wait()
        except (grpc.RpcError, AsyncCancelled) as error:
            if timer.expired:
                raise DeadlineExceeded(f"the server sent nothing for {timeout:g} s") from None
            if not isinstance(error, grpc.RpcError):
                raise
            raise self._error_of(error, "ModelStreamInfer", request.model, request.version) from None
        finally:
            timer.end()
            call.cancel()

    def _error_of(
        self, error: Any, rpc: str, model: str = "", version: str = "", timeout: float | None = None
    ) -> MooringError:
        if timeout is not None and error.details() == "Deadline Exceeded":  # the library's own words
            return DeadlineExceeded(f"the server did not answer within {timeout:.3g} s")
        return error_of(error, self._address, rpc, model=model, version=version)

    async def live(self, timeout: float) -> bool:
        """Whether the server runs."""
        answer: messages.ServerLiveResponse = await self._call("ServerLive", timeout)
        return answer.live

    async def ready(self, model: str, version: str, timeout: float) -> bool:
        """Whether the server, or one of its models, can answer now."""
        if not model:
            server: messages.ServerReadyResponse = await self._call("ServerReady", timeout)
            return server.ready
        answer: messages.ModelReadyResponse = await self._call(
            "ModelReady", timeout, name=model, version=version
        )
        if not answer.ready:
            await self._require_known(model, version, timeout)
        return answer.ready

    async def _require_known(self, model: str, version: str, timeout: float) -> None:
        """Raise ``ModelNotFound`` for an unknown model, as HTTP does: ModelReady answers only that it is not ready."""
        with suppress(ModelNotReady):
            await self._call("ModelMetadata", timeout, name=model, version=version)

    async def server(self, timeout: float) -> ServerMetadata:
        """Return the server's name, version and extensions."""
        return server_of(document_of(await self._call("ServerMetadata", timeout)))

    async def metadata(self, model: str, version: str, timeout: float) -> ModelMetadata:
        """Return a model's inputs, outputs and versions."""
        return metadata_of(
            document_of(await self._call("ModelMetadata", timeout, name=model, version=version))
        )

    async def config(self, model: str, version: str, timeout: float) -> Mapping[str, Any]:
        """Return the configuration that a model was loaded with."""
        answer = document_of(await self._call("ModelConfig", timeout, name=model, version=version))
        config: dict[str, Any] = answer["config"]
        return config

    async def usage(self, model: str, version: str, timeout: float) -> list[ModelUsage]:
        """Return the statistics of one model, or of all models when ``model`` is empty."""
        return usage_of(
            document_of(await self._call("ModelStatistics", timeout, name=model, version=version))
        )

    async def index(self, timeout: float) -> list[IndexEntry]:
        """List every model in the repository."""
        return index_of(document_of(await self._call("RepositoryIndex", timeout))["models"])

    async def load(
        self,
        model: str,
        config: Mapping[str, Any] | None,
        files: Mapping[str, bytes] | None,
        parameters: Mapping[str, Parameter] | None,
        timeout: float,
    ) -> None:
        """Load a model of the repository."""
        fields = {name: _encode_parameter(value) for name, value in load_parameters(config, parameters)}
        for name, data in (files or {}).items():
            fields[f"file:{name}"] = messages.ModelRepositoryParameter(bytes_param=data)
        await self._call("RepositoryModelLoad", timeout, model_name=model, parameters=fields)

    async def unload(self, model: str, dependents: bool, timeout: float) -> None:
        """Unload every version of a model."""
        fields = {"unload_dependents": messages.ModelRepositoryParameter(bool_param=dependents)}
        await self._call("RepositoryModelUnload", timeout, model_name=model, parameters=fields)

    async def _call(self, rpc: str, timeout: float, **fields: Any) -> Any:
        """Call the unary RPC ``rpc``, whose messages are ``{rpc}Request`` and ``{rpc}Response``."""
        request = getattr(messages, f"{rpc}Request")(**fields)
        call = self._channel.unary_unary(
            f"{SERVICE}{rpc}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(messages, f"{rpc}Response").FromString,
        )
        try:
            return await call(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            model = fields.get("name") or fields.get("model_name") or ""
            raise self._error_of(error, rpc, model, fields.get("version", ""), timeout) from None


def _encode_parameter(value: Parameter) -> messages.ModelRepositoryParameter:
    if isinstance(value, bool):
        return messages.ModelRepositoryParameter(bool_param=value)
    if isinstance(value, int):
        return messages.ModelRepositoryParameter(int64_param=value)
    return messages.ModelRepositoryParameter(string_param=str(value))
