"""How answers become requests between the nodes of a graph, and the answers of several nodes one: pure rules.

an answer goes to         one node                               of several, to one
Form.BODY                 the field "body"                       a field each, named as the node it comes from
Form.INSTANCES            the instances, row by row              rows that are objects: node -> value
Form.TENSORS              by name, else by position              the same, named "node", or "node.output" of several
"""

from collections.abc import Mapping, Sequence

import msgspec

from mooring.codecs.packed import pack_predictions, split_predictions
from mooring.codecs.requested_outputs import NO_LABELS, LabelSource, encode_outputs
from mooring.core.buffers import LARGE, Buffer, Payload
from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, ResponseHead
from mooring.core.tensors import Tensor, TensorSpec, release

Answers = Mapping[str, InferenceResponse]
"""By node, in the order in which they count. Never empty."""


def inputs_for(
    answers: Answers, form: Form, declared: Sequence[TensorSpec], model: str, *, typed: bool
) -> list[Tensor]:
    """The inputs of ``model``, which declares those inputs, made of these answers. It takes their tensors over.

    With ``typed`` a body keeps its content type, so that a handler gets JSON decoded; else it stays bytes. Raises ``InvalidOutput`` where they do not fit, and then the tensors are still the caller's.
    """
    if form is Form.BODY:
        return [
            Tensor(
                node if len(answers) > 1 else "body",
                "BYTES",
                [1],
                output.data,
                {"content_type": answer.head.content_type if typed and answer.head is not None else ""},
            )
            for node, answer in answers.items()
            for output in answer.outputs
        ]
    if form is Form.INSTANCES:
        if len(answers) > 1:
            return [_as_instances(_merge_rows(answers, "instances"))]
        (answer,) = answers.values()
        return [_as_instances(output) for output in answer.tensors]
    outputs = _named_outputs(answers)
    names, needed = {output.name for output in outputs}, [spec for spec in declared if not spec.optional]
    if not declared or {spec.name for spec in needed} <= names <= {spec.name for spec in declared}:
        return outputs
    if len(needed) != len(outputs):
        raise InvalidOutput(
            f"model '{model}' takes {len(needed)} inputs, and what comes before it gives {len(outputs)}"
        )
    return [_with_name(output, spec.name) for output, spec in zip(outputs, needed, strict=True)]


def merged_answer(answers: Answers, request: InferenceRequest) -> InferenceResponse:
    """The answers of several nodes as one, in the form of the request. It takes their tensors over.

    Raises ``InvalidOutput``, or ``InvalidInput`` for an output asked for that there is not; then the tensors are
    still the caller's.
    """
    if request.form is Form.BODY:
        # Text, whatever it holds: a client need not guess which of the values was JSON.
        texts = {node: _body_bytes(answer).decode("utf-8", "replace") for node, answer in answers.items()}
        for answer in answers.values():
            release(answer.outputs)
        output = Tensor("body", "BYTES", [1], [msgspec.json.encode(texts)])
        return InferenceResponse([output], head=ResponseHead(content_type="application/json"))
    if request.form is Form.INSTANCES:
        return InferenceResponse([_merge_rows(answers, "predictions")])
    return present_outputs(_select_outputs(_named_outputs(answers), request), request)


def _as_instances(predictions: Tensor) -> Tensor:
    """Predictions as the instances of the next model; packed ones are one element, as an undecoded body is."""
    packed = predictions.packed
    shape = [1] if packed else predictions.shape
    return Tensor("instances", "BYTES", shape, predictions.data, packed=packed)


def _select_outputs(outputs: list[Tensor], request: InferenceRequest) -> list[Tensor]:
    if not request.outputs:
        return outputs
    by_name = {output.name: output for output in outputs}
    for requested in request.outputs:
        if requested.name not in by_name:
            raise InvalidInput(f"there is no output '{requested.name}'; there is {', '.join(by_name)}")
    kept = [by_name.pop(name) for name in dict.fromkeys(output.name for output in request.outputs)]
    release(by_name.values())
    return kept


def present_outputs(
    outputs: list[Tensor], request: InferenceRequest, labels: LabelSource = NO_LABELS
) -> InferenceResponse:
    """The outputs in the form that the request asks for, as a worker would have written them.

    It takes them over. Raises ``InvalidInput``; then they are still the caller's.
    """
    before = [msgspec.structs.replace(output) for output in outputs]
    response = encode_outputs(request, InferenceResponse([*outputs]), labels)
    kept = {id(output.data) for output in response.outputs}
    release(output for output in before if id(output.data) not in kept)
    return response


def _body_bytes(answer: InferenceResponse) -> bytes:
    return bytes(answer.outputs[0].data[0]) if answer.outputs and answer.outputs[0].data else b""


def _merge_rows(answers: Answers, name: str) -> Tensor:
    """A BYTES tensor whose rows are JSON objects: node -> its row. Raises ``InvalidOutput`` for unequal numbers of rows."""
    columns = {
        node: split_predictions(answer.tensors[0]) for node, answer in answers.items() if answer.outputs
    }
    counts = {len(column) for column in columns.values()}
    if len(counts) != 1 or len(columns) != len(answers):
        counted = ", ".join(f"'{node}' {len(column)}" for node, column in columns.items())
        raise InvalidOutput(f"the nodes answer different numbers of rows: {counted or 'none'}")
    rows = [
        msgspec.json.encode({node: msgspec.Raw(column[row]) for node, column in columns.items()})
        for row in range(counts.pop())
    ]
    for answer in answers.values():
        release(answer.outputs)
    tensor = Tensor(name, "BYTES", [len(rows)], rows)
    pack_predictions([tensor])
    return tensor


def are_large(answers: Answers) -> bool:
    """Whether to merge the rows of these answers takes too long for the event loop."""
    return any(
        output.packed or sum(map(len, _payloads_of(output))) > LARGE
        for answer in answers.values()
        for output in answer.tensors
    )


def lend_answers(answers: Answers) -> Answers:
    """Copies of these answers, whose memory stays the answers' own: for a thread, which must release nothing."""
    return {
        node: InferenceResponse([_lend_tensor(output) for output in answer.tensors], head=answer.head)
        for node, answer in answers.items()
    }


def take_over_memory(results: Sequence[Tensor], lent: Answers, answers: Answers) -> None:
    """Give what was made of lend_answers answers the memory that it holds of them, and release the rest of it."""
    owners = {
        id(copy.data): output
        for node, answer in answers.items()
        for copy, output in zip(lent[node].outputs, answer.outputs, strict=True)
    }
    for tensor in results:
        owner = owners.pop(id(tensor.data), None)
        if owner is not None:
            tensor.data = owner.data
    release(owners.values())


def _lend_tensor(tensor: Tensor) -> Tensor:
    data = tensor.data
    plain = [_lend_payload(each) for each in data] if isinstance(data, list) else _lend_payload(data)
    return msgspec.structs.replace(tensor, data=plain)


def _lend_payload(payload: Payload) -> Payload:
    return Buffer(payload.view) if isinstance(payload, Buffer) else payload


def _payloads_of(tensor: Tensor) -> list[Payload]:
    return tensor.data if isinstance(tensor.data, list) else [tensor.data]


def _named_outputs(answers: Answers) -> list[Tensor]:
    """All tensors, named after their node where there are several nodes."""
    if len(answers) == 1:
        (answer,) = answers.values()
        return answer.tensors
    return [
        _with_name(output, node if len(answer.outputs) == 1 else f"{node}.{output.name}")
        for node, answer in answers.items()
        for output in answer.tensors
    ]


def _with_name(tensor: Tensor, name: str) -> Tensor:
    return msgspec.structs.replace(tensor, name=name)
