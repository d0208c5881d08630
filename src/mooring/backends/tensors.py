"""Models that take and give named arrays: everything between a batch of requests and one call of the model."""

import abc
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mooring.backends.answers import SampleOutputs, build_response, to_output_arrays
from mooring.backends.backend import Backend, run_sync
from mooring.backends.call_times import CURRENT, end_call
from mooring.backends.model_calls import await_output, is_stream, iterate_pieces, to_model_failure
from mooring.backends.reshaping import Reshaping
from mooring.backends.samples import (
    Arrays,
    Parameters,
    Reader,
    Sample,
    group_samples,
    join_samples,
    split_outputs,
)
from mooring.backends.sequence_controls import check_sequence_id, fill_controls
from mooring.backends.sequence_slots import SequenceSlots
from mooring.backends.uniform_batches import UniformBatch, UniformBatches
from mooring.codecs.bodies import NO_CLASSES, Classes
from mooring.codecs.images import ImageSettings
from mooring.codecs.nonfinite import writes_null
from mooring.codecs.open_inference import decode_v2_body
from mooring.codecs.requested_outputs import encode_outputs
from mooring.codecs.signature import Signature
from mooring.core.errors import (
    InvalidInput,
    InvalidOutput,
    ModelLoadFailed,
    MooringError,
    Unsupported,
)
from mooring.core.options import CONCAT, Control, compile_header_pattern
from mooring.core.requests import (
    DESCRIBE,
    EXPLAIN,
    INFER,
    TENSORS,
    InferenceRequest,
    InferenceResponse,
    Operation,
)
from mooring.core.service import LoadContext, ModelMetadata, Outcome, Reply
from mooring.core.tensors import WITHOUT_NUMPY_TYPE
from mooring.repository.spec import ModelSpec

if TYPE_CHECKING:
    from mooring.explain.attribution import Explainer

ModelOutput = Any
"""What a model returns: a dict of arrays by name, or an iterator of such dicts when it streams.

One that waits returns an awaitable of the dict, or an asynchronous iterator.
"""

ExplanationTargets = Sequence[tuple[Any, int]]
"""The targets of an explanation as they were sent, each with the rows it is for (``Sample.rows``)."""

_TARGET = "target"


class TensorBackend(Backend):
    """Reads requests of every form, joins them, calls ``predict``, and splits what it returns.

    With ``max_batch_size`` 1 a model gets each request's arrays as they were sent and may return any shape; above
    that its inputs and outputs carry the batch in their first dimension. KServe v1 instances always do. A request of
    more rows than ``max_batch_size`` is called in parts, but one of v2 is refused where the configuration says so
    many. ``can_batch`` False: no batch, not even for instances.
    """

    # Whether calls may have a batch dimension at all. ``Reader.runs_alone`` is about a model that has one: its calls are
    # not shared yet, since it is not known whether the rows of a batch affect each other.
    can_batch: ClassVar[bool] = True
    # Whether the model's code may be given parameters that are lists and objects.
    takes_values: ClassVar[bool] = False
    # Whether an answer holds the declared outputs and nothing else, so that ``UniformBatches`` may serve the model.
    standard_outputs: ClassVar[bool] = True

    notes_calls = True
    spec: ModelSpec
    reader: Reader
    explainer: "Explainer | None" = None
    # The model's own code explains, and not we.
    explains_itself = False
    takes_target = True
    # The names that the model has for the columns of its outputs.
    classes: Classes = NO_CLASSES
    # Other names that outputs may be asked for by.
    output_aliases: Mapping[str, str] = MappingProxyType({})
    _uniform_batches: UniformBatches | None = None
    _forwarded: re.Pattern[str] | None = None  # the headers that become parameters
    _reshaping: Reshaping | None = None
    controls: Sequence[Control] = ()
    # Of a model whose sequences have slots: with the direct strategy, or with implicit state.
    slots: SequenceSlots | None = None
    # Whether a call of the model asks ``cancelled`` if anybody still waits for what it does.
    takes_cancelled: bool = False
    cancelled: Callable[[], bool] = staticmethod(lambda: False)

    @abc.abstractmethod
    def load_model(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Load the model, and say what it takes and gives. Raises ``ModelLoadFailed``."""

    @abc.abstractmethod
    def predict(self, arrays: Arrays, parameters: Parameters) -> ModelOutput:
        """One call of the model. The arrays may be views of the request's memory, which must not be written to."""

    def explain(self, arrays: Arrays, parameters: Parameters, targets: ExplanationTargets) -> ModelOutput:
        """Return attributions by input, as ``predict`` returns outputs.

        Raises ``Unsupported`` where nothing explains the model.
        """
        if self.explainer is None:
            raise Unsupported(
                f"model '{self.spec.name}' gives no explanations: name a method under [explain] in its configuration"
            )
        return self.explainer.attribute(arrays, targets, self.reader.limit)

    def input_signature(self, metadata: ModelMetadata) -> Signature:
        """Return the signature by which the bodies of requests are decoded."""
        return Signature.of(metadata.inputs, ImageSettings.of(self.spec.parameters))

    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Open the model and keep what it declares; where that fails, close it."""
        try:
            return self._open(spec, context)
        except BaseException:
            self.close()
            raise

    def _open(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        self.spec = spec
        self.controls = spec.sequence.controls
        metadata = self.load_model(spec, context)
        limit = max(1, spec.batching.max_batch_size)
        one_row = spec.batching.batch_dimension is True and limit == 1
        signature = self.input_signature(metadata)
        self.reader = Reader(
            signature,
            spec.batching.mode,
            limit,
            self.can_batch,
            one_row=one_row,
            equal_rows=_has_equal_rows(spec, signature),
            model=spec.name,
        )
        self._reshaping = Reshaping(metadata.inputs, metadata.outputs) or None
        self._declared = {output.name: output for output in metadata.outputs if output.datatype}
        if spec.sequence.direct or spec.sequence.states:
            self._check_slots(spec)
            self.slots = SequenceSlots(spec, self._declared)
        # What of an answer is the same for all requests, put together once.
        self._answer = functools.partial(
            build_response,
            labels_of=spec.labels_of,
            declared=self._declared,
            aliases=self.output_aliases,
            classes=self.classes,
            null=self._writes_null(),
        )
        forwarded = spec.handler.forward_headers if self.takes_values else ""
        self._forwarded = compile_header_pattern(forwarded) if forwarded else None
        borrows_type = any(output.datatype in WITHOUT_NUMPY_TYPE for output in metadata.outputs)
        if (
            self.standard_outputs
            and not borrows_type
            and not self.controls
            and self.slots is None
            and not self.takes_cancelled
            and self.overlap is None
            and self._forwarded is None
        ):
            self._uniform_batches = UniformBatches(self)
        if spec.explain:
            self.explainer = self.create_explainer(metadata, context)
        return metadata

    def _check_slots(self, spec: ModelSpec) -> None:
        """Raise ``ModelLoadFailed`` for a model whose calls cannot have a row for every sequence."""
        if spec.sequence.direct and spec.batching.max_batch_size > 1:
            if self.overlap is not None:
                raise ModelLoadFailed(
                    f"model '{spec.name}' is asynchronous, so that its sequences have no slots of a batch: choose the "
                    "strategy oldest, or set max_batch_size to 1"
                )
            if not self.can_batch:
                raise ModelLoadFailed(f"model '{spec.name}' takes one row at a time: set max_batch_size to 1")

    def clear_layouts(self) -> None:
        """Forget what requests mean on the fast path, since the reader has changed."""
        if self._uniform_batches is not None:
            self._uniform_batches = UniformBatches(self)

    def create_explainer(self, metadata: ModelMetadata, context: LoadContext) -> "Explainer":
        """Create the explainer that the configuration asks for. Raises ``ModelLoadFailed``."""
        from mooring.backends.explainers import BlackBoxModel, build_explainer

        return build_explainer(self.spec, metadata, BlackBoxModel(self, context.threads))

    def reader_for(self, operation: Operation) -> Reader:
        """Return the reader of the requests of an operation."""
        if operation is not EXPLAIN or not self.takes_target:
            return self.reader
        signature = self.reader.signature
        aside = "" if _TARGET in signature.names else _TARGET
        # Attributions are made row by row however many lie together, and of one request at a time all the same.
        return replace(self.reader, signature=replace(signature, aside=aside), runs_alone=False)

    def read_samples(
        self, index: int, request: InferenceRequest, reader: Reader
    ) -> tuple[list[Sample], bool]:
        """Return the samples of a request, and whether they are KServe v1 instances. Raises ``MooringError``."""
        if request.operation is DESCRIBE:
            raise Unsupported(f"model '{request.model}' has no description of its own")
        if self._forwarded is not None and request.headers:
            if request.form is TENSORS:
                decode_v2_body(request)  # which has parameters, too
            request.parameters = forward_headers(self._forwarded, request) or None
        samples, rows = reader.read_samples(index, request)
        if request.parameters and not self.takes_values:
            _check_plain(request, reader.signature.aside)
        self.check_requested_outputs(request)
        if request.form is TENSORS:
            self.check_row_count(request.model, samples[0].rows)
        check_sequence_id(self.controls, request)
        if self.slots is not None:
            self.slots.prepare_samples(samples, request)
        return samples, rows

    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch; see ``Backend.infer``."""
        batch = None if self._uniform_batches is None else self._uniform_batches.build_batch(requests)
        return (
            run_sync(BatchRun(self, requests, reply).run_batch())
            if batch is None
            else self._infer_uniform(batch, reply)
        )

    async def infer_async(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch as ``infer``, for a model that waits."""
        return await BatchRun(self, requests, reply).run_batch()

    def _infer_uniform(self, batch: UniformBatch, reply: Reply) -> Sequence[Outcome]:
        """Answer requests that are alike on the fast path; ``BatchRun`` answers where the model streams or its outputs do not fit."""
        try:
            times = CURRENT.get()
            begun = None if times is None else times.begin_call(batch.requests, batch.rows)
            returned = self.call_model(INFER, batch.arrays, {})
            if begun is not None:
                end_call(begun)
            if type(returned) is not dict and hasattr(returned, "__next__"):
                return run_sync(BatchRun(self, batch.requests, reply).run_batch(returned))
            outputs = self.to_output_arrays(INFER, returned)
            return batch.to_responses(outputs) or run_sync(
                BatchRun(self, batch.requests, reply).run_batch(returned)
            )
        except MooringError as error:
            if len(batch.requests) > 1:
                raise
            return [error]

    def check_row_count(self, name: str, rows: int) -> None:
        """Raises ``InvalidInput`` for more rows than a request of v2 may have, of the model called so.

        Its clients make their batches themselves and expect a limit to hold, where the configuration sets one.
        """
        batching = self.spec.options.batching
        limit = batching.max_batch_size
        if not batching.size_by_default and rows > limit > 1:
            raise InvalidInput(
                f"inference request batch-size must be <= {limit} for '{name}', and is {rows}; send fewer rows"
            )

    def to_response(self, request: InferenceRequest, results: SampleOutputs, rows: bool) -> InferenceResponse:
        """Build the response to one request, or to a piece of its stream."""
        if request.operation is not EXPLAIN:
            return self._answer(request, results, rows=rows)
        return build_response(
            request,
            results,
            rows=rows,
            labels_of=_no_labels,
            declared={},
            aliases=self.output_aliases,
            null=self._writes_null(),
        )

    def encode_response(self, request: InferenceRequest, response: InferenceResponse) -> InferenceResponse:
        """Give a response the form that its request asks for. Raises ``InvalidInput``."""
        return encode_outputs(request, response, self, self.spec.options.handler.json_nan)

    def _writes_null(self) -> bool:
        """Whether JSON that is no tensor's has null for NaN and Infinity."""
        return writes_null(self.spec.handler.json_nan, by_default=True)

    def labels_of(self, output: str) -> Mapping[str, Any]:
        """Return the names of an output's classes by index, as text: those of the configuration, else of the model's file."""
        declared = self._declared.get(output)
        own = declared.labels if declared is not None else []
        return self.spec.labels_of(output) or {str(index): label for index, label in enumerate(own)}

    def has_batch(self, output: str, rank: int) -> bool:
        """Whether the first dimension of an output of that rank, as a client gets it, is the batch."""
        spec = self._declared.get(output)
        shape = spec.shape if spec is not None else []
        if self.spec.batching.batch_dimension is None:
            if not shape:  # nobody knows
                return rank > 1
            batched = self.reader.batch is CONCAT and shape[0] == -1 and rank > 1
        else:
            batched = self.spec.batching.batch_dimension
        return batched and (not shape or rank == len(shape))

    def call_model(
        self, operation: Operation, arrays: Arrays, parameters: Parameters, targets: ExplanationTargets = ()
    ) -> ModelOutput:
        """Call the model's code; whatever it raises becomes a ``ModelFailed`` with its traceback."""
        try:
            if self._reshaping is not None:
                arrays = self._reshaping.reshape_inputs(arrays)
            if operation is EXPLAIN:
                return self.explain(arrays, parameters, targets)
            return self.predict(arrays, parameters)
        except MooringError:
            raise
        except Exception as error:
            raise to_model_failure(error) from error

    def check_requested_outputs(self, request: InferenceRequest) -> None:
        """Raises ``InvalidInput`` when the caller asks for an output that the model does not declare."""
        if request.outputs and self._declared and request.operation is INFER:
            for output in request.outputs:
                if output.name not in self._declared:
                    raise InvalidInput(
                        f"unexpected inference output '{output.name}' for model '{request.model}'"
                    )

    def to_output_arrays(self, operation: Operation, returned: ModelOutput) -> Arrays:
        """Return the arrays by name in what one call returned. Raises ``InvalidOutput``."""
        explained = operation is EXPLAIN
        arrays = to_output_arrays(returned, {} if explained else self._declared)
        if self._reshaping is None:
            return arrays
        return (
            self._reshaping.reshape_attributions(arrays)
            if explained
            else self._reshaping.reshape_outputs(arrays)
        )


def _has_equal_rows(spec: ModelSpec, signature: Signature) -> bool:
    """Whether the configuration says that the first dimension of every input is the batch.

    A file that nobody configured may have inputs whose open first dimensions have nothing to do with each other.
    """
    batching = spec.batching
    if batching.batch_dimension is not None:
        return batching.batch_dimension
    inputs = [each for each in signature.specs.values() if not each.optional]
    return (
        batching.max_batch_size > 1
        and not batching.size_by_default
        and bool(inputs)
        and all(each.shape[:1] == [-1] for each in inputs)
    )


def _rows_of(samples: Sequence[Sample]) -> int:
    """Return the rows of a call; a sample without a batch dimension is one."""
    return sum(max(sample.rows, 1) for sample in samples if sample.request >= 0)


def _no_labels(_output: str) -> Mapping[str, Any]:
    return {}


def forward_headers(pattern: re.Pattern[str], request: InferenceRequest) -> dict[str, Any]:
    """Return a request's parameters with the headers that match; a parameter of the request itself stays."""
    headers = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers or ())
    forwarded = {name: value for name, value in headers if pattern.search(name)}
    return {**forwarded, **(request.parameters or {})}


def _check_plain(request: InferenceRequest, aside: str) -> None:
    """Raises ``InvalidInput`` for a parameter that is a list or an object; ``aside`` names what is no parameter."""
    for name, value in (request.parameters or {}).items():
        if isinstance(value, list | dict) and name != aside:
            kind = "a list" if isinstance(value, list) else "an object"
            raise InvalidInput(
                f"parameter '{name}' of the request is {kind}; model '{request.model}' is a file of tensors, and takes "
                "strings, numbers and booleans (Python functions take any JSON)"
            )


class BatchRun:
    """Runs one batch through a model.

    How this works: ``run_batch`` reads every request into samples, and notes the error of each request that is at
    fault. Samples that may share a call are grouped (``group_samples``); each group is one call, and a sample of too
    many rows several. Outputs are split by sample and kept until all calls are done; pieces of a stream are sent at
    once. In the end each request gets its error, or a response built of its samples' outputs.
    """

    def __init__(self, backend: TensorBackend, requests: Sequence[InferenceRequest], reply: Reply) -> None:
        self._backend = backend
        self._requests = requests
        self._reply = reply
        self._operation = requests[0].operation
        self._limit = 1 if backend.reader.runs_alone else backend.reader.limit
        self._errors: dict[int, MooringError] = {}
        self._samples: list[list[Sample]] = []
        self._rows: list[bool] = []
        # By identity: arrays cannot be compared.
        self._pieces: dict[int, list[Arrays]] = {}
        self._streamed: set[int] = set()

    async def run_batch(self, returned: ModelOutput = None) -> list[Outcome]:
        """Run it; ``returned`` is what the model gave where it was called for all of them already.

        Raises what the model raised in a call that several requests shared.
        """
        self._read_requests()
        readable = [sample for samples in self._samples for sample in samples]
        for samples in group_samples(readable, self._limit):
            try:
                await (
                    self._run_samples(samples)
                    if returned is None
                    else self._collect_output(samples, returned)
                )
            except MooringError as error:
                if len({sample.request for sample in samples}) > 1:
                    raise
                self._errors.setdefault(samples[0].request, error)
        return [self._outcome_of(index) for index in range(len(self._requests))]

    def _read_requests(self) -> None:
        """Read all requests before the model is called: the model runs for no request that is at fault."""
        reader = self._backend.reader_for(self._operation)
        for index, request in enumerate(self._requests):
            samples: list[Sample] = []
            rows = False
            try:
                samples, rows = self._backend.read_samples(index, request, reader)
            except MooringError as error:
                self._errors[index] = error
                samples = []
            if len(samples) > 1 and reader.runs_alone:
                self._backend.missed_joining = True
            self._samples.append(samples)
            self._rows.append(rows)

    async def _run_samples(self, samples: list[Sample]) -> None:
        """Call the model once, or for a sample of too many rows as often as needed."""
        explained = self._operation is EXPLAIN
        # An explainer keeps to the limit itself, since its targets may be one for each row.
        if samples[0].rows > self._limit and not (explained and not self._backend.explains_itself):
            self._pieces[id(samples[0])] = [await self._run_in_parts(samples[0])]
            return
        targets = [(sample.target, sample.rows) for sample in samples] if explained else ()
        slots = self._backend.slots
        rows = samples if slots is None else slots.lay_out(samples)
        returned = await self._call_backend(join_samples(rows), rows, targets)
        await self._collect_output(samples, returned)

    async def _call_backend(
        self, arrays: Arrays, samples: Sequence[Sample], targets: ExplanationTargets
    ) -> ModelOutput:
        """Call the model with the rows of these samples, and return its output."""
        backend = self._backend
        if backend.takes_cancelled:
            backend.cancelled = functools.partial(self._is_cancelled, samples)
        arrays = self._with_controls(arrays, samples)
        times = CURRENT.get()
        begun = None if times is None else times.begin_call(self._requests_of(samples), _rows_of(samples))
        returned = backend.call_model(self._operation, arrays, samples[0].parameters, targets)
        if backend.overlap is not None:
            returned = await await_output(returned)
        if begun is not None:
            end_call(begun)
        return returned

    def _requests_of(self, samples: Sequence[Sample]) -> list[InferenceRequest]:
        return [self._requests[sample.request] for sample in samples if sample.request >= 0]

    async def _collect_output(self, samples: list[Sample], returned: ModelOutput) -> None:
        if is_stream(returned):
            await self._stream_pieces(samples, returned)
        else:
            self._store_outputs(samples, self._split_outputs(samples, returned))

    async def _run_in_parts(self, sample: Sample) -> Arrays:
        parts: list[Arrays] = []
        for start in range(0, sample.rows, self._limit):
            end = min(start + self._limit, sample.rows)
            arrays = {name: array[start:end] for name, array in sample.arrays.items()}
            part = Sample(sample.request, arrays, end - start, parameters=sample.parameters)
            returned = await self._call_backend(arrays, [part], [(sample.target, end - start)])
            if is_stream(returned):
                raise Unsupported(f"the model streams; send at most {self._limit} rows in a request")
            parts += self._split_outputs([part], returned)
        try:
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        except (KeyError, ValueError) as error:
            raise InvalidOutput(f"the outputs of one request's rows do not fit together: {error}") from None

    def _with_controls(self, arrays: Arrays, samples: Sequence[Sample]) -> Arrays:
        """Add the control inputs that tell a sequence model which sequence each row belongs to."""
        controls = self._backend.controls
        if not controls:
            return arrays
        steps = [
            sample.step or self._requests[sample.request].sequence
            for sample in samples
            for _ in range(max(sample.rows, 1))
        ]
        first = samples[0]
        batched = first.rows > 0 or first.batch_added or self._backend.spec.batching.batch_dimension is True
        return {**arrays, **fill_controls(controls, steps, batched=batched)}

    def _split_outputs(self, samples: list[Sample], returned: ModelOutput) -> list[Arrays]:
        outputs = self._backend.to_output_arrays(self._operation, returned)
        slots = self._backend.slots
        return split_outputs(outputs, samples) if slots is None else slots.split_outputs(outputs, samples)

    def _store_outputs(self, samples: list[Sample], outputs: list[Arrays]) -> None:
        for sample, arrays in zip(samples, outputs, strict=True):
            self._pieces.setdefault(id(sample), []).append(arrays)

    async def _stream_pieces(self, samples: list[Sample], returned: ModelOutput) -> None:
        """Send every piece as soon as it comes."""
        empty = True
        is_cancelled = functools.partial(self._is_cancelled, samples)
        async with aclosing(iterate_pieces(returned, is_cancelled)) as pieces:
            async for piece in pieces:
                empty = False
                outputs = self._split_outputs(samples, piece)
                self._emit_pieces(samples, outputs)
                for sample, arrays in zip(samples, outputs, strict=True):
                    if self._rows[sample.request]:
                        self._store_outputs([sample], [arrays])
        if empty:
            self._end_empty_stream(samples)

    def _end_empty_stream(self, samples: list[Sample]) -> None:
        """Accept a stream without pieces where the model is ``decoupled``.

        Raises ``InvalidOutput`` for any other model.
        """
        if not self._backend.spec.decoupled:
            raise InvalidOutput(
                "the model ended its stream without a piece; say decoupled where it may give no response"
            )
        for sample in samples:
            self._streamed.add(sample.request)
            self._pieces.setdefault(id(sample), [])

    def _is_cancelled(self, samples: Sequence[Sample]) -> bool:
        """Whether all requests of these samples were cancelled; an empty row has none."""
        return all(self._reply.cancelled(sample.request) for sample in samples if sample.request >= 0)

    def _emit_pieces(self, samples: list[Sample], outputs: list[Arrays]) -> None:
        for sample, arrays in zip(samples, outputs, strict=True):
            self._streamed.add(sample.request)
            # An answer to instances is whole: a prediction is the list of its pieces.
            if not self._rows[sample.request]:
                piece = self._build_response(sample.request, [(sample, [arrays])])
                piece.final = False
                self._reply.emit(sample.request, piece)

    def _outcome_of(self, index: int) -> Outcome:
        error = self._errors.get(index)
        if error is not None:
            return error
        if index in self._streamed and not self._rows[index]:
            return InferenceResponse([])  # every piece is there already; this says that it was the last
        results = [(sample, self._pieces[id(sample)]) for sample in self._samples[index]]
        try:
            return self._build_response(index, results)
        except MooringError as invalid:
            return invalid

    def _build_response(self, index: int, results: SampleOutputs) -> InferenceResponse:
        request = self._requests[index]
        response = self._backend.to_response(request, results, self._rows[index])
        return self._backend.encode_response(request, response)
