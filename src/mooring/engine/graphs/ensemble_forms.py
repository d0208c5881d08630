"""Requests to an ensemble, in whatever form: tensors go their way at once, bodies and instances by a codec process."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from mooring.codecs.ensemble_forms import (
    READ,
    WRITE,
    FormHead,
    FormSample,
    FormSignature,
    read_head,
    write_head,
    write_signature,
)
from mooring.codecs.nonfinite import writes_null
from mooring.core.buffers import Buffer
from mooring.core.errors import MooringError, Unsupported
from mooring.core.requests import INFER, INSTANCES, TENSORS, InferenceRequest, InferenceResponse
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import Tensor, release
from mooring.engine.admission import NO_OP_TICKET, refuse_request
from mooring.engine.body_reader import body_error
from mooring.engine.graphs.base_run import BaseRun
from mooring.engine.graphs.ensemble_plan import EnsemblePlan
from mooring.engine.graphs.ensemble_run import EnsembleContext, EnsembleRun
from mooring.engine.offload import move_to_arena
from mooring.observability.statistics import ModelStatistics

Allocate = Callable[[int], Buffer | None]


def run_ensemble(
    plan: EnsemblePlan, request: InferenceRequest, done: Done, context: EnsembleContext, allocate: Allocate
) -> Ticket:
    """Send a request on its way through an ensemble; every refusal goes to ``done``."""
    if request.operation is not INFER:
        text = (
            f"'{request.model}' is made of several models and has no explanation of its own; ask one of them"
        )
        return refuse_request(request, done, Unsupported(text))
    if request.form is TENSORS:
        return EnsembleRun(plan, request, done, context)
    if request.form is INSTANCES and request.body is None and not request.rows:
        done(InferenceResponse([Tensor("predictions", "BYTES", [0], [])], model=request.model))
        return NO_OP_TICKET
    return _FormRun(plan, request, done, context, allocate)


def observe_run(
    plan: EnsemblePlan, request: InferenceRequest, statistics: ModelStatistics, done: Done
) -> Done:
    """Return a ``done`` that counts the request when it has its last answer, with the time that all steps took together."""
    began = time.monotonic()
    defaulted = not request.version
    has_rows = plan.own.batched or request.form is INSTANCES

    def count_and_pass(outcome: Outcome) -> None:
        failed = isinstance(outcome, MooringError)
        if isinstance(outcome, MooringError) or outcome.final:
            seconds = time.monotonic() - began
            statistics.observe_request(seconds, 0.0, not failed, defaulted)
            if not failed:
                # Now, since the body may have been read meanwhile.
                statistics.observe_batches([(max(request.rows, 1) if has_rows else 1, seconds, 1)])
        done(outcome)

    return count_and_pass


class _FormRun(BaseRun):
    """A request that is no tensors yet.

    How this works: a codec process makes samples of the body. Each sample is a run of its own through the ensemble, some
    at a time, and of all their outputs a codec process makes the answer. The first failure ends all.
    """

    def __init__(
        self,
        plan: EnsemblePlan,
        request: InferenceRequest,
        done: Done,
        context: EnsembleContext,
        allocate: Allocate,
    ) -> None:
        super().__init__(request, done, context.runs)
        self._plan = plan
        self._context = context
        self._allocate = allocate
        self._job: Ticket | None = None  # what a codec process does for this request
        self._running: set[int] = set()
        self._waiting: deque[tuple[int, list[Tensor]]] = deque()
        self._head = FormHead(False, [])
        self._outputs: list[list[Tensor]] = []  # by sample
        # Of a streamed answer to a body, which has one sample: its pieces that are not written yet. None stands for the end.
        self._pieces: deque[list[Tensor] | None] | None = None
        self._left = 0
        own = plan.own
        self._signature = FormSignature(
            list(plan.spec.inputs),
            list(plan.spec.outputs),
            (own.max_batch_size or 1) if own.batched else 0,
            plan.spec.limits.max_response_bytes,
            {name: dict(labels) for name, labels in plan.labels.items() if labels},
            writes_null(plan.spec.handler.json_nan, by_default=True),
        )
        self._start()

    def _start(self) -> None:
        """Have a codec process read the body, which it takes over."""
        request = self._request
        self._submit_job(READ, request.inputs, self._on_read, body=request.body)

    def _submit_job(
        self, path: str, inputs: list[Tensor], done: Callable[[InferenceResponse], None], **fields: Any
    ) -> None:
        request = self._request
        job = InferenceRequest(
            "",
            "",
            request.id,
            inputs,
            form=request.form,
            path=path,
            parameters=write_signature(self._signature),
            deadline=request.deadline,
            **fields,
        )

        over = False

        def on_outcome(outcome: Outcome) -> None:
            nonlocal over
            over, self._job = True, None
            if self._done is None:
                if isinstance(outcome, InferenceResponse):
                    release(outcome.outputs)
            elif isinstance(outcome, MooringError):
                self._end_with_error(body_error(outcome))
            else:
                done(outcome)

        self._context.codecs.start_if_busy()
        ticket = self._context.codecs.submit(job, on_outcome)
        if not over:  # it may have been answered before ``submit`` returned
            self._job = ticket

    def _on_read(self, response: InferenceResponse) -> None:
        tensors = response.tensors
        head = read_head(tensors)
        move_to_arena(tensors, self._allocate)
        start = 1
        for index, sample in enumerate(head.samples):
            end = start + sample.counts[0]
            self._waiting.append((index, tensors[start:end]))
            start = end
        self._outputs = [[] for _ in head.samples]
        self._left = len(head.samples)
        self._head = FormHead(
            head.is_rows, [FormSample([], each.rows, each.batch_added) for each in head.samples]
        )
        self._start_samples()

    def _start_samples(self) -> None:
        """Start samples that wait, as many as may be under way, or have the answer written after the last one."""
        if not self._left:
            self._write_answer()
        while self._done is not None and self._waiting and len(self._tickets) < self._plan.max_inflight:
            index, inputs = self._waiting.popleft()
            request = self._request
            part = InferenceRequest(
                request.model,
                request.version,
                request.id,
                inputs,
                parameters=request.parameters,
                deadline=request.deadline,
                headers=request.headers,
                priority=request.priority,
                timing=request.timing,
            )
            self._running.add(index)
            ticket = EnsembleRun(self._plan, part, self._collect_sample(index), self._context)
            if index in self._running:  # it may have been answered at once
                self._tickets[index] = ticket

    def _collect_sample(self, index: int) -> Done:
        def done(outcome: Outcome) -> None:
            if self._done is None:
                if isinstance(outcome, InferenceResponse):
                    release(outcome.outputs)
                return
            if isinstance(outcome, MooringError):
                self._end_with_error(outcome)
                return
            if not self._head.is_rows and (
                self._pieces is not None or not outcome.final or not outcome.outputs
            ):
                self._add_piece(outcome)
                return
            if outcome.outputs:
                self._head.samples[index].counts.append(len(outcome.outputs))
                self._outputs[index] += outcome.tensors
            if outcome.final:
                self._left -= 1
                self._running.discard(index)
                self._tickets.pop(index, None)
                self._start_samples()

        return done

    def _add_piece(self, outcome: InferenceResponse) -> None:
        """Have a piece of a streamed answer to a body written, after those before it; None ends the stream."""
        if self._pieces is None:
            self._pieces = deque()
        if outcome.outputs:
            self._pieces.append(outcome.tensors)
        if outcome.final:
            self._pieces.append(None)
        if self._job is None:
            self._write_piece()

    def _write_piece(self) -> None:
        if not self._pieces or self._done is None:
            return
        tensors = self._pieces.popleft()
        if tensors is None:
            self._deliver_answer(InferenceResponse([]))
            return
        sample = self._head.samples[0]
        head = FormHead(False, [FormSample([len(tensors)], sample.rows, sample.batch_added)])
        self._submit_job(WRITE, [write_head(head), *tensors], self._deliver_piece)

    def _deliver_piece(self, piece: InferenceResponse) -> None:
        piece.final = False
        self._name_answer(piece)
        if self._done is not None:
            self._done(piece)
        self._write_piece()

    def _write_answer(self) -> None:
        outputs, self._outputs = [each for sample in self._outputs for each in sample], []
        self._submit_job(WRITE, [write_head(self._head), *outputs], self._deliver_answer)

    def _name_answer(self, answer: InferenceResponse) -> None:
        request = self._request
        answer.model, answer.version, answer.id = request.model, self._plan.spec.version, request.id

    def _release_all(self) -> None:
        super()._release_all()
        if self._job is not None:
            self._job.cancel()
        pieces = [piece for piece in self._pieces or () if piece is not None]
        for tensors in (*self._outputs, *(inputs for _, inputs in self._waiting), *pieces):
            release(tensors)
        self._pieces = None
        self._outputs = []
        self._waiting.clear()
