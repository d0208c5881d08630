"""The backend of TorchServe's handlers."""

import logging
import os
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mooring.backends.backend import Backend, Concurrent, run_sync
from mooring.backends.call_times import CURRENT, end_call
from mooring.backends.handler.context import Context, PieceSender
from mooring.backends.handler.continuous import HandlerSteps
from mooring.backends.handler.entry import Handle, find_handler, prepare_imports
from mooring.backends.handler.envelopes import ENVELOPES
from mooring.backends.handler.faults import fault_of, summarize_error
from mooring.backends.handler.forms import (
    BodyForm,
    EnvelopeForm,
    InputsForm,
    InstancesForm,
    RowForm,
    TensorsForm,
    as_results,
)
from mooring.backends.handler.metrics import MetricsStore
from mooring.backends.handler.metrics_yaml import read_metrics
from mooring.core.errors import InvalidOutput, ModelLoadFailed, MooringError
from mooring.core.paths import real_path
from mooring.core.requests import (
    BODY,
    INFER,
    INSTANCES,
    Form,
    InferenceRequest,
    InferenceResponse,
    Operation,
    ResponseHead,
)
from mooring.core.service import LoadContext, ModelMetadata, Outcome, Reply
from mooring.repository.spec import ModelSpec

_log = logging.getLogger(__name__)

_FIRST = range(1)
# Stands for the result of a row whose pieces have all been sent.
_ALL_SENT = object()


class HandlerBackend(Backend):
    """Runs one handler. It owns the process: its working directory and its import path.

    How this works: ``load`` prepares the import path, finds the handler (entry.py), and initializes it. A ``RowForm``
    for each form of request turns requests into rows and results into answers. ``infer`` has fast paths for bodies and
    for a single instance; all other batches go through ``_infer_forms``, which calls the handler with the rows of many
    requests together, or for joint forms and explanations with one request at a time. Before each call the context is
    pointed at its batch (``begin_batch``), and afterwards it is asked for headers and status that the handler set.
    """

    notes_calls = True

    def __init__(self) -> None:
        self._handle: Handle
        self._context: Context
        self._metrics: MetricsStore
        self._forms: dict[Form, RowForm]
        self._plain: BodyForm
        self._instances: RowForm
        self._body: BodyForm | None = None  # only where a body is one row: the fast path
        self._max_rows = 1
        self._asynchronous = False

    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Import the handler and initialize it. The model's folder becomes the working directory."""
        model_dir = real_path(Path(spec.location))
        if not model_dir.is_dir():
            raise ModelLoadFailed(f"the model's folder '{spec.location}' is not there", model=spec.name)
        self._forms = _choose_forms(spec)
        self._plain = BodyForm(decode=spec.handler.decode_input)
        self._instances = self._forms[INSTANCES]
        self._body = None if spec.handler.envelope else self._plain
        self._max_rows = max(spec.batching.max_batch_size, 1)
        self._metrics = _create_store(spec, model_dir)
        os.environ.setdefault("TS_DECODE_INPUT_REQUEST", str(spec.handler.decode_input).lower())
        for name, header in zip(
            ("ID", "START", "END"), msgspec.structs.astuple(spec.sequence.headers), strict=True
        ):
            os.environ.setdefault(f"TS_REQUEST_SEQUENCE_{name}", header)
        os.chdir(model_dir)
        prepare_imports(model_dir, spec.packages, spec.venv)
        self._initialize_handler(spec, context, model_dir)
        return ModelMetadata(
            name=spec.name,
            versions=[spec.version],
            platform=spec.platform,
            inputs=spec.inputs,
            outputs=spec.outputs,
        )

    def _initialize_handler(self, spec: ModelSpec, context: LoadContext, model_dir: Path) -> None:
        """Find the handler and let it load its model, on the event loop that it will run on if it needs one."""
        try:
            entry = find_handler(
                spec.entry or str(spec.manifest.get("model", {}).get("handler", "")), model_dir
            )
            context_arguments = (spec, context, str(model_dir), self._metrics)
            if entry.is_asynchronous and spec.batching.stepwise:
                raise ModelLoadFailed(
                    "continuousBatching calls a handler step by step, and this one is a coroutine function: "
                    "make handle a plain function, or take continuousBatching out of model-config.yaml"
                )
            if entry.is_asynchronous:
                from mooring.backends.handler.asynchronous import ConcurrentContext, run_initialize
                from mooring.backends.overlapping import Overlapping

                self._context = _create_context(ConcurrentContext, *context_arguments)
                self.overlap = Overlapping(self._infer_async)
                run_initialize(self.overlap.loop, entry.initialize, self._context)
            else:
                self._context = _create_context(Context, *context_arguments)
                entry.initialize(self._context)
            self._asynchronous = entry.is_asynchronous
            self._handle = entry.handle
        except ModelLoadFailed:
            raise
        except Exception as error:  # the handler's own code
            raise ModelLoadFailed(
                summarize_error(error), model=spec.name, detail=traceback.format_exc()
            ) from error
        if spec.batching.stepwise:
            self.overlap = HandlerSteps(self._call_handler, self._context, self._forms, self._metrics)

    def close(self) -> None:
        """Let go of the event loop, if there is one."""
        if isinstance(self.overlap, Concurrent):
            self.overlap.loop.close()

    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch; the handler sees all of its rows at once, unless it is asked for more than predictions."""
        self._metrics.set_listener(reply.record_metric)
        body = self._body
        if body is not None and requests[0].operation is INFER:
            for request in requests:
                if request.form is not BODY:
                    break
            else:
                return self._infer_bodies(body, requests, reply)
        first = requests[0]
        if len(requests) == 1 and first.form is INSTANCES and first.operation is INFER and first.rows == 1:
            return self._infer_instance(first, requests, reply)
        return run_sync(self._infer_forms(requests, reply))

    def _infer_bodies(
        self, body: BodyForm, requests: Sequence[InferenceRequest], reply: Reply
    ) -> Sequence[Outcome]:
        """Answer bodies, which are one row each: the fast path."""
        if len(requests) == 1:
            return self._infer_row(body, [body.to_row(requests[0])], requests, reply)
        data = [body.to_row(request) for request in requests]
        ids = {index: request.id for index, request in enumerate(requests)}
        sender = PieceSender(reply, body, requests, range(len(requests)))
        results = as_results(self._call_handler(data, requests, ids, sender), len(data))
        heads = self._context.response_heads()
        if heads is None:
            return [
                self._build_outcome(body, request, [result], None)
                for request, result in zip(requests, results, strict=True)
            ]
        return [
            self._build_outcome(body, request, [result], head)
            for request, result, head in zip(requests, results, heads, strict=True)
        ]

    def _infer_instance(
        self, request: InferenceRequest, requests: Sequence[InferenceRequest], reply: Reply
    ) -> Sequence[Outcome]:
        """Answer a single instance on the fast path.

        A body that is not decoded yet may hold several: it takes the general way.
        """
        form = self._instances
        if request.body is None and not request.inputs[0].packed:
            try:
                rows = form.to_rows(request)
            except MooringError as error:
                return [error]
            return self._infer_row(form, rows, requests, reply)
        return run_sync(self._infer_forms(requests, reply))

    def _infer_row(
        self, form: RowForm, rows: list[Any], requests: Sequence[InferenceRequest], reply: Reply
    ) -> Sequence[Outcome]:
        """Answer one request of one row, the most usual case."""
        (request,) = requests
        sender = PieceSender(reply, form, requests, _FIRST)
        results = as_results(self._call_handler(rows, requests, {0: request.id}, sender), 1)
        heads = self._context.response_heads()
        return [self._build_outcome(form, request, results, heads[0] if heads else None)]

    async def _infer_async(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        self._metrics.set_listener(reply.record_metric)
        return await self._infer_forms(requests, reply)

    async def _infer_forms(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer requests of any form. Waits only where the handler does."""
        outcomes: dict[int, Outcome] = {}
        together: dict[Form, list[_RequestRows]] = {}
        for index, request in enumerate(requests):
            # A request for a description has no body that an envelope could unpack.
            describing = request.operation is Operation.DESCRIBE
            form = self._plain if describing else self._forms[request.form]
            try:
                share = _RequestRows(index, request, form.to_rows(request))
            except MooringError as error:
                outcomes[index] = error
                continue
            if form.joint or request.operation is not Operation.INFER:
                outcomes[index] = await self._infer_alone(form, share, reply)
            else:
                together.setdefault(request.form, []).append(share)
        for kind, shares in together.items():
            outcomes.update(await self._infer_together(self._forms[kind], shares, reply))
        return [outcomes[index] for index in range(len(requests))]

    async def _infer_alone(self, form: RowForm, share: "_RequestRows", reply: Reply) -> Outcome:
        """One request by itself: all of it in a joint form, else a row at a time (an explanation is of one row)."""
        size = len(share.rows) if form.joint else 1
        results: list[Any] = []
        head = None
        try:
            for start in range(0, len(share.rows), max(size, 1)):
                rows = share.rows[start : start + size]
                returned, heads = await self._call_shares(form, [share], rows, [start], reply)
                results += as_results(returned, None if form.joint else len(rows))
                head = head or (heads[0] if heads else None)
        except Exception as error:  # the handler's own code
            return fault_of(error)
        return self._build_outcome(form, share.request, results, head)

    async def _infer_together(
        self, form: RowForm, shares: "Sequence[_RequestRows]", reply: Reply
    ) -> dict[int, Outcome]:
        """Answer the rows of many requests in calls of at most the batch size. Results are in the order of the rows."""
        flat = [(share, position) for share in shares for position in range(len(share.rows))]
        results: dict[int, list[Any]] = {share.index: [] for share in shares}
        heads: dict[int, ResponseHead] = {}
        for start in range(0, len(flat), self._max_rows):
            part = flat[start : start + self._max_rows]
            rows = [share.rows[position] for share, position in part]
            owners = [share for share, _ in part]
            returned, row_heads = await self._call_shares(
                form, owners, rows, [position for _, position in part], reply
            )
            for (share, _), result in zip(part, as_results(returned, len(rows)), strict=True):
                results[share.index].append(result)
            for share, head in zip(owners, row_heads or (), strict=False):
                if head is not None:
                    heads.setdefault(share.index, head)
        return {
            share.index: self._build_outcome(
                form, share.request, results[share.index], heads.get(share.index)
            )
            for share in shares
        }

    async def _call_shares(
        self,
        form: RowForm,
        owners: "Sequence[_RequestRows]",
        rows: list[Any],
        positions: Sequence[int],
        reply: Reply,
    ) -> tuple[Any, "list[ResponseHead | None] | None"]:
        requests = [owner.request for owner in owners]
        ids = {
            row: owner.row_id(position)
            for row, (owner, position) in enumerate(zip(owners, positions, strict=True))
        }
        sender = PieceSender(reply, form, requests, [owner.index for owner in owners])
        if self._asynchronous:
            returned = await self._call_async_handler(rows, requests, ids, sender)
        else:
            returned = self._call_handler(rows, requests, ids, sender)
        return returned, self._context.response_heads()

    def _call_handler(
        self, data: list[Any], requests: Sequence[InferenceRequest], ids: dict[int, str], sender: PieceSender
    ) -> Any:
        """Call the handler with these rows and return its result. What it raises becomes a ``MooringError``."""
        context = self._context
        context.begin_batch(requests, ids, sender)
        self._metrics.request_ids = ids
        times = CURRENT.get()
        begun = None if times is None else times.begin_call(requests, len(data))
        started = time.perf_counter()
        try:
            returned = self._handle(data, context)
        except Exception as error:  # the handler's own code
            raise fault_of(error, self.client_errors) from error
        if begun is not None:
            end_call(begun)
        self._metrics.record_time("PredictionTime", started)
        return returned

    async def _call_async_handler(
        self, data: list[Any], requests: Sequence[InferenceRequest], ids: dict[int, str], sender: PieceSender
    ) -> Any:
        """Call a handler that waits, as ``_call_handler``. Other calls run meanwhile."""
        context = self._context
        context.begin_batch(requests, ids, sender)
        self._metrics.request_ids = ids
        times = CURRENT.get()
        begun = None if times is None else times.begin_call(requests, len(data))
        started = time.perf_counter()
        try:
            returned = self._handle(data, context)
            if hasattr(returned, "__anext__"):
                returned = await _send_stream(returned, context, len(data))
            elif hasattr(returned, "__await__"):
                returned = await returned
        except Exception as error:  # the handler's own code
            raise fault_of(error, self.client_errors) from error
        if begun is not None:
            end_call(begun)
        self._metrics.record_time("PredictionTime", started)
        return returned

    def _build_outcome(
        self, form: RowForm, request: InferenceRequest, results: Sequence[Any], head: ResponseHead | None
    ) -> Outcome:
        """Build one request's outcome. Results that no answer can hold fail this request only."""
        if results and results[0] is _ALL_SENT:
            return InferenceResponse(
                [], head=head
            )  # every piece is there already; this says that it was the last
        try:
            return form.to_response(request, results, head)
        except InvalidOutput as error:
            return error


class _RequestRows:
    """The rows that one request adds to a batch."""

    __slots__ = ("index", "request", "rows")

    def __init__(self, index: int, request: InferenceRequest, rows: list[Any]) -> None:
        self.index = index
        self.request = request
        self.rows = rows

    def row_id(self, position: int) -> str:
        """Return the request's id, made unique for each of several rows."""
        return self.request.id if len(self.rows) == 1 else f"{self.request.id}-{position}"


def _choose_forms(spec: ModelSpec) -> dict[Form, RowForm]:
    body = BodyForm(decode=spec.handler.decode_input)
    forms: dict[Form, RowForm] = {
        Form.BODY: body,
        Form.INSTANCES: InstancesForm(opens_base64=spec.handler.envelope == "json"),
        Form.TENSORS: (InputsForm if spec.handler.envelope == "kservev2" else TensorsForm)(
            spec.handler.json_nan
        ),
    }
    if spec.handler.envelope:
        envelope = ENVELOPES.get(spec.handler.envelope)
        if envelope is None:
            raise ModelLoadFailed(
                f"unknown service_envelope '{spec.handler.envelope}'; known are {', '.join(sorted(ENVELOPES))}"
            )
        forms[Form.BODY] = EnvelopeForm(body, envelope(), spec.version)
    return forms


def _create_store(spec: ModelSpec, model_dir: Path) -> MetricsStore:
    """Create the store of metrics, with those that the server's file and the archive's own declare; the archive's wins."""
    store = MetricsStore(model_name=spec.name, as_lines=spec.handler.metric_lines)
    files = [Path(spec.handler.metrics_config)] if spec.handler.metrics_config else []
    for file in (*files, model_dir / "metrics.yaml"):
        try:
            for metric in read_metrics(file):
                store.add_declared(metric)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            # The server has read its own file; and a model serves as well without what its archive's declares.
            _log.warning("metrics not declared: %s", error)
    return store


def _create_context(
    kind: type[Context], spec: ModelSpec, context: LoadContext, model_dir: str, metrics: MetricsStore
) -> Context:
    config = dict(spec.config)
    if "allow_pickle" in spec.parameters:
        config["allow_pickle"] = spec.parameters["allow_pickle"]
    return kind(
        spec.name,
        model_dir,
        spec.manifest,
        spec.batching.max_batch_size,
        context.gpu,
        limit_max_image_pixels=spec.handler.limit_image_pixels,
        metrics=metrics,
        model_yaml_config=config,
        sequence_headers=spec.sequence.headers,
    )


async def _send_stream(pieces: AsyncIterator[Any], context: Context, rows: int) -> list[Any]:
    """Send every list of results that an asynchronous generator yields, each when it is there."""
    empty = True
    async for piece in pieces:
        empty = False
        for row, item in enumerate(as_results(piece, rows)):
            context.send_piece(row, item)
    if empty:
        raise InvalidOutput(
            "Invalid model predict output", detail="the handler ended without yielding anything"
        )
    return [_ALL_SENT] * rows
