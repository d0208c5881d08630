"""The Open Inference Protocol over HTTP: what the server and its models say of themselves, and inference.

The content type of a request is ignored: clients send none, a form's or octet-stream with plain JSON. Whether binary
tensors follow the JSON depends on ``Inference-Header-Content-Length`` alone.
"""

import math
from collections.abc import Callable

from mooring.codecs.nonfinite import asks_for_null
from mooring.codecs.raw import raw_size
from mooring.codecs.v2_binary_templates import BinaryTemplates, read_document
from mooring.codecs.v2_json import (
    ALL_BINARY,
    JSON_ONLY,
    REGION,
    InferBody,
    OutputSelection,
    Regions,
    decode_request,
    encode_response,
    encode_short_answer,
    refuse_regions,
    select_outputs,
)
from mooring.codecs.v2_json_templates import JsonTemplates
from mooring.core.buffers import LARGE, Buffer, Payload
from mooring.core.errors import ElsewhereOnly, InvalidInput, MooringError, Unsupported
from mooring.core.requests import (
    INFER,
    NOBODY,
    SERVER,
    BodyKind,
    InferenceRequest,
    InferenceResponse,
    Operation,
    UndecodedBody,
)
from mooring.core.service import InferenceService
from mooring.core.tensors import NUMPY_TYPES, Tensor, TensorSpec, release, share_payload
from mooring.protocols.answers import Answer
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve import operations as calls
from mooring.protocols.kserve.bodies import Bodies
from mooring.protocols.kserve.shared_memory import SharedMemory, elsewhere_only
from mooring.protocols.missing_model import prefer_not_found
from mooring.protocols.responses import JSON, Responses
from mooring.protocols.scheduling import TIMEOUT_HEADER, read_deadline, read_schedule
from mooring.protocols.status import Refusal, Target
from mooring.tokens import Access
from mooring.web.http1 import App, Exchange
from mooring.web.routing import Match

READING = frozenset({"GET", "HEAD"})
WRITING = frozenset({"POST"})
SEQUENCES = ("sequence", "sequence(string_id)")
"""Triton's names for what a model that has sequences offers; whole numbers and texts name one."""
MODEL = "/v2/models/{model_name}"
VERSION = "/v2/models/{model_name}/versions/{model_version}"

_BINARY = "application/octet-stream"
_JSON_SIZE = b"inference-header-content-length"
# With one of these headers a request means more than its body.
_SPECIAL_HEADERS = frozenset({_JSON_SIZE, TIMEOUT_HEADER})


class V2Answer(Answer, eq=False):
    """An answer under ``/v2``: refusals in v2's words."""

    _dialect: Dialect

    def _refusal_for(self, error: MooringError) -> Refusal:
        return self._dialect.refusal_of(error, self._target)


class InferAnswer(V2Answer, eq=False):
    """The answer to one infer request. ``client_id`` is the id that its client gave it, None where a worker reads it."""

    _bodies: Bodies
    _memory: SharedMemory | None
    _client_id: str | None
    _selection: OutputSelection
    _relay: App | None
    _only: InferenceResponse | None = None

    def _send_refusal(self, error: MooringError) -> None:
        if self._relay is not None and isinstance(error, ElsewhereOnly):
            self._mark_over()
            self._relay(self._exchange)
        else:
            super()._send_refusal(error)

    def _send_whole(self, outcome: InferenceResponse) -> None:
        if not outcome.outputs:
            if self._only is None:
                self._send_refusal(_no_response_error(self._target.model))
                return
            outcome, self._only = self._only, None
        exchange = self._exchange
        if (
            self._selection is JSON_ONLY
            and not self._dialect.plain_answers
            and outcome.head is None
            and b"accept-encoding" not in exchange.fields
        ):
            text = encode_short_answer(outcome, self._target.model, self._client_id or "")
            if text is not None:
                self._responses.send_answer(exchange, self._id, JSON, text)
                return
        self._name_answer(outcome)
        try:
            self._store_regions(outcome)
        except InvalidInput as error:
            release(outcome.outputs)
            self._send_refusal(error)
            return
        if self._dialect.byte_shapes:
            for tensor in outcome.outputs:
                if not self._selection.is_binary(tensor):
                    self._dialect.set_output_shape(tensor)
        responses = self._responses
        null = responses.writes_null(exchange)
        pieces, json_size = encode_response(
            outcome, self._selection, plain=self._dialect.plain_answers, null=null
        )
        if json_size:
            lines = b"Inference-Header-Content-Length: %d\r\n" % json_size
            head = responses.build_head(self._id, _BINARY) + lines
        else:
            head = responses.build_head(self._id, JSON)
        responses.counter.classes[2] += 1
        if b"accept-encoding" in exchange.fields:
            self._bodies.respond(exchange, 200, pieces, head)
        elif len(pieces) == 1:
            exchange.respond(200, pieces[0], head)
        else:
            exchange.respond_in_pieces(200, pieces, head)

    def _store_regions(self, outcome: InferenceResponse) -> None:
        if self._memory is not None:
            self._memory.store(outcome.outputs)
            return
        for tensor in outcome.outputs:
            if tensor.parameters and REGION[0] in tensor.parameters:
                raise InvalidInput(
                    f"output '{tensor.name}' names a region of shared memory, which is not offered here"
                )

    def _name_answer(self, outcome: InferenceResponse) -> None:
        """Set the model's name and the client's own id; an id that the server made up is removed, unless the model wants it."""
        self._dialect.set_model_name(outcome, self._target)
        if outcome.head is not None and outcome.head.with_id:
            outcome.id = self._client_id or outcome.id or self._id
        elif self._client_id is not None:
            outcome.id = self._client_id
        elif outcome.id == self._id:
            outcome.id = ""

    def _send_piece(self, outcome: InferenceResponse) -> None:
        # A model that streams may answer with one piece; more have no form here.
        if self._only is None:
            self._only = outcome
            return
        release(outcome.outputs)
        release(self._only.outputs)
        self._cancel_request()
        self._send_refusal(
            Unsupported(
                f"{_DECOUPLED}: model '{self._target.model}' gives more than one response to a request; "
                "use generate_stream, or ModelStreamInfer over gRPC"
            )
        )


# Triton's words, which its clients look for.
_DECOUPLED = "HTTP end point doesn't support models with decoupled transaction policy"


def _no_response_error(model: str) -> MooringError:
    return Unsupported(
        f"{_DECOUPLED}: model '{model}' gave no response to the request; use generate_stream, or "
        "ModelStreamInfer over gRPC"
    )


class KServeV2:
    """The endpoints of the protocol's core. ``extensions`` is what ``/v2`` lists: whoever mounts one adds its names.

    ``relay`` takes the requests that only the server's first process can answer, those with shared memory; in the first
    process itself there is none.
    """

    def __init__(
        self,
        service: InferenceService,
        responses: Responses,
        *,
        version: str,
        dialect: Dialect = V2,
        memory: SharedMemory | None = None,
        relay: App | None = None,
    ) -> None:
        self._service = service
        self._responses = responses
        self._version = version
        self._dialect = dialect
        self._memory = memory
        self._json_templates = JsonTemplates()
        self._binary_templates = BinaryTemplates()
        self._relay = relay
        self._regions: Regions | None = None if memory is None else memory.read
        if relay is not None:
            self._regions = elsewhere_only
        self.bodies = Bodies(responses)
        self.extensions = [
            "binary_tensor_data",
            "classification",
            "parameters",
            "schedule_policy",
            *SEQUENCES,
        ]

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints."""
        return [
            Endpoint("/v2", self.server, Access.INFERENCE, calls.SERVER, methods=READING),
            Endpoint("/v2/health/live", self.live, Access.OPEN, calls.LIVE, methods=READING),
            Endpoint("/v2/health/ready", self.ready, Access.OPEN, calls.READY, methods=READING),
            Endpoint("/v2/models", self.models, Access.INFERENCE, calls.MODELS, methods=READING),
            Endpoint(MODEL, self.model, Access.INFERENCE, calls.MODEL, methods=READING),
            Endpoint(VERSION, self.model, Access.INFERENCE, calls.MODEL_VERSION, methods=READING),
            Endpoint(f"{MODEL}/ready", self.model_ready, Access.OPEN, calls.MODEL_READY, methods=READING),
            Endpoint(
                f"{VERSION}/ready", self.model_ready, Access.OPEN, calls.MODEL_VERSION_READY, methods=READING
            ),
            Endpoint(
                f"{MODEL}/infer",
                self.infer,
                Access.INFERENCE,
                calls.INFER,
                methods=WRITING,
                prepare=self.prepare_infer,
                infers=True,
            ),
            Endpoint(
                f"{VERSION}/infer",
                self.infer,
                Access.INFERENCE,
                calls.INFER_VERSION,
                methods=WRITING,
                prepare=self.prepare_infer,
                infers=True,
            ),
            Endpoint(
                f"{MODEL}/explain",
                self.explain,
                Access.INFERENCE,
                calls.EXPLAIN,
                methods=WRITING,
                infers=True,
            ),
            Endpoint(
                f"{VERSION}/explain",
                self.explain,
                Access.INFERENCE,
                calls.EXPLAIN_VERSION,
                methods=WRITING,
                infers=True,
            ),
        ]

    def server(self, exchange: Exchange, match: Match) -> None:
        """Answer with the server's name, version and extensions."""
        self._responses.send_json(
            exchange,
            {"name": self._dialect.server, "version": self._version, "extensions": self.extensions},
        )

    def live(self, exchange: Exchange, match: Match) -> None:
        """Answer that the server runs."""
        self._responses.send_json(exchange, {"live": True})

    def ready(self, exchange: Exchange, match: Match) -> None:
        """Answer whether every requested model can answer."""
        is_ready = self._service.ready()
        self._responses.send_json(exchange, {"ready": is_ready}, status=200 if is_ready else 503)

    def models(self, exchange: Exchange, match: Match) -> None:
        """List the names of the models that are ready."""
        names = sorted(
            {
                state.name
                for state in self._service.models()
                if state.ready and state.is_default and state.listed
            }
        )
        self._responses.send_json(exchange, {"models": names})

    def model(self, exchange: Exchange, match: Match) -> None:
        """Answer with the inputs and outputs of a model."""
        target = target_of(match)
        try:
            metadata = self._service.metadata(*target)
        except MooringError as error:
            self.refuse(exchange, error, target)
            return
        versions = [state.version for state in self._service.models() if state.name == target.model]
        self._responses.send_json(
            exchange,
            {
                "name": metadata.name,
                "versions": versions or metadata.versions,
                "platform": self._dialect.platform or metadata.platform,
                "inputs": [_describe_tensor(spec) for spec in metadata.inputs],
                "outputs": [_describe_tensor(spec) for spec in metadata.outputs],
            },
        )

    def model_ready(self, exchange: Exchange, match: Match) -> None:
        """Whether a model can answer: 404 for one that is not there, 503 for one that cannot."""
        target = target_of(match)
        try:
            is_ready = self._service.ready(*target)
        except MooringError as error:
            self.refuse(exchange, error, target)
            return
        answer: dict[str, object] = {"name": target.model, "ready": is_ready}
        if not is_ready:
            answer["error"] = f"model '{target.model}' is not ready"
        self._responses.send_json(exchange, answer, status=200 if is_ready else 503)

    def infer(self, exchange: Exchange, match: Match) -> None:
        """Answer an infer request."""
        self._answer_request(exchange, match, INFER)

    def explain(self, exchange: Exchange, match: Match) -> None:
        """Answer with an explanation. TorchServe has this route, Triton and KServe's v2 have none."""
        self._answer_request(exchange, match, Operation.EXPLAIN)

    def _answer_request(self, exchange: Exchange, match: Match, operation: Operation) -> None:
        params = match.params
        target = Target(params["model_name"], params.get("model_version", ""))
        try:
            deadline = read_deadline(exchange)
            body = exchange.take_body()
            if self._relay is not None:
                exchange.body, body = share_payload(body, 2)  # the relay sends the body again
            self._submit_request(exchange, target, body, operation, deadline)
        except ElsewhereOnly:
            assert self._relay is not None
            self._relay(exchange)
        except MooringError as error:
            self.refuse(exchange, prefer_not_found(self._service, error, target), target)

    def prepare_infer(self, exchange: Exchange, match: Match) -> Callable[[Exchange], None] | None:
        """Return the fast path for small JSON bodies that fit a template; None for a large body or special headers."""
        fields = exchange.fields
        if not _SPECIAL_HEADERS.isdisjoint(fields) or int(fields[b"content-length"]) > LARGE:
            return None
        if asks_for_null(fields.get(b"accept")):
            return None
        target = target_of(match)
        model, version = target.model, target.version
        read, new_id, submit = (
            self._json_templates.read,
            self._responses.request_id_source(exchange),
            self._service.submit,
        )

        def infer(exchange: Exchange) -> None:
            body = exchange.body
            decoded = read(body) if type(body) is bytes else None
            if decoded is None:
                self.infer(exchange, match)
                return
            request_id = new_id()
            request = InferenceRequest(
                model, version, request_id, [decoded], headers=exchange.headers, json_writer=SERVER
            )
            answer = self._make_answer(exchange, request_id, target, "", JSON_ONLY)
            exchange.on_abandoned = submit(request, answer.done).cancel

        return infer

    def refuse(self, exchange: Exchange, error: MooringError, target: Target) -> None:
        """Answer an error as the dialect does."""
        self._responses.send_refusal(exchange, self._dialect.refusal_of(error, target))

    def _submit_request(
        self, exchange: Exchange, target: Target, body: Payload, operation: Operation, deadline: float | None
    ) -> None:
        """Decode and submit a request. Takes the body over; raises ``MooringError``."""
        json_length = exchange.fields.get(_JSON_SIZE)
        responses = self._responses
        request_id = responses.read_request_id(exchange)
        if len(body) > LARGE and (json_length is None or _parse_length(json_length) > LARGE):
            # Decoded by the worker: milliseconds of JSON here would be milliseconds for every client.
            json_size = None if json_length is None else _parse_length(json_length)
            undecoded = UndecodedBody(
                BodyKind.V2,
                body,
                json_size,
                no_regions=self._relay is not None,
                lenient=self._dialect.lenient,
            )
            request = InferenceRequest(
                target.model,
                target.version,
                request_id,
                [],
                operation=operation,
                deadline=deadline,
                headers=exchange.headers,
                body=undecoded,
                timing=exchange.timing,
            )
            answer = self._make_answer(exchange, request_id, target, None, ALL_BINARY)
        else:
            decoded, selection = self._decode_small(target, body, json_length)
            try:
                if self._relay is not None:
                    refuse_regions(decoded.outputs)
                plan = read_schedule(decoded.parameters, deadline)
                selection = selection or select_outputs(decoded.outputs, decoded.parameters)
            except MooringError:
                release(decoded.inputs)
                raise
            client_id = decoded.id
            request = InferenceRequest(
                target.model,
                target.version,
                client_id or request_id,
                decoded.inputs,
                operation=operation,
                parameters=plan.parameters,
                outputs=decoded.outputs,
                deadline=plan.deadline,
                headers=exchange.headers,
                priority=plan.priority,
                json_writer=NOBODY if selection.all_binary else SERVER,
                timing=exchange.timing,
            )
            answer = self._make_answer(exchange, request_id, target, client_id, selection)
        if asks_for_null(exchange.fields.get(b"accept")):
            request.null_for_nan = True
        exchange.on_abandoned = self._service.submit(request, answer.done).cancel

    def _make_answer(
        self,
        exchange: Exchange,
        request_id: str,
        target: Target,
        client_id: str | None,
        selection: OutputSelection,
    ) -> InferAnswer:
        return InferAnswer(
            self._responses, exchange, request_id, target, self._dialect, self.bodies, self._memory, client_id, selection,
            self._relay,
        )  # fmt: skip

    def _decode_small(
        self, target: Target, body: Payload, json_length: bytes | None
    ) -> tuple[InferBody, OutputSelection | None]:
        """Decode a body. The selection of outputs is None where the body alone decides it."""
        lenient = self._dialect.lenient
        if json_length is None:
            if type(body) is not bytes:
                return decode_request(body, None, self._regions, lenient=lenient), None
            known = self._json_templates.read(body)
            if known is not None:
                return InferBody("", [known]), JSON_ONLY
            decoded = decode_request(body, None, self._regions, lenient=lenient)
            self._json_templates.remember(body, decoded)
            return decoded, None
        size = _parse_length(json_length)
        if size < 0:
            _release_body(body)
            raise InvalidInput(
                f"Inference-Header-Content-Length must be a number of bytes, not '{json_length.decode('latin-1')}'"
            )
        if size == 0:
            return self._decode_raw(target, body), ALL_BINARY
        document, whole = read_document(body, size), len(body)
        read = self._binary_templates.read(document, body)
        if read is not None:
            return read
        decoded = decode_request(body, size, self._regions, lenient=lenient)
        self._binary_templates.remember(document, whole, decoded)
        return decoded, None

    def _decode_raw(self, target: Target, body: Payload) -> InferBody:
        """Decode a raw binary request: the body is the only input, whole."""
        try:
            inputs = self._service.metadata(*target).inputs
            if len(inputs) != 1 or not inputs[0].datatype:
                raise InvalidInput(
                    f"a raw binary request is for models that declare one input, model '{target.model}' declares "
                    f"{len(inputs)}; send JSON, and the length of it as Inference-Header-Content-Length"
                )
            shape = raw_shape(inputs[0], len(body))
        except MooringError:
            _release_body(body)
            raise
        spec = inputs[0]
        data = [body] if spec.datatype == "BYTES" else body
        return InferBody("", [Tensor(spec.name, spec.datatype, shape, data)])


def raw_shape(spec: TensorSpec, size: int) -> list[int]:
    """Return the shape of an input that fills ``size`` bytes. Raises ``InvalidInput`` where they do not determine it.

    >>> raw_shape(TensorSpec("x", "FP32", [-1, 3, -1]), 24)
    [1, 3, 2]
    """
    shape = list(spec.shape)
    if shape.count(-1) > 1 and shape[0] == -1:
        shape[0] = 1  # the batch
    if spec.datatype == "BYTES":
        shape = [1 if each == -1 else each for each in shape]
        if math.prod(shape) != 1:
            raise InvalidInput(
                f"a raw binary request is one text, and input '{spec.name}' has shape {spec.shape}"
            )
        return shape
    if shape.count(-1) == 1:
        known = raw_size(spec.datatype, [each for each in shape if each != -1])
        shape[shape.index(-1)] = size // known if known else 0
    if -1 in shape:
        raise InvalidInput(
            f"{size} bytes do not tell the shape of input '{spec.name}', {spec.shape}; send JSON"
        )
    expected = raw_size(spec.datatype, shape)
    if expected != size or not size:
        raise InvalidInput(
            f"{size} bytes do not fill input '{spec.name}' of {spec.datatype} {spec.shape}, "
            f"{NUMPY_TYPES[spec.datatype].itemsize} bytes per element"
        )
    return shape


def target_of(match: Match) -> Target:
    """Return the model and the version in a path."""
    return Target(match.params["model_name"], match.params.get("model_version", ""))


def _describe_tensor(spec: TensorSpec) -> dict[str, object]:
    """Return a tensor's entry in the metadata; members beyond the protocol only where they hold something."""
    described: dict[str, object] = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
    if spec.optional:
        described["optional"] = True
    if spec.unknown_rank:
        described["unknown_rank"] = True
    if spec.labels:
        described["labels"] = spec.labels
    if spec.content_type:
        described["content_type"] = spec.content_type
    return described


def _parse_length(json_length: bytes) -> int:
    """Return the number of bytes in a header; -1 where it is no number."""
    return int(json_length) if json_length.isdigit() and len(json_length) <= 18 else -1


def _release_body(body: Payload) -> None:
    if isinstance(body, Buffer):
        body.release()
