"""A server over HTTP."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx
import msgspec

from mooring.client.address import Address
from mooring.client.connections import AsyncConnections
from mooring.client.documents import index_of, metadata_of, server_of, usage_of
from mooring.client.faults import connect_timeout, connection_error, is_page, misdirected, texts_of
from mooring.client.http_pool import AsyncHTTPPool
from mooring.client.rest_calls import (
    Call,
    answer_of,
    error_of,
    event_of,
    infer_call,
    load_body,
    model_path,
    stream_call,
)
from mooring.client.result import IndexEntry, ServerMetadata
from mooring.core.errors import DeadlineExceeded, InvalidOutput, MooringError
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata, ModelUsage
from mooring.core.tensors import Parameter

_INFERENCE = ("/infer", "/generate_stream")


class AsyncRest:
    """The calls of the protocol as requests to a server. Connections are kept and used again."""

    def __init__(
        self,
        address: Address,
        *,
        connect_timeout: float,
        headers: Mapping[str, str],
        verify: Any,
        binary: bool,
        max_connections: int,
    ) -> None:
        self._address = address
        self._binary = binary
        self._connect_timeout = connect_timeout
        self._max_connections = max_connections
        self._headers = dict(headers)
        self._verify = verify
        self._connections = AsyncConnections(self._connect)

    def _connect(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._address.url,
            headers=self._headers,
            trust_env=False,
            transport=AsyncHTTPPool(self._verify, self._max_connections),
        )

    async def close(self) -> None:
        """Close the connections."""
        http = self._connections.pop()
        if http is not None:
            await http.aclose()

    async def infer(
        self, request: InferenceRequest, timed: bool, timeout: float
    ) -> tuple[InferenceResponse, str]:
        """Send one request; return its answer, and where its time went, if that is asked for."""
        call = infer_call(request, binary=self._binary, timed=timed)
        answer = await self._request(call, timeout, model=request.model, version=request.version)
        return answer_of(answer.headers, answer.content), answer.headers.get("server-timing", "")

    async def stream(
        self, request: InferenceRequest, timeout: float
    ) -> AsyncGenerator[InferenceResponse, None]:
        """Yield the pieces of an answer as they come; ``timeout`` (seconds) is for each of them."""
        call, model, version = stream_call(request), request.model, request.version
        try:
            async with self._connections.get().stream(
                call.method,
                call.path,
                content=call.body,
                headers=call.headers,
                timeout=self._timeouts(timeout),
            ) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    raise self._refusal(answer, call.path, model, version)
                async for line in answer.aiter_lines():
                    piece = event_of(line, model=model, version=version)
                    if piece is not None:
                        yield piece
        except httpx.HTTPError as error:
            raise self._connection_error(error, timeout) from error

    async def live(self, timeout: float) -> bool:
        """Whether the server runs."""
        return await self._is_ok("/v2/health/live", timeout)

    async def ready(self, model: str, version: str, timeout: float) -> bool:
        """Whether the server, or one of its models, can answer now."""
        if not model:
            return await self._is_ok("/v2/health/ready", timeout)
        return await self._is_ok(model_path(model, version, "/ready"), timeout, model=model, version=version)

    async def server(self, timeout: float) -> ServerMetadata:
        """Return the server's name, version and extensions."""
        return server_of(await self._get_document("/v2", timeout))

    async def metadata(self, model: str, version: str, timeout: float) -> ModelMetadata:
        """Return a model's inputs, outputs and versions."""
        return metadata_of(
            await self._get_document(model_path(model, version), timeout, model=model, version=version)
        )

    async def config(self, model: str, version: str, timeout: float) -> Mapping[str, Any]:
        """Return the configuration that a model was loaded with."""
        return await self._get_document(
            model_path(model, version, "/config"), timeout, model=model, version=version
        )

    async def usage(self, model: str, version: str, timeout: float) -> list[ModelUsage]:
        """Return the statistics of one model, or of all models when ``model`` is empty."""
        path = model_path(model, version, "/stats") if model else "/v2/models/stats"
        return usage_of(await self._get_document(path, timeout, model=model, version=version))

    async def index(self, timeout: float) -> list[IndexEntry]:
        """List every model in the repository."""
        answer = await self._request(Call("POST", "/v2/repository/index"), timeout)
        return index_of(_decode_json(answer.content))

    async def load(
        self,
        model: str,
        config: Mapping[str, Any] | None,
        files: Mapping[str, bytes] | None,
        parameters: Mapping[str, Parameter] | None,
        timeout: float,
    ) -> None:
        """Load a model of the repository."""
        await self._request(
            _repository_call(model, "load", load_body(config, files, parameters)), timeout, model=model
        )

    async def unload(self, model: str, dependents: bool, timeout: float) -> None:
        """Unload every version of a model."""
        body = msgspec.json.encode({"parameters": {"unload_dependents": dependents}})
        await self._request(_repository_call(model, "unload", body), timeout, model=model)

    async def _is_ok(self, path: str, timeout: float, *, model: str = "", version: str = "") -> bool:
        try:
            answer = await self._connections.get().get(path, timeout=self._timeouts(timeout))
        except httpx.HTTPError as error:
            raise self._connection_error(error, timeout) from error
        # 404 is a fault of the caller; servers say not ready with 400 or 503. 505 and a page are of another port.
        if answer.status_code in (401, 403, 404, 505) or is_page(answer.headers):
            raise self._refusal(answer, path, model, version)
        return answer.status_code == 200

    async def _get_document(
        self, path: str, timeout: float, *, model: str = "", version: str = ""
    ) -> dict[str, Any]:
        answer = await self._request(Call("GET", path), timeout, model=model, version=version)
        document = _decode_json(answer.content)
        if not isinstance(document, dict):
            raise InvalidOutput(f"the server answered {path} with something other than an object")
        return document

    async def _request(
        self, call: Call, timeout: float, *, model: str = "", version: str = ""
    ) -> httpx.Response:
        try:
            answer = await self._connections.get().request(
                call.method,
                call.path,
                content=call.body,
                headers=call.headers,
                timeout=self._timeouts(timeout),
            )
        except httpx.HTTPError as error:
            raise self._connection_error(error, timeout) from error
        if answer.status_code != 200 or is_page(answer.headers):
            raise self._refusal(answer, call.path, model, version)
        return answer

    def _timeouts(self, timeout: float) -> httpx.Timeout:
        return httpx.Timeout(timeout, connect=min(self._connect_timeout, timeout))

    def _refusal(self, answer: httpx.Response, path: str, model: str, version: str) -> MooringError:
        status, headers, body = answer.status_code, answer.headers, answer.content
        elsewhere = misdirected(self._address, path, status, headers, body)
        inference = path.endswith(_INFERENCE)
        text = _strip_event_prefix(body)
        return elsewhere or error_of(status, headers, text, model=model, version=version, inference=inference)

    def _connection_error(self, error: httpx.HTTPError, timeout: float) -> MooringError:
        if isinstance(error, httpx.ConnectTimeout):
            return connect_timeout(self._address, min(self._connect_timeout, timeout))
        if isinstance(error, httpx.PoolTimeout):
            return DeadlineExceeded(
                f"no connection became free in time; max_connections is {self._max_connections}"
            )
        if isinstance(error, httpx.TimeoutException):
            return DeadlineExceeded(f"the server did not answer within {timeout:.3g} s")
        return connection_error(
            self._address, "\n".join(filter(None, texts_of(error))) or type(error).__name__
        )


def _repository_call(model: str, verb: str, body: bytes) -> Call:
    path = model_path(model, "", f"/{verb}").replace("/v2/models/", "/v2/repository/models/", 1)
    return Call("POST", path, body, {"content-type": "application/json"})


def _strip_event_prefix(body: bytes) -> bytes:
    """Return an error's text without the ``data:`` that a stream of events puts before it."""
    return body.strip().removeprefix(b"data:").strip()


def _decode_json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidOutput(f"the server's answer cannot be read: {error}") from None
