"""One request on its way through an ensemble.

    request ──▶ tensors ──▶ step a ──▶ tensors ──▶ step b ─┐
                       └──▶ step c ──▶ tensors ────────────┴──▶ outputs

A step is asked as soon as all its tensors are there, so steps that do not need each other run at the same time. Each goes
through the queue of its own model. A *flow* is one set of tensors on their way; a step that streams begins a flow of its
own with every piece, and their outputs are the pieces of the ensemble's answer, in order.
"""

import asyncio
import copy
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mooring.codecs.nonfinite import writes_null
from mooring.core.buffers import LARGE
from mooring.core.errors import (
    InvalidInput,
    InvalidOutput,
    ModelNotFound,
    ModelNotReady,
    MooringError,
    Unsupported,
)
from mooring.core.requests import (
    WORKER,
    InferenceRequest,
    InferenceResponse,
)
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import Tensor, release, share_tensors
from mooring.engine.body_reader import ReadBody
from mooring.engine.graphs.base_run import BaseRun
from mooring.engine.graphs.dataflow import lend_answers, present_outputs, take_over_memory
from mooring.engine.graphs.ensemble_plan import EnsemblePlan, rename_tensor
from mooring.engine.json_outputs import CodecProcesses, JsonOutputs, take_over_json

# Bytes of an output up to which its JSON or its classes are made on the event loop, as of a single model's.
_MAX_LOOP = 16_384

Submit = Callable[[InferenceRequest, Done], Ticket]
"""Sends a request to the model of a step."""


class EnsembleContext(NamedTuple):
    """What the runs of all ensembles need of their engine. A run stands in ``runs`` until it is answered or withdrawn."""

    submit: Submit
    read_body: ReadBody
    codecs: CodecProcesses
    runs: set[Ticket]


class _Held(NamedTuple):
    """A tensor that waits for a step. It is None where an optional one was left out; ``rows`` 0 is no batch."""

    tensor: Tensor | None
    rows: int


class _Flow:
    """One set of tensors on their way through ``steps``. ``stream`` is the one that it is a piece of; None at the top."""

    def __init__(self, steps: frozenset[int], stream: "_Stream | None" = None) -> None:
        self.steps = steps
        self.stream = stream
        self.waiting: dict[int, dict[str, _Held]] = {}  # by step: its inputs that are there
        self.outputs: dict[str, _Held] = {}
        self.streams: dict[int, _Stream] = {}  # by step that streams
        self.pieces: list[InferenceResponse] = []  # that others go before
        self.ended = False

    def release(self) -> None:
        """Give back the memory of all tensors that are held."""
        held = [
            *self.outputs.values(),
            *(each for inputs in self.waiting.values() for each in inputs.values()),
        ]
        release(each.tensor for each in held if each.tensor is not None)
        for piece in self.pieces:
            release(piece.outputs)
        for stream in self.streams.values():
            for tensors, _ in stream.backlog:
                release(tensors)
        self.outputs, self.waiting, self.pieces, self.streams = {}, {}, [], {}


class _Stream:
    """The flows that the pieces of one step have begun, the first one first, and pieces that wait to begin theirs."""

    def __init__(self, flow: _Flow, step: int) -> None:
        self.flow = flow
        self.step = step
        self.flows: deque[_Flow] = deque()
        self.backlog: deque[tuple[list[Tensor], int]] = deque()
        self.over = False
        self.advancing = False


class EnsembleRun(BaseRun):
    """One request on its way through an ensemble.

    How this works: the inputs of the request are the first tensors. Each tensor is shared among the steps that read it;
    a step that has all of its own is submitted to its model, and its outputs are the next tensors. When all requested
    outputs are there they are the answer. The first failure ends the run, and what still runs is withdrawn. Only steps
    that are needed for the requested outputs run, and they are asked for no other outputs.
    """

    def __init__(
        self, plan: EnsemblePlan, request: InferenceRequest, done: Done, context: EnsembleContext
    ) -> None:
        super().__init__(request, done, context.runs)
        self._plan = plan
        self._context = context
        self._running: set[tuple[_Flow, int]] = set()
        self._flows: set[_Flow] = set()
        self._wanted = frozenset[str]()
        self._begin(context.read_body)

    def _start(self) -> None:
        request, plan = self._request, self._plan
        try:
            self._wanted = plan.wanted_outputs(request.outputs)
            rows = plan.check_inputs(request.inputs)
        except InvalidInput as error:
            self._refuse_request(error)
            return
        flow = _Flow(plan.steps_for(self._wanted))
        self._flows.add(flow)
        given = {tensor.name: tensor for tensor in request.inputs}
        for tensor in given.values():
            tensor.shape = plan.shape_of_input(tensor.name, tensor.shape)
        self._add_tensors(flow, [(name, given.get(name), rows) for name in plan.inputs])

    def _add_tensors(self, flow: _Flow, tensors: Sequence[tuple[str, Tensor | None, int]]) -> None:
        """Give these tensors to all that need them, submit the steps that have theirs, and end a flow that has its outputs."""
        plan, ready = self._plan, []
        for name, tensor, rows in tensors:
            readers = [each for each in plan.readers.get(name, ()) if each[0] in flow.steps]
            is_output = name in self._wanted
            count = len(readers) + is_output
            shares: list[Tensor | None] = [None] * count
            if tensor is not None:
                if count:
                    shares = [copies[0] for copies in share_tensors([tensor], count)]
                else:
                    release([tensor])
            if is_output:
                flow.outputs[name] = _Held(shares.pop(), rows)
            for (index, input_name), share in zip(readers, shares, strict=True):
                inputs = flow.waiting.setdefault(index, {})
                inputs[input_name] = _Held(share, rows)
                if len(inputs) == len(plan.steps[index].inputs):
                    ready.append(index)
        for index in ready:
            if self._done is not None:  # a step that was refused has ended the run
                self._submit_step(flow, index)
        if self._done is not None and not flow.ended and flow.outputs.keys() == self._wanted:
            self._complete_flow(flow)

    def _submit_step(self, flow: _Flow, index: int) -> None:
        plan, request = self._plan, self._request
        step = plan.steps[index]
        inputs = [
            rename_tensor(held.tensor, name, plan.shape_for_step(index, name, held.tensor.shape, held.rows))
            for name, held in flow.waiting.pop(index).items()
            if held.tensor is not None
        ]
        rows = plan.rows_of_step(index, inputs)
        outputs = plan.outputs_needed(index, flow.steps, self._wanted)
        is_last = all(step.outputs[output.name] in self._wanted for output in outputs)
        key = flow, index
        self._running.add(key)
        ticket = self._context.submit(
            InferenceRequest(
                model=step.model,
                version=step.version,
                id=request.id,
                inputs=inputs,
                parameters=dict(request.parameters) if request.parameters else None,
                outputs=outputs,
                deadline=request.deadline,
                headers=request.headers,
                priority=request.priority,
                layout=request.layout if is_last else 0,
                timing=None if request.timing is None else request.timing.node(plan.titles[index]),
            ),
            lambda outcome: self._on_outcome(flow, index, rows, outcome),
        )
        if key in self._running:  # it may have answered before ``submit`` returned
            self._tickets[key] = ticket
        elif self._done is None:
            ticket.cancel()

    def _on_outcome(self, flow: _Flow, index: int, rows: int, outcome: Outcome) -> None:
        if self._request.timing is not None:
            self._request.timing.node(self._plan.titles[index]).ended = time.monotonic()
        if self._done is None:
            if isinstance(outcome, InferenceResponse):
                release(outcome.outputs)
            return
        if isinstance(outcome, MooringError) or outcome.final:
            self._running.discard((flow, index))
            self._tickets.pop((flow, index), None)
        if isinstance(outcome, MooringError):
            self._end_with_error(self._step_error(index, outcome))
            return
        nothing = not outcome.outputs and self._plan.models[index].decoupled
        if outcome.final and index not in flow.streams and not nothing:
            self._add_outputs(flow, index, outcome.tensors, rows)
        else:
            self._add_piece(flow, index, outcome, rows)

    def _add_outputs(self, flow: _Flow, index: int, outputs: Sequence[Tensor], rows: int) -> None:
        """Give the outputs of a step to all that need them; one that the model left out is left out there as well."""
        names = self._plan.steps[index].outputs
        given = {names[output.name]: output for output in outputs if output.name in names}
        release(output for output in outputs if output.name not in names)
        self._add_tensors(flow, [(tensor, given.get(tensor), rows) for tensor in names.values()])

    # Streams

    def _add_piece(self, flow: _Flow, index: int, piece: InferenceResponse, rows: int) -> None:
        stream = flow.streams.get(index)
        if stream is None:
            if not self._plan.may_stream(index, flow.steps, self._wanted):
                release(piece.outputs)
                text = (
                    "the model streams, and other steps are not behind it; say decoupled in its configuration"
                )
                self._end_with_error(self._step_error(index, Unsupported(text)))
                return
            stream = flow.streams[index] = _Stream(flow, index)
        if piece.outputs:
            stream.backlog.append((piece.tensors, rows))
        stream.over = piece.final
        self._advance_stream(stream)

    def _advance_stream(self, stream: _Stream) -> None:
        """Begin flows with the pieces that wait, as many as may be under way, and end the stream after the last one."""
        if stream.advancing:
            return
        stream.advancing = True
        while stream.backlog and len(stream.flows) < self._plan.max_inflight and self._done is not None:
            tensors, rows = stream.backlog.popleft()
            flow = _Flow(stream.flow.steps, stream)
            stream.flows.append(flow)
            self._flows.add(flow)
            self._add_outputs(flow, stream.step, tensors, rows)
        stream.advancing = False
        if stream.over and not stream.flows and not stream.backlog and self._done is not None:
            self._end_flow(stream.flow)

    def _emit_piece(self, flow: _Flow, piece: InferenceResponse) -> None:
        """Pass a piece of the answer on, or keep it until those before it have gone."""
        stream = flow.stream
        if stream is None:
            self._deliver_piece(piece)
        elif stream.flows[0] is flow:
            self._emit_piece(stream.flow, piece)
        else:
            flow.pieces.append(piece)

    def _end_flow(self, flow: _Flow) -> None:
        """Note that no more comes of a flow, and pass on what has waited for its end."""
        flow.ended = True
        stream = flow.stream
        if stream is None:
            self._deliver_answer(InferenceResponse([]))
            return
        while stream.flows and stream.flows[0].ended:
            self._flows.discard(stream.flows.popleft())
            if stream.flows:
                pieces, stream.flows[0].pieces = stream.flows[0].pieces, []
                for piece in pieces:
                    self._emit_piece(stream.flow, piece)
        self._advance_stream(stream)

    # Answers

    def _complete_flow(self, flow: _Flow) -> None:
        """All requested outputs are there."""
        plan = self._plan
        names = [output.name for output in self._request.outputs or ()] or plan.outputs
        missing = [name for name in names if flow.outputs[name].tensor is None]
        if missing:
            model = plan.steps[plan.writers[missing[0]]].model
            text = f"in ensemble '{plan.spec.name}', step '{model}': there is no output '{missing[0]}' in its answer"
            self._end_with_error(InvalidOutput(text))
            return
        held = {name: flow.outputs.pop(name) for name in dict.fromkeys(names)}
        response = InferenceResponse(
            [
                rename_tensor(tensor, name, plan.shape_for_client(name, tensor.shape, rows))
                for name, (tensor, rows) in held.items()
                if tensor is not None
            ]
        )
        if flow.stream is None:
            self._present_answer(response)
        else:
            response.final = False
            self._emit_piece(flow, response)
            self._end_flow(flow)

    def _present_answer(self, response: InferenceResponse) -> None:
        """Give the answer the form that its client asks for: a large one elsewhere than on the event loop."""
        request = self._request
        large = any(_size_of(tensor) > _MAX_LOOP for tensor in response.tensors)
        selection = (
            take_over_json(request)
            if request.json_writer and (large or request.json_writer is WORKER)
            else None
        )
        if selection is not None:
            self._context.codecs.start_if_busy()
            outputs = JsonOutputs(
                self._context.codecs,
                selection,
                null=writes_null(self._plan.spec.handler.json_nan, asked=request.null_for_nan),
            )
            self._present_here(response, lambda: outputs.encode_answer(response, self._on_presented))
        elif large and any(output.parameters for output in request.outputs or ()):
            self._present_in_thread(response)
        else:
            self._present_here(response, lambda: self._on_presented(response))

    def _present_here(self, response: InferenceResponse, then: Callable[[], None]) -> None:
        try:
            presented = present_outputs(response.tensors, self._request, self._plan)
        except MooringError as error:
            release(response.outputs)
            self._end_with_error(error)
            return
        response.outputs, response.parameters = presented.outputs, presented.parameters
        then()

    def _present_in_thread(self, response: InferenceResponse) -> None:
        """Find the classes of large outputs; the thread releases nothing."""
        whole = {"": response}
        lent = lend_answers(whole)
        request, plan = self._request, self._plan

        def on_presented(task: "asyncio.Future[InferenceResponse]") -> None:
            error = task.exception()
            if error is None:
                presented = task.result()
                take_over_memory(presented.tensors, lent, whole)
                self._on_presented(presented)
                return
            release(response.outputs)
            self._on_presented(error if isinstance(error, MooringError) else InvalidOutput(repr(error)))

        asyncio.get_running_loop().run_in_executor(
            None, present_outputs, lent[""].tensors, request, plan
        ).add_done_callback(on_presented)

    def _on_presented(self, outcome: Outcome) -> None:
        if isinstance(outcome, MooringError):
            self._end_with_error(outcome)
        elif self._done is None:
            release(outcome.outputs)
        else:
            self._deliver_answer(outcome)

    def _deliver_piece(self, piece: InferenceResponse) -> None:
        try:
            presented = present_outputs(piece.tensors, self._request, self._plan)
        except MooringError as error:
            release(piece.outputs)
            self._end_with_error(error)
            return
        presented.final = False
        self._name_answer(presented)
        if self._done is not None:
            self._done(presented)

    def _name_answer(self, answer: InferenceResponse) -> None:
        answer.model, answer.version = self._request.model, self._plan.spec.version
        answer.id = answer.id or self._request.id

    def _step_error(self, index: int, error: MooringError) -> MooringError:
        """The same error with the step that it comes from. It may be that of several requests, so it is copied."""
        model = self._plan.steps[index].model
        if isinstance(error, ModelNotFound):  # the ensemble is there
            named: MooringError = ModelNotReady(error.message)
        else:
            named = copy.copy(error)
        named.message = f"in ensemble '{self._plan.spec.name}', step '{model}': {error.message}"
        named.args = (named.message,)
        return named

    def _release_all(self) -> None:
        super()._release_all()
        self._running.clear()
        for flow in self._flows:
            flow.release()
        self._flows.clear()


def _size_of(tensor: Tensor) -> int:
    """Bytes of a tensor; packed ones count as large, since their elements cost time one by one."""
    if tensor.packed:
        return LARGE + 1
    return sum(map(len, tensor.data)) if isinstance(tensor.data, list) else len(tensor.data)
