"""The Open Inference Protocol over HTTP: what the server and its models say of themselves, and inference.

The content type of a request is ignored: clients send none, a form's or octet-stream with plain JSON. Whether binary
tensors follow the JSON is said by ``Inference-Header-Content-Length`` alone.
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
from mooring.core.requests import NOBODY, SERVER, BodyKind, InferenceRequest, InferenceResponse, UndecodedBody
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
from mooring.protocols.status import Refusal, Target, kserve_v2
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
# What makes more of a request than its body says.
_ASIDE = frozenset({_JSON_SIZE, TIMEOUT_HEADER})


class V2Answer(Answer, eq=False):
    """An answer under ``/v2``: refusals in v2's words."""

    _dialect: Dialect

    def _refusal_for(self, error: MooringError) -> Refusal:
        return self._dialect.override_refusal(error, self._target) or kserve_v2(error, self._target)


class InferAnswer(V2Answer, eq=False):
    """The answer to one infer request. ``given`` is the id that its client gave it, None where a worker reads it."""

    _bodies: Bodies
    _memory: SharedMemory | None
    _given: str | None
    _wanted: OutputSelection
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
                self._send_refusal(_no_response(self._target.model))
                return
            outcome, self._only = self._only, None
        exchange = self._exchange
        if self._wanted is JSON_ONLY and self._dialect is V2 and b"accept-encoding" not in exchange.fields:
            text = encode_short_answer(outcome, self._target.model, self._given or "")
            if text is not None:
                self._responses.send_answer(exchange, self._id, JSON, text)
                return
        self._name(outcome)
        try:
            self._store(outcome)
        except InvalidInput as error:
            release(outcome.outputs)
            self._send_refusal(error)
            return
        if self._dialect.byte_shapes:
            for tensor in outcome.outputs:
                if not self._wanted.is_binary(tensor):
                    self._dialect.set_output_shape(tensor)
        responses = self._responses
        null = responses.writes_null(exchange)
        pieces, json_size = encode_response(
            outcome, self._wanted, plain=self._dialect.plain_answers, null=null
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

    def _store(self, outcome: InferenceResponse) -> None:
        if self._memory is not None:
            self._memory.store(outcome.outputs)
            return
        for tensor in outcome.outputs:
            if tensor.parameters and REGION[0] in tensor.parameters:
                raise InvalidInput(
                    f"output '{tensor.name}' names a region of shared memory, which is not offered here"
                )

    def _name(self, outcome: InferenceResponse) -> None:
        """The id is the client's own: what the server called a request without one is not for it."""
        self._dialect.set_model_name(outcome, self._target)
        if self._given is not None:
            outcome.id = self._given
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
                f"model '{self._target.model}' gives more than one response to a request; "
                "use generate_stream, or ModelStreamInfer over gRPC"
            )
        )


def _no_response(model: str) -> MooringError:
    return Unsupported(
        f"model '{model}' gave no response to the request, which has no form here; use generate_stream, or "
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
        """Everything mounted."""
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
            ),
            Endpoint(
                f"{VERSION}/infer",
                self.infer,
                Access.INFERENCE,
                calls.INFER_VERSION,
                methods=WRITING,
                prepare=self.prepare_infer,
            ),
        ]

    def server(self, exchange: Exchange, match: Match) -> None:
        """What the server is, and what it can do."""
        self._responses.send_json(
            exchange,
            {"name": self._dialect.server, "version": self._version, "extensions": self.extensions},
        )

    def live(self, exchange: Exchange, match: Match) -> None:
        """That the server is there."""
        self._responses.send_json(exchange, {"live": True})

    def ready(self, exchange: Exchange, match: Match) -> None:
        """Whether every model asked for can answer."""
        is_ready = self._service.ready()
        self._responses.send_json(exchange, {"ready": is_ready}, status=200 if is_ready else 503)

    def models(self, exchange: Exchange, match: Match) -> None:
        """The names of the models that are ready."""
        names = sorted({state.name for state in self._service.models() if state.ready and state.is_default})
        self._responses.send_json(exchange, {"models": names})

    def model(self, exchange: Exchange, match: Match) -> None:
        """What a model takes and gives."""
        asked = asked_of(match)
        try:
            metadata = self._service.metadata(*asked)
        except MooringError as error:
            self.refuse(exchange, error, asked)
            return
        versions = [state.version for state in self._service.models() if state.name == asked.model]
        self._responses.send_json(
            exchange,
            {
                "name": metadata.name,
                "versions": versions or metadata.versions,
                "platform": metadata.platform,
                "inputs": [_described(spec) for spec in metadata.inputs],
                "outputs": [_described(spec) for spec in metadata.outputs],
            },
        )

    def model_ready(self, exchange: Exchange, match: Match) -> None:
        """Whether a model can answer: 404 for one that is not there, 503 for one that cannot."""
        asked = asked_of(match)
        try:
            is_ready = self._service.ready(*asked)
        except MooringError as error:
            self.refuse(exchange, error, asked)
            return
        answer: dict[str, object] = {"name": asked.model, "ready": is_ready}
        if not is_ready:
            answer["error"] = f"model '{asked.model}' is not ready"
        self._responses.send_json(exchange, answer, status=200 if is_ready else 503)

    def infer(self, exchange: Exchange, match: Match) -> None:
        """The answer to an infer request."""
        params = match.params
        asked = Target(params["model_name"], params.get("model_version", ""))
        try:
            deadline = read_deadline(exchange)
            body = exchange.take_body()
            if self._relay is not None:
                exchange.body, body = share_payload(
                    body, 2
                )  # who relays the request needs its body once more
            self._infer(exchange, asked, body, deadline)
        except ElsewhereOnly:
            assert self._relay is not None
            self._relay(exchange)
        except MooringError as error:
            self.refuse(exchange, prefer_not_found(self._service, error, asked), asked)

    def prepare_infer(self, exchange: Exchange, match: Match) -> Callable[[Exchange], None] | None:
        """The way of a small body of JSON that may take its time, where the body is one that is known, too."""
        fields = exchange.fields
        if not _ASIDE.isdisjoint(fields) or int(fields[b"content-length"]) > LARGE:
            return None
        if asks_for_null(fields.get(b"accept")):
            return None
        asked = asked_of(match)
        model, version = asked.model, asked.version
        read, new_id, submit = (
            self._json_templates.read,
            self._responses.request_id_source(exchange),
            self._service.submit,
        )

        def infer(exchange: Exchange) -> None:
            body = exchange.body
            found = read(body) if type(body) is bytes else None
            if found is None:
                self.infer(exchange, match)
                return
            request_id = new_id()
            request = InferenceRequest(
                model, version, request_id, [found], headers=exchange.headers, json_writer=SERVER
            )
            answer = self._answer(exchange, request_id, asked, "", JSON_ONLY)
            exchange.on_abandoned = submit(request, answer.done).cancel

        return infer

    def refuse(self, exchange: Exchange, error: MooringError, asked: Target) -> None:
        """Say no in the dialect's words."""
        self._responses.send_refusal(
            exchange, self._dialect.override_refusal(error, asked) or kserve_v2(error, asked)
        )

    def _infer(self, exchange: Exchange, asked: Target, body: Payload, deadline: float | None) -> None:
        """Send a request on its way. Takes the body over; raises ``MooringError``."""
        stated = exchange.fields.get(_JSON_SIZE)
        responses = self._responses
        request_id = responses.read_request_id(exchange)
        if len(body) > LARGE and (stated is None or _number(stated) > LARGE):
            # Decoded by the worker: milliseconds of JSON here would be milliseconds for every client.
            json_size = None if stated is None else _number(stated)
            undecoded = UndecodedBody(BodyKind.V2, body, json_size, no_regions=self._relay is not None)
            request = InferenceRequest(
                asked.model,
                asked.version,
                request_id,
                [],
                deadline=deadline,
                headers=exchange.headers,
                body=undecoded,
            )
            answer = self._answer(exchange, request_id, asked, None, ALL_BINARY)
        else:
            found, wanted = self._decoded(asked, body, stated)
            try:
                if self._relay is not None:
                    refuse_regions(found.outputs)
                plan = read_schedule(found.parameters, deadline)
                wanted = wanted or select_outputs(found.outputs, found.parameters)
            except MooringError:
                release(found.inputs)
                raise
            given = found.id
            request = InferenceRequest(
                asked.model,
                asked.version,
                given or request_id,
                found.inputs,
                parameters=plan.parameters,
                outputs=found.outputs,
                deadline=plan.deadline,
                headers=exchange.headers,
                priority=plan.priority,
                json_writer=NOBODY if wanted.all_binary else SERVER,
            )
            answer = self._answer(exchange, request_id, asked, given, wanted)
        if asks_for_null(exchange.fields.get(b"accept")):
            request.null_for_nan = True
        exchange.on_abandoned = self._service.submit(request, answer.done).cancel

    def _answer(
        self, exchange: Exchange, request_id: str, asked: Target, given: str | None, wanted: OutputSelection
    ) -> InferAnswer:
        return InferAnswer(
            self._responses, exchange, request_id, asked, self._dialect, self.bodies, self._memory, given, wanted,
            self._relay,
        )  # fmt: skip

    def _decoded(
        self, asked: Target, body: Payload, stated: bytes | None
    ) -> tuple[InferBody, OutputSelection | None]:
        """What a body says, and where that is not for it to say, which outputs are wanted in binary."""
        if stated is None:
            if type(body) is not bytes:
                return decode_request(body, None, self._regions), None
            known = self._json_templates.read(body)
            if known is not None:
                return InferBody("", [known]), JSON_ONLY
            found = decode_request(body, None, self._regions)
            self._json_templates.remember(body, found)
            return found, None
        size = _number(stated)
        if size < 0:
            _give_back(body)
            raise InvalidInput(
                f"Inference-Header-Content-Length must be a number of bytes, not '{stated.decode('latin-1')}'"
            )
        if size == 0:
            return self._raw(asked, body), ALL_BINARY
        document, whole = read_document(body, size), len(body)
        read = self._binary_templates.read(document, body)
        if read is not None:
            return read
        found = decode_request(body, size, self._regions)
        self._binary_templates.remember(document, whole, found)
        return found, None

    def _raw(self, asked: Target, body: Payload) -> InferBody:
        """A raw binary request: the body is the only input, whole."""
        try:
            inputs = self._service.metadata(*asked).inputs
            if len(inputs) != 1 or not inputs[0].datatype:
                raise InvalidInput(
                    f"a raw binary request is for models that declare one input, model '{asked.model}' declares "
                    f"{len(inputs)}; send JSON, and the length of it as Inference-Header-Content-Length"
                )
            shape = raw_shape(inputs[0], len(body))
        except MooringError:
            _give_back(body)
            raise
        spec = inputs[0]
        data = [body] if spec.datatype == "BYTES" else body
        return InferBody("", [Tensor(spec.name, spec.datatype, shape, data)])


def raw_shape(spec: TensorSpec, size: int) -> list[int]:
    """The shape of an input that fills so many bytes. Raises ``InvalidInput`` where that does not tell it.

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


def asked_of(match: Match) -> Target:
    """The model and the version in a path."""
    return Target(match.params["model_name"], match.params.get("model_version", ""))


def _described(spec: TensorSpec) -> dict[str, object]:
    """As the protocol has it, and what it has no place for only where there is something to say."""
    found: dict[str, object] = {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
    if spec.optional:
        found["optional"] = True
    if spec.unknown_rank:
        found["unknown_rank"] = True
    if spec.labels:
        found["labels"] = spec.labels
    return found


def _number(stated: bytes) -> int:
    """The number of bytes that a header says; -1 where it is no number."""
    return int(stated) if stated.isdigit() and len(stated) <= 18 else -1


def _give_back(body: Payload) -> None:
    if isinstance(body, Buffer):
        body.release()
