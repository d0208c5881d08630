"""From what a function of values returned to the answer to its request, in the request's own form."""

from collections.abc import Mapping, Sequence
from typing import Any

from mooring.backends.values.results import OUTPUT, ResultType, refuse_text
from mooring.codecs.requested_outputs import LabelSource, encode_outputs
from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.requests import BODY, TENSORS, InferenceRequest, InferenceResponse, ResponseHead
from mooring.core.tensors import Tensor
from mooring.repository.spec import ModelSpec

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_LINES = "application/x-ndjson"


class Answers(LabelSource):
    """Builds the answers of one function. ``null``: NaN and Infinity are null in JSON that is not a tensor's."""

    def __init__(self, result: ResultType, name: str, spec: ModelSpec, *, null: bool, batched: bool) -> None:
        self._result = result
        self._name = name
        self._spec = spec
        self._null = null
        self._batched = batched
        self._heads: dict[str, ResponseHead] = {}

    def labels_of(self, output: str) -> Mapping[str, Any]:
        """Return the names of an output's classes, for the classification extension."""
        return self._spec.labels_of(output)

    def has_batch(self, output: str, rank: int) -> bool:
        """Whether the first dimension of an output is one of samples."""
        return self._batched or rank > 1

    def build(self, request: InferenceRequest, results: Sequence[Any]) -> InferenceResponse:
        """Build the answer of a request from the result of each of its samples. Raises ``MooringError``."""
        form = request.form
        if form is BODY:
            data, content_type = self._result.encode_body(results[0], null=self._null)
            return InferenceResponse([Tensor("body", "BYTES", [1], [data])], head=self._head(content_type))
        if form is TENSORS:
            return self._build_tensors(request, results)
        return self.build_predictions(
            request, [self._result.encode_json(each, null=self._null) for each in results]
        )

    def build_piece(self, request: InferenceRequest, results: Sequence[Any]) -> InferenceResponse:
        """Build the answer of one piece of a stream: text as it is, and a line of JSON of what is neither that nor bytes."""
        piece = (
            self._build_tensors(request, results) if request.form is TENSORS else self._build_text(results[0])
        )
        piece.final = False
        return piece

    def build_predictions(self, request: InferenceRequest, texts: list[bytes]) -> InferenceResponse:
        """Build the answer to instances of KServe v1 from the JSON of each prediction."""
        response = InferenceResponse([Tensor("predictions", "BYTES", [len(texts)], texts)])
        return encode_outputs(request, response, self, self._spec.handler.json_nan)

    def encode_pieces(self, pieces: Sequence[Any]) -> bytes:
        """Return the JSON list of the pieces of a stream, which is a prediction of KServe v1."""
        return b"[" + b",".join([self._result.encode_json(each, null=self._null) for each in pieces]) + b"]"

    def _build_text(self, piece: Any) -> InferenceResponse:
        if isinstance(piece, str):
            try:
                data, content_type = piece.encode(), _TEXT
            except UnicodeEncodeError:
                raise refuse_text(OUTPUT) from None
        elif isinstance(piece, bytes | bytearray | memoryview):
            data, content_type = bytes(piece), _TEXT
        else:
            data, content_type = self._result.encode_body(piece, null=self._null)
            if content_type == _JSON:
                data, content_type = data + b"\n", _LINES
        return InferenceResponse([Tensor("body", "BYTES", [1], [data])], head=self._head(content_type))

    def _head(self, content_type: str) -> ResponseHead:
        head = self._heads.get(content_type)
        if head is None:
            head = ResponseHead(content_type=content_type)
            if len(self._heads) < 64:  # models may invent them
                self._heads[content_type] = head
        return head

    def _build_tensors(self, request: InferenceRequest, results: Sequence[Any]) -> InferenceResponse:
        tensors = (
            self._join_rows([self._result.to_tensors(each) for each in results])
            if self._batched
            else self._result.to_tensors(results[0])
        )
        if request.outputs:
            by_name = {tensor.name: tensor for tensor in tensors}
            for output in request.outputs:
                if output.name not in by_name:
                    raise InvalidInput(
                        f"unexpected inference output '{output.name}' for model '{request.model}'"
                    )
            tensors = [by_name[output.name] for output in request.outputs]
        response = InferenceResponse([*tensors])
        return encode_outputs(request, response, self, self._spec.handler.json_nan)

    def _join_rows(self, rows: list[list[Tensor]]) -> list[Tensor]:
        """Return the outputs of all samples with a dimension for them in front. Raises ``InvalidOutput``."""
        if not rows:
            return []
        joined = []
        for position, first in enumerate(rows[0]):
            column = [row[position] if position < len(row) else None for row in rows]
            for each in column:
                if each is None or (each.name, each.datatype, each.shape) != (
                    first.name,
                    first.datatype,
                    first.shape,
                ):
                    raise InvalidOutput(
                        f"'{self._name}' returned results of different shapes or types for the samples of one request, "
                        f"which make no tensor '{first.name}': send each in a request of its own, or ask for JSON"
                    )
            parts = [each.data for each in column if each is not None]
            data: Any = (
                [element for part in parts for element in part]
                if isinstance(parts[0], list)
                else b"".join(parts)
            )
            joined.append(
                Tensor(first.name, first.datatype, [len(rows), *first.shape], data, first.parameters)
            )
        return joined
