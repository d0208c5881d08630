# Made by scripts/unasync.py of aio/client.py: do not edit.
"""The models of a server, in calls that take Python values and give numpy arrays or Python values."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from random import random
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from mooring.client.address import DEFAULT_URL, Address, Trust, identities, verification
from mooring.client.conversion import Input, differing, is_exact, request_of
from mooring.client.declarations import Declarations
from mooring.client.faults import explain_pieces
from mooring.client.options import read_count, read_headers, read_seconds
from mooring.client.result import IndexEntry, Result, ServerMetadata
from mooring.client.retries import RetryPolicy, repeat_after
from mooring.client.timing import parse_timing
from mooring.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidOutput,
    ModelNotReady,
    MooringError,
    Unsupported,
)
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata, ModelUsage
from mooring.core.tensors import Parameter, TensorSpec

T = TypeVar("T")


class Transport(Protocol):
    """One protocol, spoken with one server. What fails is a ``MooringError``; ``timeout`` is in seconds.

    ``infer`` also returns what the server says of the time, asked by ``timed``.
    """

    def close(self) -> None: ...

    def infer(
        self, request: InferenceRequest, timed: bool, timeout: float
    ) -> tuple[InferenceResponse, str]: ...

    def stream(
        self, request: InferenceRequest, timeout: float
    ) -> Generator[InferenceResponse, None, None]: ...

    def live(self, timeout: float) -> bool: ...

    def ready(self, model: str, version: str, timeout: float) -> bool: ...

    def server(self, timeout: float) -> ServerMetadata: ...

    def metadata(self, model: str, version: str, timeout: float) -> ModelMetadata: ...

    def config(self, model: str, version: str, timeout: float) -> Mapping[str, Any]: ...

    def usage(self, model: str, version: str, timeout: float) -> list[ModelUsage]: ...

    def index(self, timeout: float) -> list[IndexEntry]: ...

    def load(
        self,
        model: str,
        config: Mapping[str, Any] | None,
        files: Mapping[str, bytes] | None,
        parameters: Mapping[str, Parameter] | None,
        timeout: float,
    ) -> None: ...

    def unload(self, model: str, dependents: bool, timeout: float) -> None: ...


class Client:
    """A server that speaks the Open Inference Protocol: Mooring, or another.

    ``url`` names the server and how to speak with it: ``http://`` and ``https://`` are REST, ``grpc://`` and
    ``grpcs://`` gRPC; without a scheme it is REST. ``timeout`` is in seconds, for every call that names none of its own,
    its repetitions included; ``connect_timeout`` is the part of it that a connection may take. At most ``retries``
    repetitions are made of a call for which no model has run. ``token`` is what a server with tokens asks for, and goes
    with each call as ``headers`` do. ``ca`` is a file of certificates to trust in place of the machine's;
    ``certificate`` and ``key`` are files with what to show a server that asks for one, or one file that holds both; all
    are PEM. Over REST tensors travel in binary unless ``binary`` is off, over at most ``max_connections`` connections;
    over gRPC they always do, and one connection carries all calls.

    A refusal is raised as the ``MooringError`` that the protocol's status stands for; a server that cannot be reached,
    or that is not one of the protocol, raises ``ServerUnreachable``. Raises ``InvalidInput`` for a wrong argument or file. Use
    the client as a context manager, or ``close`` it. It may be used by any number of tasks or threads at once.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
        retries: int = 2,
        max_connections: int = 100,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        ca: str = "",
        certificate: str = "",
        key: str = "",
        binary: bool = True,
    ) -> None:
        sent = read_headers(headers, token)
        self._address = Address.of(url)
        self._timeout = read_seconds("timeout", timeout)
        self._retries = RetryPolicy(read_count("retries", retries, 0))
        self._declarations = Declarations()
        self._closed = False
        self._transport = _make_transport(
            self._address,
            read_seconds("connect_timeout", connect_timeout),
            sent,
            Trust(ca, certificate, key),
            binary,
            read_count("max_connections", max_connections, 1),
        )

    def __repr__(self) -> str:
        protocol = "gRPC" if self._address.grpc else "REST"
        return f"<mooring.Client of {self._address.shown}, {protocol}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client is of no use after that; closing it again does nothing."""
        if not self._closed:
            self._closed = True
            self._transport.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Input] | Input,
        *,
        version: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        outputs: Sequence[str] = (),
        request_id: str = "",
        timeout: float | None = None,
        timing: bool = False,
    ) -> Result:
        """The outputs of a model for these inputs: all of them, or those named.

        ``inputs`` are values by input name, or the value of the only input. They are converted to what the model
        declares, as far as that changes no value but by rounding to a narrower float type. A model whose only input is
        JSON takes a mapping with other keys as the value of that input. Raises ``InvalidInput`` for what does not fit.
        With ``timing`` the server is asked where the time goes, and the result has that as ``timing``.
        """
        limit = self._seconds(timeout)
        until = monotonic() + limit
        build = partial(
            request_of, model, inputs,
            version=version, request_id=request_id, parameters=parameters, outputs=outputs,
        )  # fmt: skip
        request, fresh = self._prepare(inputs, build, model, version, until)
        try:
            answer, told = self._repeat(partial(self._transport.infer, request, timing), until)
        except InvalidInput as error:
            again = None if fresh else self._prepare_anew(request, error, inputs, build, until)
            if again is None:
                raise
            answer, told = self._repeat(partial(self._transport.infer, again, timing), until)
        except Unsupported as error:
            raise explain_pieces(error, model) from error
        result = self._result_of(answer, model, version)
        result.timing = parse_timing(told)
        return result

    def stream(
        self,
        model: str,
        inputs: Mapping[str, Input] | Input,
        *,
        version: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        outputs: Sequence[str] = (),
        request_id: str = "",
        timeout: float | None = None,
    ) -> Generator[Result, None, None]:
        """The pieces of a streamed answer, each when it comes. Leaving the loop withdraws the request.

        ``inputs`` are those of ``infer``. ``timeout`` is for each piece. A call is repeated only before its first piece.
        """
        limit = self._seconds(timeout)
        until, done, begun = monotonic() + limit, 0, False
        self._check_open()
        build = partial(
            request_of, model, inputs,
            version=version, request_id=request_id, parameters=parameters, outputs=outputs,
        )  # fmt: skip
        request, fresh = self._prepare(inputs, build, model, version, until)
        while True:
            try:
                with closing(self._transport.stream(request, limit)) as pieces:
                    for piece in pieces:
                        begun = True
                        if piece.outputs:  # the last one of a stream may have none
                            yield self._result_of(piece, model, version)
                return
            except MooringError as error:
                if begun:
                    raise
                again = None
                if isinstance(error, InvalidInput) and not fresh:
                    again = self._prepare_anew(request, error, inputs, build, until)
                if again is None:
                    self._pause(error, done, until)
                    done += 1
                else:
                    request, fresh = again, True

    def live(self) -> bool:
        """Whether the server runs."""
        return self._ask(self._transport.live)

    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether a model, or with no name the server, can answer now. Raises ``ModelNotFound``."""
        return self._ask(partial(self._transport.ready, model, version))

    def server(self) -> ServerMetadata:
        """Return the server's name, version and extensions."""
        return self._ask(self._transport.server)

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Return the inputs, outputs and versions of a loaded model."""
        metadata = self._ask(partial(self._transport.metadata, model, version))
        self._declarations.put(model, version, metadata)
        return metadata

    def config(self, model: str, version: str = "") -> Mapping[str, Any]:
        """Return a model's configuration, as Triton's model configuration in JSON."""
        return self._ask(partial(self._transport.config, model, version))

    def usage(self, model: str = "", version: str = "") -> list[ModelUsage]:
        """Return the statistics of one version, of all versions of a model, or of all models."""
        return self._ask(partial(self._transport.usage, model, version))

    def models(self) -> list[IndexEntry]:
        """List every model of the server's repository, loaded or not."""
        return self._ask(self._transport.index)

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
        self._declarations.drop(model)
        self._ask(partial(self._transport.load, model, config, files, parameters), timeout)

    def unload(self, model: str, *, dependents: bool = False, timeout: float | None = None) -> None:
        """Unload every version of a model, and with ``dependents`` the stages that only it uses."""
        self._declarations.drop(model)
        self._ask(partial(self._transport.unload, model, dependents), timeout)

    def _prepare(
        self, inputs: Any, build: Callable[..., InferenceRequest], model: str, version: str, until: float
    ) -> tuple[InferenceRequest, bool]:
        """Return the request, and whether it was built by what the server says of the model just now."""
        known = self._declarations.get(model, version)
        if known is not None:
            try:
                return build(known.inputs), False
            except InvalidInput:  # the model may be another one by now
                pass
        elif is_exact(inputs):
            return build(), False
        named = isinstance(inputs, Mapping)
        try:
            # With names there is another way for a model that is not ready, and with that its own repetitions.
            return build(self._fetch_inputs(model, version, until, inference=not named)), True
        except (ModelNotReady, Unsupported, InvalidOutput):
            if not named:
                raise
            return build(), False

    def _prepare_anew(
        self,
        sent: InferenceRequest,
        refusal: InvalidInput,
        inputs: Any,
        build: Callable[..., InferenceRequest],
        until: float,
    ) -> InferenceRequest | None:
        """Return the request as the model declares its inputs now, None where the refusal is not for what was sent.

        A model that takes any type may have run, and refused for a reason of its own.
        """
        if isinstance(inputs, Mapping) and not inputs:
            return None
        known = self._declarations.get(sent.model, sent.version)
        try:
            specs = self._fetch_inputs(sent.model, sent.version, until)
        except MooringError:
            return None
        again = build(specs)
        changed = differing(sent.inputs, again.inputs)
        if known is None and not any(f"'{name}'" in refusal.message for name in changed):
            return None
        return again if changed else None

    def _fetch_inputs(
        self, model: str, version: str, until: float, *, inference: bool = False
    ) -> Sequence[TensorSpec]:
        metadata = self._repeat(partial(self._transport.metadata, model, version), until, inference=inference)
        self._declarations.put(model, version, metadata)
        return metadata.inputs

    def _seconds(self, timeout: float | None) -> float:
        """Return the seconds of a call."""
        return self._timeout if timeout is None else read_seconds("timeout", timeout)

    def _result_of(self, answer: InferenceResponse, model: str, version: str) -> Result:
        known = self._declarations.get(model, version)
        return Result(answer, () if known is None else known.outputs)

    def _ask(self, call: Callable[[float], T], timeout: float | None = None) -> T:
        """Return what a call of something else than a model returns."""
        until = monotonic() + self._seconds(timeout)
        return self._repeat(call, until, inference=False)

    def _repeat(self, call: Callable[[float], T], until: float, *, inference: bool = True) -> T:
        """Return what ``call`` returns, called with the seconds that are left, and again where it may be repeated."""
        self._check_open()
        done = 0
        while True:
            left = until - monotonic()
            if left <= 0:
                raise DeadlineExceeded("the time of the call is over")
            try:
                return call(left)
            except MooringError as error:
                self._pause(error, done, until, inference=inference)
            done += 1

    def _pause(self, error: MooringError, done: int, until: float, *, inference: bool = True) -> None:
        """Wait until a failed call may be repeated. Raises its error where it may not."""
        after = repeat_after(error, inference=inference)
        pause = self._retries.pause(after, done, left=until - monotonic(), chance=random())  # noqa: S311 - no secret
        if pause is None:
            raise error
        sleep(pause)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self!r}: make a new one")


def _make_transport(
    address: Address,
    connect_timeout: float,
    headers: Mapping[str, str],
    trust: Trust,
    binary: bool,
    max_connections: int,
) -> Transport:
    # Each is imported only where it is used: httpx and gRPC take a tenth of a second each.
    if address.grpc:
        import grpc  # noqa: PLC0415

        from mooring.client.sync.rpc import Rpc  # noqa: PLC0415

        credentials = None
        if address.scheme == "grpcs":
            roots, certificate, key = identities(trust)
            credentials = grpc.ssl_channel_credentials(roots, key, certificate)
        return Rpc(address, connect_timeout=connect_timeout, headers=headers, credentials=credentials)
    from mooring.client.sync.rest import Rest  # noqa: PLC0415

    return Rest(
        address,
        connect_timeout=connect_timeout,
        headers=headers,
        verify=verification(trust, secure=address.secure),
        binary=binary,
        max_connections=max_connections,
    )
