"""Chains of models: stages that run in order, one request in and one answer out."""

from collections.abc import Callable, Sequence

from mooring.backends.open_inference import open_body
from mooring.core.errors import InvalidInput, InvalidOutput, MooringError, Unsupported
from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import Tensor, TensorSpec, release

Submit = Callable[[InferenceRequest, Done], Ticket]
Inputs = Callable[[str], Sequence[TensorSpec]]


class ChainRun:
    """One request on its way through the stages. The outputs of a stage are the inputs of the next.

    A stage's inputs are called as it declares them: outputs are matched by name, and where the names differ by
    position. The client's requested outputs and its parameters reach the last and every stage respectively.
    """

    def __init__(
        self, stages: Sequence[str], request: InferenceRequest, done: Done, submit: Submit, inputs: Inputs
    ) -> None:
        self._stages = list(stages)
        self._request = request
        self._done: Done | None = done
        self._submit = submit
        self._inputs = inputs
        self._ticket: Ticket | None = None
        try:
            if request.form is Form.TENSORS:
                open_body(request)  # here and not in the first stage: what it asks for concerns the last one
        except InvalidInput as error:
            self._end(error)
        else:
            self._next(request.inputs)

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._done = None
        if self._ticket is not None:
            self._ticket.cancel()

    def _next(self, tensors: list[Tensor]) -> None:
        request = self._request
        stage = self._stages.pop(0)
        last = not self._stages
        self._ticket = self._submit(
            InferenceRequest(
                stage,
                "",
                request.id,
                tensors,
                form=request.form,
                operation=request.operation,
                parameters=request.parameters,
                outputs=request.outputs if last else None,
                deadline=request.deadline,
                headers=request.headers,
                path=request.path,
                priority=request.priority,
                json_outputs=request.json_outputs and last,
            ),
            self._last if last else self._stage_done,
        )

    def _stage_done(self, outcome: Outcome) -> None:
        if self._done is None:
            _drop(outcome)
        elif isinstance(outcome, MooringError):
            self._end(outcome)
        elif not outcome.final:
            self._end(
                Unsupported(f"a stage of chain '{self._request.model}' streams, and only the last one may")
            )
        else:
            try:
                tensors = self._passed_on(outcome)
            except InvalidOutput as error:
                _drop(outcome)
                self._end(error)
            else:
                self._next(tensors)

    def _last(self, outcome: Outcome) -> None:
        done = self._done
        if done is None:
            return
        if isinstance(outcome, InferenceResponse):
            outcome.model, outcome.version = self._request.model, outcome.version
        if isinstance(outcome, MooringError) or outcome.final:
            self._done = None
        done(outcome)

    def _passed_on(self, outcome: InferenceResponse) -> list[Tensor]:
        """What a stage gave, as the next one takes it in."""
        outputs = outcome.outputs
        if self._request.form is Form.BODY:
            content_type = outcome.head.content_type if outcome.head is not None else ""
            return [
                Tensor("body", "BYTES", [1], output.data, {"content_type": content_type})
                for output in outputs
            ]
        if self._request.form is Form.INSTANCES:
            return [Tensor("instances", "BYTES", output.shape, output.data) for output in outputs]
        wanted = self._inputs(self._stages[0])
        if not wanted or {spec.name for spec in wanted} == {output.name for output in outputs}:
            return outputs
        if len(wanted) != len(outputs):
            raise InvalidOutput(
                f"stage '{self._stages[0]}' of chain '{self._request.model}' takes {len(wanted)} inputs, "
                f"and the stage before it gives {len(outputs)}"
            )
        return [
            Tensor(spec.name, output.datatype, output.shape, output.data, output.parameters)
            for output, spec in zip(outputs, wanted, strict=True)
        ]

    def _end(self, error: MooringError) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(error)


def _drop(outcome: Outcome) -> None:
    if isinstance(outcome, InferenceResponse):
        release(outcome.outputs)
