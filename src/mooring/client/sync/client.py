# Made by scripts/unasync.py of aio/client.py: do not edit.
"""The models of a server, in calls that take and give numpy arrays."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Protocol, Self

from mooring.client.address import DEFAULT_URL, Address, Trust, identities, verification
from mooring.client.result import IndexEntry, Input, Result, ServerMetadata, request_of
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata, ModelUsage
from mooring.core.tensors import Parameter


class Transport(Protocol):
    """One protocol, spoken with one server. What fails is a ``MooringError``."""

    def close(self) -> None: ...

    def infer(self, request: InferenceRequest, timeout: float | None) -> InferenceResponse: ...

    def stream(
        self, request: InferenceRequest, timeout: float | None
    ) -> Generator[InferenceResponse, None, None]: ...

    def live(self) -> bool: ...

    def ready(self, model: str, version: str) -> bool: ...

    def server(self) -> ServerMetadata: ...

    def metadata(self, model: str, version: str) -> ModelMetadata: ...

    def config(self, model: str, version: str) -> Mapping[str, Any]: ...

    def usage(self, model: str, version: str) -> list[ModelUsage]: ...

    def index(self) -> list[IndexEntry]: ...

    def load(
        self,
        model: str,
        config: Mapping[str, Any] | None,
        files: Mapping[str, bytes] | None,
        parameters: Mapping[str, Parameter] | None,
        timeout: float | None,
    ) -> None: ...

    def unload(self, model: str, dependents: bool, timeout: float | None) -> None: ...


class Client:
    """A server that speaks the Open Inference Protocol: Mooring, or another.

    ``url`` names the server and how to speak with it: ``http://`` and ``https://`` are REST, ``grpc://`` and
    ``grpcs://`` gRPC. ``timeout`` is in seconds, for every call that names none of its own; ``token`` is what a
    server with tokens asks for, and goes with each call as ``headers`` do. ``ca`` is a file of certificates to trust
    in place of the machine's; ``certificate`` and ``key`` are files with what to show a server that asks for one, or
    one file that holds both; all are PEM. Over REST tensors travel in binary
    unless ``binary`` is off; over gRPC they always do.

    A refusal is raised as the ``MooringError`` that the protocol's status stands for; a server that cannot be reached
    raises ``ServerUnreachable``. Use the client as a context manager, or ``close`` it.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = 60.0,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        ca: str = "",
        certificate: str = "",
        key: str = "",
        binary: bool = True,
    ) -> None:
        sent = dict(headers or {}) | ({"authorization": f"Bearer {token}"} if token else {})
        trust = Trust(ca, certificate, key)
        self._transport = _make_transport(Address.of(url), timeout, sent, trust, binary)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client is of no use after that."""
        self._transport.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Input],
        *,
        version: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        outputs: Sequence[str] = (),
        request_id: str = "",
        timeout: float | None = None,
    ) -> Result:
        """The outputs of a model for these inputs: all of them, or those named."""
        request = request_of(
            model, inputs, version=version, request_id=request_id, parameters=parameters, outputs=outputs
        )
        return Result(self._transport.infer(request, timeout))

    def stream(
        self,
        model: str,
        inputs: Mapping[str, Input],
        *,
        version: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        outputs: Sequence[str] = (),
        request_id: str = "",
        timeout: float | None = None,
    ) -> Generator[Result, None, None]:
        """The pieces of a streamed answer, each when it comes. Leaving the loop withdraws the request."""
        request = request_of(
            model, inputs, version=version, request_id=request_id, parameters=parameters, outputs=outputs
        )
        with closing(self._transport.stream(request, timeout)) as pieces:
            for piece in pieces:
                if piece.outputs:  # the last one of a stream may have none
                    yield Result(piece)

    def live(self) -> bool:
        """Whether the server runs."""
        return self._transport.live()

    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether a model, or with no name the server, can answer now. Raises ``ModelNotFound``."""
        return self._transport.ready(model, version)

    def server(self) -> ServerMetadata:
        """Return the server's name, version and extensions."""
        return self._transport.server()

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Return the inputs, outputs and versions of a loaded model."""
        return self._transport.metadata(model, version)

    def config(self, model: str, version: str = "") -> Mapping[str, Any]:
        """Return a model's configuration, as Triton's model configuration in JSON."""
        return self._transport.config(model, version)

    def usage(self, model: str = "", version: str = "") -> list[ModelUsage]:
        """Return the statistics of one version, of all versions of a model, or of all models."""
        return self._transport.usage(model, version)

    def models(self) -> list[IndexEntry]:
        """List every model of the server's repository, loaded or not."""
        return self._transport.index()

    def load(
        self,
        model: str,
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Load a model of the repository, anew if it is loaded, and return when it is ready.

        ``config`` overrides keys of its configuration, ``files`` are used in place of the repository's.
        """
        self._transport.load(model, config, files, parameters, timeout)

    def unload(self, model: str, *, dependents: bool = False, timeout: float | None = None) -> None:
        """Unload every version of a model, and with ``dependents`` the stages that only it uses."""
        self._transport.unload(model, dependents, timeout)


def _make_transport(
    address: Address, timeout: float, headers: Mapping[str, str], trust: Trust, binary: bool
) -> Transport:
    # Each is imported only where it is used: httpx and gRPC take a tenth of a second each.
    if address.grpc:
        import grpc  # noqa: PLC0415

        from mooring.client.sync.rpc import Rpc  # noqa: PLC0415

        credentials = None
        if address.scheme == "grpcs":
            roots, certificate, key = identities(trust)
            credentials = grpc.ssl_channel_credentials(roots, key, certificate)
        return Rpc(address.authority, timeout=timeout, headers=headers, credentials=credentials)
    from mooring.client.sync.rest import Rest  # noqa: PLC0415

    return Rest(address.url, timeout=timeout, headers=headers, verify=verification(trust), binary=binary)
