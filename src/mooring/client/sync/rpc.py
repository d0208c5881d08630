# Made by scripts/unasync.py of aio/rpc.py: do not edit.
"""A server over gRPC."""

from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import Any

import grpc

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


class Rpc:
    """The calls of the protocol as RPCs to ``target``; ``roots`` are the certificates to trust, None for no TLS."""

    def __init__(self, target: str, *, timeout: float, headers: Mapping[str, str], credentials: Any) -> None:
        self._timeout = timeout
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._channel = (
            grpc.insecure_channel(target, OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, OPTIONS)
        )
        self._infer: Any = self._channel.unary_unary(f"{SERVICE}ModelInfer")

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def infer(self, request: InferenceRequest, timeout: float | None) -> InferenceResponse:
        """One answer to one request."""
        try:
            answer: bytes = self._infer(
                encode_request(request), timeout=timeout or self._timeout, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise error_of(error, model=request.model, version=request.version) from None
        return decode_response(answer)

    def stream(
        self, request: InferenceRequest, timeout: float | None
    ) -> Generator[InferenceResponse, None, None]:
        """The pieces of an answer, each when it comes; ``timeout`` is for all of them."""
        ask: Any = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        call = ask(iter([encode_request(request)]), timeout=timeout or self._timeout, metadata=self._metadata)
        try:
            for message in call:
                yield piece_of(message, model=request.model, version=request.version)
        except grpc.RpcError as error:
            raise error_of(error, model=request.model, version=request.version) from None
        finally:
            call.cancel()

    def live(self) -> bool:
        """Whether the server runs."""
        answer: messages.ServerLiveResponse = self._ask("ServerLive")
        return answer.live

    def ready(self, model: str, version: str) -> bool:
        """Whether the server, or one of its models, can answer now."""
        if not model:
            server: messages.ServerReadyResponse = self._ask("ServerReady")
            return server.ready
        answer: messages.ModelReadyResponse = self._ask("ModelReady", name=model, version=version)
        if not answer.ready:
            self._require(model, version)
        return answer.ready

    def _require(self, model: str, version: str) -> None:
        """Over gRPC a model that there is not is just not ready; over HTTP it is not found, and so it is here."""
        with suppress(ModelNotReady):
            self._ask("ModelMetadata", name=model, version=version)

    def server(self) -> ServerMetadata:
        """What the server says of itself."""
        return server_of(document_of(self._ask("ServerMetadata")))

    def metadata(self, model: str, version: str) -> ModelMetadata:
        """What a model says of itself."""
        return metadata_of(document_of(self._ask("ModelMetadata", name=model, version=version)))

    def config(self, model: str, version: str) -> Mapping[str, Any]:
        """What a model was loaded with."""
        answer = document_of(self._ask("ModelConfig", name=model, version=version))
        config: dict[str, Any] = answer["config"]
        return config

    def usage(self, model: str, version: str) -> list[ModelUsage]:
        """What one model has done, or every one."""
        return usage_of(document_of(self._ask("ModelStatistics", name=model, version=version)))

    def index(self) -> list[IndexEntry]:
        """Every model that there is."""
        return index_of(document_of(self._ask("RepositoryIndex"))["models"])

    def load(
        self,
        model: str,
        config: Mapping[str, Any] | None,
        files: Mapping[str, bytes] | None,
        parameters: Mapping[str, Parameter] | None,
        timeout: float | None,
    ) -> None:
        """Load a model of the repository."""
        given = {name: _parameter(value) for name, value in load_parameters(config, parameters)}
        for name, data in (files or {}).items():
            given[f"file:{name}"] = messages.ModelRepositoryParameter(bytes_param=data)
        self._ask("RepositoryModelLoad", timeout, model_name=model, parameters=given)

    def unload(self, model: str, dependents: bool, timeout: float | None) -> None:
        """Unload every version of a model."""
        given = {"unload_dependents": messages.ModelRepositoryParameter(bool_param=dependents)}
        self._ask("RepositoryModelUnload", timeout, model_name=model, parameters=given)

    def _ask(self, rpc: str, timeout: float | None = None, **fields: Any) -> Any:
        """Call an RPC whose messages are called like it."""
        request = getattr(messages, f"{rpc}Request")(**fields)
        call = self._channel.unary_unary(
            f"{SERVICE}{rpc}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(messages, f"{rpc}Response").FromString,
        )
        try:
            return call(request, timeout=timeout or self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            model = fields.get("name") or fields.get("model_name") or ""
            raise error_of(error, model=model, version=fields.get("version", "")) from None


def _parameter(value: Parameter) -> messages.ModelRepositoryParameter:
    if isinstance(value, bool):
        return messages.ModelRepositoryParameter(bool_param=value)
    if isinstance(value, int):
        return messages.ModelRepositoryParameter(int64_param=value)
    return messages.ModelRepositoryParameter(string_param=str(value))
