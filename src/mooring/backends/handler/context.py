"""The context of a handler: what it can ask of its model and of the requests in its batch (docs/contracts/torchserve.md, 2.5).

There is one ``Context`` for the worker's life; ``begin_batch`` points it at the next batch. Headers are only decoded
when somebody asks for one: most handlers never do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mooring.backends.handler.forms import RowForm
from mooring.backends.handler.metrics import MetricsStore
from mooring.core.options import TORCHSERVE_HEADERS, SequenceHeaders
from mooring.core.requests import Form, InferenceRequest, Operation, ResponseHead
from mooring.core.service import Reply

_SET_BY_SERVER = frozenset(("explain", "describe", "url_path"))


class RequestProcessor:
    """The request headers of one row, and the status and headers that the handler sets on its response."""

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        self._request_header = dict(request_header)
        self._status = 0
        self._phrase = ""
        self._response: dict[str, tuple[str, str]] = {}

    def get_request_property(self, key: str) -> Any:
        return self._request_header.get(key)

    def get_request_properties(self) -> dict[str, Any]:
        return self._request_header

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        # int and str here, where the handler that passes something else sees its error.
        self._status = int(code)
        self._phrase = str(reason_phrase or "")

    def get_response_status_code(self) -> int:
        return self._status or 200

    def get_response_status_phrase(self) -> str:
        return self._phrase

    def add_response_property(self, key: str, value: str) -> None:
        """The last one set wins, whatever the spelling of its name."""
        self._response[key.lower()] = (key, value)

    def get_response_headers(self) -> dict[str, str]:
        return dict(self._response.values())

    def get_response_header(self, key: str) -> str | None:
        return self._response.get(key.lower(), ("", None))[1]

    def response_head(self) -> ResponseHead | None:
        """Return the head of the response; None where the handler set nothing."""
        if not self._status and not self._response:
            return None
        headers = [
            (str(key), str(value))
            for lower, (key, value) in self._response.items()
            if lower != "content-type"
        ]
        content_type = str(self._response.get("content-type", ("", ""))[1])
        return ResponseHead(self._status, self._phrase, content_type, headers)


class Context:
    """The handler's view of the server. Free attributes are the handler's own."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any],
        batch_size: int = 1,
        gpu: int | None = None,
        mms_version: str = "0.12.0",
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: dict[str, Any] | None = None,
        sequence_headers: SequenceHeaders = TORCHSERVE_HEADERS,
    ) -> None:
        self.model_name = model_name
        self.header_key_sequence_id = sequence_headers.id
        self.header_key_sequence_start = sequence_headers.start
        self.header_key_sequence_end = sequence_headers.end
        self.manifest = manifest
        self.model_yaml_config = model_yaml_config or {}
        self.system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.request_ids: dict[int, str] = {}
        self.metrics: Any = MetricsStore(model_name=model_name) if metrics is None else metrics
        self.stopping_criteria: Any = None
        self.cl_socket: Any = None  # there is no socket of the worker's own here; handlers only pass it on
        self._sender: PieceSender | None = None
        self._requests: Sequence[InferenceRequest] = ()
        self._processors: list[RequestProcessor] | None = None

    def begin_batch(
        self, requests: Sequence[InferenceRequest], ids: dict[int, str], sender: "PieceSender | None" = None
    ) -> None:
        """Point at the next batch: the request each row comes from, each row's id, and where its pieces go."""
        self._requests = requests
        self._sender = sender
        self._processors = None
        self.request_ids = ids

    def send_piece(self, row: int, item: Any) -> None:
        """Send a piece of a streamed answer now. Without a batch at hand (in a unit test) it goes nowhere."""
        if self._sender is not None:
            head = self._processors[row].response_head() if self._processors else None
            self._sender.send(row, item, head)

    def cancelled(self, idx: int | None = None) -> bool:
        """Whether nobody waits any more for a row's answer, or where none is named, for any row's of the batch.

        True once a client has gone, has withdrawn its request, or its time has run out: a handler that works for long
        looks now and then, and returns. Mooring's own; without a batch at hand (in a unit test) it is False.
        """
        sender = self._sender
        if sender is None or not self._requests:
            return False
        rows = range(len(self._requests)) if idx is None else (idx,)
        return all(sender.cancelled(row) for row in rows)

    def response_heads(self) -> list[ResponseHead | None] | None:
        """Return the head that the handler set for each row; None where it cannot have set any."""
        if self._processors is None:
            return None
        return [processor.response_head() for processor in self._processors]

    @property
    def request_processor(self) -> list[RequestProcessor]:
        """One per row, made when first asked for."""
        if self._processors is None:
            self._processors = [RequestProcessor(headers_of(request)) for request in self._requests]
        return self._processors

    @request_processor.setter
    def request_processor(self, processors: list[RequestProcessor]) -> None:
        self._processors = processors

    def get_request_id(self, idx: int = 0) -> str | None:
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        if self._processors is None and idx < len(self._requests):
            # BaseHandler asks these two of every request, and they alone are no reason to decode all headers.
            if key == "explain":
                return str(self._requests[idx].operation is Operation.EXPLAIN)
            if key == "describe":
                return "True" if self._requests[idx].operation is Operation.DESCRIBE else None
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        return self.request_processor[idx].get_request_properties()

    def get_sequence_id(self, idx: int) -> Any:
        """Return the id of the row's sequence. Where the model has sequences every row has one."""
        if idx < len(self._requests) and (step := self._requests[idx].sequence) is not None:
            return str(step.id)
        return self.get_request_header(idx, self.header_key_sequence_id)

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        return self.request_processor[idx].get_response_header("content-type")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        for processor in self.request_processor:
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str]:
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        return self.request_processor[idx].get_response_headers()


class PieceSender:
    """Sends the pieces of a streamed answer to the request that each row belongs to."""

    __slots__ = ("_form", "_owners", "_reply", "_requests")

    def __init__(
        self, reply: Reply, form: RowForm, requests: Sequence[InferenceRequest], owners: Sequence[int]
    ) -> None:
        self._reply = reply
        self._form = form
        self._requests = requests
        self._owners = owners

    def send(self, row: int, item: Any, head: ResponseHead | None) -> None:
        """Send one row's piece now. Raises ``InvalidOutput``."""
        piece = self._form.to_piece(self._requests[row], item, head)
        piece.final = False
        self._reply.emit(self._owners[row], piece)

    def cancelled(self, row: int) -> bool:
        """Whether nobody waits for one row's answer."""
        return self._reply.cancelled(self._owners[row])


def headers_of(request: InferenceRequest) -> dict[str, Any]:
    """Return the headers that a handler sees: the content type of each field, the client's headers, then the server's own.

    The server's names are its own in any spelling, so that nobody reaches ``describe_handle`` by a header.
    """
    headers: dict[str, Any] = {}
    if request.form is not Form.INSTANCES:
        for tensor in request.inputs:
            content_type = tensor.parameters.get("content_type", "") if tensor.parameters else ""
            headers[tensor.name] = {"content-type": content_type}
    for raw_name, raw_value in request.headers or ():
        name = raw_name.decode("latin-1")
        if name.lower() not in _SET_BY_SERVER:
            headers[name] = raw_value.decode("latin-1")
    headers["explain"] = str(request.operation is Operation.EXPLAIN)
    headers["url_path"] = request.path
    if request.operation is Operation.DESCRIBE:
        headers["describe"] = "True"
    return headers
