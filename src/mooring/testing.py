"""Asking models in tests: ``Client`` loads them in the test's own process, or in a server of its own.

def test_it_doubles():
with mooring.testing.Client(double) as client:
assert client.predict({"x": [1, 2]}) == {"doubled": [2, 4]}
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

import httpx
import orjson

from mooring.client.conversion import encode_value
from mooring.client.rest_calls import error_of
from mooring.client.result import Result
from mooring.client.sync.client import Client as ServerClient
from mooring.core.errors import DeadlineExceeded, ModelFailed, MooringError, Refused, ServerUnreachable
from mooring.core.requests import BODY, EXPLAIN, INFER, InferenceRequest, InferenceResponse, Operation
from mooring.core.tensors import Parameter, Tensor
from mooring.protocols.torchserve.forms import body_parameters, form_fields, is_form
from mooring.python_api.in_process import InProcessModels
from mooring.python_api.server import RunningServer, serve
from mooring.python_api.settings import check_names

__all__ = ["Client"]

_JSON = "application/json"
_LINES = "application/x-ndjson"
# Arguments of mooring.serve that mean nothing without a server.
_OF_SERVER = ("port", "host", "workers", "log", "quiet")
# What /predictions says of the faults of a model, and with any other status of its refusals.
_FAULTS = (500, 503, 507)
_REFUSED = '"InternalServerException"'
# httpx's words for an answer whose end did not come.
_BROKEN_OFF = "without sending complete message body"
_PATHS = {INFER: "predictions", EXPLAIN: "explanations"}


class Client:
    """Asks the models of a target, for tests of them. Use it as a context manager, or ``close`` it.

    ``target`` is what ``mooring.serve`` takes. The models run in this process: there is no server and no port, and a
    call takes milliseconds. What they are asked and what they answer goes through the same code as over the wire, so
    that type hints, errors and answers are the same. An exception of a model's own code is the ``__cause__`` of the
    ``mooring`` error that is raised for it, with its traceback; a breakpoint in a synchronous model stops in the test.
    Objects are served as they are, and not as copies, so that what a test patches or counts is what the model uses.
    Ask one thing at a time.

    With ``process`` the models run in the workers of a real server (``mooring.serve``) on free ports, which ends with
    the client. ``settings`` are those of ``mooring.serve`` and ``quiet``; without a server those hold that are about models.
    """

    def __init__(self, target: Any, *, process: bool = False, **settings: Any) -> None:
        self._stack = ExitStack()
        self._source: _Source
        if process:
            self._source = _Server(target, settings, self._stack)
        else:
            self._source = _InProcess(target, settings, self._stack)

    @property
    def models(self) -> list[str]:
        """The names of the models."""
        return self._source.models

    @property
    def server(self) -> RunningServer | None:
        """The server of a client with ``process``; None without."""
        return self._source.server

    def predict(
        self,
        body: Any = None,
        *,
        model: str = "",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask a model as ``POST /predictions/MODEL`` does, and return its answer as a Python value.

        ``body`` is sent as JSON, numpy arrays among it too; bytes are sent as they are, with a ``content_type`` such as
        ``image/png``. An answer in JSON comes as the value that it says, text as ``str``, and any other as bytes. ``model``
        may be left out where there is only one. Raises the ``MooringError`` that the request fails with.
        """
        return self._ask(INFER, body, model, content_type, headers)

    def explain(
        self,
        body: Any = None,
        *,
        model: str = "",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask for an explanation as ``POST /explanations/MODEL`` does, with arguments and answers as ``predict``."""
        return self._ask(EXPLAIN, body, model, content_type, headers)

    def stream(
        self,
        body: Any = None,
        *,
        model: str = "",
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Generator[Any, None, None]:
        """Yield the pieces of a streamed answer, each when it comes, as ``predict`` returns a whole one.

        Leaving the loop withdraws the request.
        """
        asked = _Asked(INFER, self._choose(model), *_encode(body, content_type), headers or {})
        with closing(self._source.stream(asked)) as pieces:
            for kind, data in pieces:
                if _bare(kind) == _LINES:
                    yield from _decode(kind, data)
                else:
                    yield _decode(kind, data)

    def infer(
        self,
        inputs: Any,
        *,
        model: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        outputs: Sequence[str] = (),
        request_id: str = "",
    ) -> Result:
        """Ask a model by the Open Inference Protocol, as ``mooring.Client.infer`` does, and return its arrays by name."""
        return self._source.client.infer(
            self._choose(model), inputs, parameters=parameters, outputs=outputs, request_id=request_id
        )

    def close(self) -> None:
        """Close the models, or end the server. The client is of no use after that."""
        self._stack.close()

    def _ask(
        self,
        operation: Operation,
        body: Any,
        model: str,
        content_type: str,
        headers: Mapping[str, str] | None,
    ) -> Any:
        asked = _Asked(operation, self._choose(model), *_encode(body, content_type), headers or {})
        return _decode(*self._source.ask(asked))

    def _choose(self, model: str) -> str:
        if model:
            return model
        if len(self.models) == 1:
            return self.models[0]
        raise TypeError(f"there are several models: say which one, as in model='{self.models[0]}'")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "in this process" if self.server is None else f"at {self.server.url}"
        return f"<mooring.testing.Client of {', '.join(self.models)} {where}>"


class _Asked:
    """A request to TorchServe's inference API: a body with its type, and headers."""

    def __init__(
        self, operation: Operation, model: str, body: bytes, content_type: str, headers: Mapping[str, str]
    ) -> None:
        self.operation = operation
        self.model = model
        self.body = body
        self.headers = {"content-type": content_type, **headers} if content_type else dict(headers)
        self.content_type = content_type


class _Source(Protocol):
    """Where the models are. ``ask`` and ``stream`` give content types and bodies."""

    models: list[str]
    client: ServerClient

    @property
    def server(self) -> RunningServer | None: ...

    def ask(self, asked: _Asked) -> tuple[str, bytes]: ...

    def stream(self, asked: _Asked) -> Generator[tuple[str, bytes], None, None]: ...


class _InProcess:
    """The models in this process."""

    server: RunningServer | None = None

    def __init__(self, target: Any, settings: Mapping[str, Any], stack: ExitStack) -> None:
        check_names(settings, _OF_SERVER)
        about_models = {name: value for name, value in settings.items() if name not in _OF_SERVER}
        self._models = InProcessModels(target, about_models)
        stack.callback(self._models.close)
        self.models = self._models.names
        self.client = ServerClient("http://in-process", retries=0)
        self.client._transport.close()  # noqa: SLF001 - the calls are the client's, and only their way is ours
        self.client._transport = self._models  # type: ignore[assignment]  # noqa: SLF001 - without the calls of repositories

    def ask(self, asked: _Asked) -> tuple[str, bytes]:
        pieces: list[InferenceResponse] = []
        last = self._models.find(asked.model).ask(_request_of(asked), pieces.append)
        bodies = [_body_of(piece) for piece in (*pieces, last)]
        return bodies[0][0], b"".join(data for _, data in bodies)

    def stream(self, asked: _Asked) -> Generator[tuple[str, bytes], None, None]:
        kind = ""
        with closing(self._models.find(asked.model).stream(_request_of(asked))) as pieces:
            for piece in pieces:
                if piece.outputs:
                    content_type, data = _body_of(piece)
                    kind = kind or content_type  # the first one goes ahead of all
                    if data:  # over the wire, too, nothing is no piece
                        yield kind, data


def _request_of(asked: _Asked) -> InferenceRequest:
    """Return the request that the server makes of it (protocols/torchserve/inference.py)."""
    kind = asked.headers.get("content-type", "").encode("latin-1")
    if is_form(kind):
        inputs = form_fields(asked.body, kind)
    else:
        inputs = [Tensor("body", "BYTES", [1], [asked.body], body_parameters(kind))]
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in asked.headers.items()]
    return InferenceRequest(
        asked.model, "", "test", inputs, form=BODY, operation=asked.operation, headers=headers
    )


def _body_of(response: InferenceResponse) -> tuple[str, bytes]:
    """Return the content type and the body of an answer. Raises the error that a handler's status stands for."""
    head = response.head
    outputs = response.tensors
    data = bytes(outputs[0].data[0]) if outputs and outputs[0].data else b""
    if head is not None and head.status >= 400:
        raise error_of(head.status, {}, data, model=response.model)
    return ("" if head is None else head.content_type), data


class _Server:
    """The models in the workers of a server."""

    def __init__(self, target: Any, settings: Mapping[str, Any], stack: ExitStack) -> None:
        self.server: RunningServer = stack.enter_context(serve(target, **{"port": 0, **settings}))
        self.models = self.server.models
        self.client = stack.enter_context(self.server.client())
        self._http = stack.enter_context(
            httpx.Client(base_url=self.server.url, timeout=None, trust_env=False)  # noqa: S113 - a test has its own
        )

    def ask(self, asked: _Asked) -> tuple[str, bytes]:
        try:
            answer = self._http.post(_path_of(asked), content=asked.body, headers=asked.headers)
        except httpx.HTTPError as error:
            raise _failure_of(error, asked.model) from error
        _check_answer(answer, asked)
        return answer.headers.get("content-type", ""), answer.content

    def stream(self, asked: _Asked) -> Generator[tuple[str, bytes], None, None]:
        try:
            with self._http.stream(
                "POST", _path_of(asked), content=asked.body, headers=asked.headers
            ) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    _check_answer(answer, asked)
                content_type = answer.headers.get("content-type", "")
                for piece in _whole_pieces(content_type, answer.iter_raw()):
                    yield content_type, piece
        except httpx.HTTPError as error:
            raise _failure_of(error, asked.model) from error


def _path_of(asked: _Asked) -> str:
    return f"/{_PATHS[asked.operation]}/{quote(asked.model, safe='')}"


def _check_answer(answer: httpx.Response, asked: _Asked) -> None:
    if answer.status_code < 400:
        return
    error = error_of(answer.status_code, answer.headers, answer.content, model=asked.model)
    if answer.status_code not in _FAULTS and _REFUSED in answer.text:
        raise Refused(answer.status_code, error.message)
    raise error


def _failure_of(error: httpx.HTTPError, model: str) -> MooringError:
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"the server did not answer in time: {type(error).__name__}")
    if _BROKEN_OFF in str(error):
        return ModelFailed(
            "the answer broke off: the model failed after it had begun to answer, or the server ended; its log says which",
            model=model,
        )
    return ServerUnreachable(f"the server cannot be reached: {error or type(error).__name__}")


def _whole_pieces(content_type: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces of an answer that came in these chunks: a large piece of JSON may come in several."""
    waiting = b""
    kind = _bare(content_type)
    for chunk in chunks:
        waiting += chunk
        if kind == _LINES:
            whole, _, waiting = waiting.rpartition(b"\n")
            if whole:
                yield whole
        elif kind != _JSON or _is_json(waiting):
            yield waiting
            waiting = b""
    if waiting:
        yield waiting


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _encode(body: Any, content_type: str) -> tuple[bytes, str]:
    """Return the bytes of a body, and its content type."""
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), content_type or "application/octet-stream"
    try:
        data = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # as for integers of more than 64 bits, and for pydantic models
        data = encode_value("body", body)
    return data, content_type or _JSON


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _decode(content_type: str, data: bytes) -> Any:
    """Return a body as a Python value. Without a content type, as handlers leave it, the first form is taken that fits."""
    kind = _bare(content_type)
    if kind == _JSON or kind.endswith("+json"):
        return orjson.loads(data)
    if kind == _LINES:
        return [orjson.loads(line) for line in data.splitlines()]
    if kind.startswith("text/"):
        return data.decode()
    if kind:
        return data
    for decode in (orjson.loads, bytes.decode):
        try:
            return decode(data)
        except ValueError:
            continue
    return data
