"""The backend of models written for Triton's Python backend: a file ``model.py`` with a class ``TritonPythonModel``."""

import asyncio
import functools
import inspect
import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mooring.backends.answers import to_output_arrays
from mooring.backends.call_times import CURRENT, end_call
from mooring.backends.model_calls import to_model_failure
from mooring.backends.model_source import bypass_bytecode_cache, import_source
from mooring.backends.samples import Arrays, Parameters, Sample
from mooring.backends.sequence_controls import NOT_READY, fill_controls
from mooring.backends.tensors import ModelOutput, TensorBackend
from mooring.backends.triton_python.calls import ModelCaller
from mooring.backends.triton_python.exchanges import ClientExchange, SampleExchange, StreamExchange
from mooring.backends.triton_python.host import HOST
from mooring.backends.triton_python.instance import initialize_arguments
from mooring.backends.triton_python.main_thread import DecoupledModel
from mooring.backends.triton_python.messages import (
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    TRITONSERVER_REQUEST_RELEASE_ALL,
    InferenceRequest,
    InferenceResponse,
)
from mooring.backends.triton_python.tensor import Tensor, to_strings
from mooring.backends.user_function import run_user_code
from mooring.core.errors import InvalidOutput, ModelFailed, ModelLoadFailed, MooringError, Unsupported
from mooring.core.requests import INFER
from mooring.core.requests import InferenceRequest as CoreRequest
from mooring.core.requests import InferenceResponse as CoreResponse
from mooring.core.service import LoadContext, ModelMetadata, Outcome, Reply
from mooring.repository.spec import ModelSpec
from mooring.repository.triton import is_iterative

_log = logging.getLogger(__name__)

CLASS = "TritonPythonModel"
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
# Stands before all else on the import path: it has the module that models import as pb_utils.
COMPAT = Path(__file__).parents[2] / "compat" / "triton_python"


class TritonPythonBackend(TensorBackend):
    """Runs a ``TritonPythonModel``: ``initialize``, ``execute`` and ``finalize``.

    How this works: a request is read as for every model of tensors, but never joined: each becomes an object of its own,
    and ``execute`` gets a list of them. A model that is not decoupled is called with one list at a time, on the worker's
    thread; the call ends when ``execute`` has returned and every response sender is closed. A decoupled model takes
    requests while responses to others are still to come: another thread receives them (main_thread.py).
    """

    takes_values = True
    standard_outputs = False
    _model: Any = None
    _joins = True
    _iterative = False

    def __init__(self) -> None:
        self._sequence_ids = itertools.count(1)

    def load_model(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Import the file, and make and initialize the model. Raises ``ModelLoadFailed`` with file, line and reason."""
        path = Path(spec.location, spec.entry)
        if not path.is_file():
            raise ModelLoadFailed(f"model '{spec.name}' has no file {path}")
        HOST.set_model(spec.location, self.models, ModelCaller())
        kind = run_user_code(path, import_model_class, path)
        if not callable(getattr(kind, "execute", None)):
            raise ModelLoadFailed(f"{path}: class {CLASS} has no method execute")
        # Without dynamic_batching or sequences a call has one request, as in Triton.
        self._joins = "dynamic_batching" in spec.triton or "sequence_batching" in spec.triton
        self._iterative = is_iterative(spec.triton)
        if spec.decoupled:
            self.fork_unsafe_reason = "a decoupled model has an event loop"
            asynchronous = inspect.iscoroutinefunction(kind.execute)
            self.overlap = DecoupledModel(
                self._infer_decoupled,
                asynchronous=asynchronous,
                most_rows=spec.batching.max_batch_size if self._joins else 1,
            )
        run_user_code(path, self._initialize, kind, context)
        return ModelMetadata(spec.name, [spec.version], "python", list(spec.inputs), list(spec.outputs))

    def after_fork(self, context: LoadContext) -> None:
        """Let the model's code reach other models from the worker that was forked with it."""
        HOST.set_model(self.spec.location, self.models, ModelCaller())

    def _initialize(self, kind: type, context: LoadContext) -> None:
        self._model = kind()
        if hasattr(self._model, "initialize"):
            self._model.initialize(initialize_arguments(self.spec, context))

    def infer(self, requests: Sequence[CoreRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch of a model that is not decoupled; see ``Backend.infer``."""
        if requests[0].operation is not INFER:
            return super().infer(requests, reply)
        HOST.set_recorder(reply.record_metric)
        reads = [self.read_request(index, request) for index, request in enumerate(requests)]
        groups: list[list[SampleExchange]] = []
        for index, (request, read) in enumerate(zip(requests, reads, strict=True)):
            cancelled = functools.partial(reply.cancelled, index)
            groups.append(
                [
                    SampleExchange(
                        each,
                        self.to_model_request(each, request),
                        request.deadline,
                        functools.partial(self.step_arrays, each),
                        cancelled,
                    )
                    for each in read.samples
                ]
            )
        exchanges = [exchange for group in groups for exchange in group]
        for together in [exchanges] if self._joins else [[each] for each in exchanges]:
            begun = _begin_call(requests, together)
            self._run(self._with_empty_rows(together))
            end_call(begun)
        return [
            self._conclude(request, read, group)
            for request, read, group in zip(requests, reads, groups, strict=True)
        ]

    def _with_empty_rows(self, exchanges: list[SampleExchange]) -> list[SampleExchange]:
        """Return what ``execute`` is given: with the direct strategy a request for every slot, in their order."""
        if self.slots is None or not exchanges:
            return exchanges
        by_sample = {id(each.sample): each for each in exchanges}
        rows = self.slots.lay_out([each.sample for each in exchanges])
        return [by_sample.get(id(row)) or self._empty_exchange(row) for row in rows]

    def _empty_exchange(self, row: Sample) -> SampleExchange:
        """Return a request that is not ready; whatever the model answers to it is dropped."""
        request = CoreRequest(self.spec.name, self.spec.version, "", [], sequence=NOT_READY)
        controls = fill_controls(self.controls, [NOT_READY], batched=True)
        arrays = {**{name: array.copy() for name, array in row.arrays.items()}, **controls}
        sample = Sample(row.request, arrays, row.rows)
        return SampleExchange(
            sample, self.to_model_request(sample, request), None, self.response_arrays, lambda: False
        )

    def read_request(self, index: int, request: CoreRequest) -> "_Read":
        """Read a request as samples whose arrays are the model's own."""
        try:
            samples, rows = self.read_samples(index, request, self.reader)
            for sample in samples:
                sample.arrays = self._own_arrays(sample, request)
        except MooringError as error:
            return _Read([], error=error)
        return _Read(samples, rows)

    def _own_arrays(self, sample: Sample, request: CoreRequest) -> Arrays:
        """Return the inputs as the model gets them: arrays that it may change and keep."""
        arrays = sample.arrays if self._reshaping is None else self._reshaping.reshape_inputs(sample.arrays)
        own = {
            name: array if array.base is None and array.flags.writeable else array.copy()
            for name, array in arrays.items()
        }
        if self.controls:
            batched = sample.rows > 0 or sample.batch_added or self.spec.batching.batch_dimension is True
            steps = [request.sequence] * max(sample.rows, 1)
            own.update(fill_controls(self.controls, steps, batched=batched))
        return own

    def to_model_request(self, sample: Sample, request: CoreRequest) -> InferenceRequest:
        """Return a sample as the object that the model's code knows."""
        parameters = dict(sample.parameters)
        step = request.sequence
        if step is None:  # the model keeps no state, and its clients may name a sequence all the same
            name, start, end = (parameters.pop(key, None) for key in _SEQUENCE)
            if self._iterative and not name:  # the request is a sequence by itself
                name, start = next(self._sequence_ids), True
        else:
            name, start, end = step.id, step.start, step.end
        flags = TRITONSERVER_REQUEST_FLAG_SEQUENCE_START if start else 0
        flags |= TRITONSERVER_REQUEST_FLAG_SEQUENCE_END if end else 0
        return InferenceRequest(
            request_id=request.id,
            correlation_id=name if isinstance(name, int | str) and name else 0,
            inputs=[Tensor(name, array) for name, array in sample.arrays.items()],
            requested_output_names=[output.name for output in request.outputs or self.spec.outputs],
            model_name=self.spec.name,
            model_version=int(self.spec.version) if self.spec.version.isdecimal() else -1,
            flags=flags,
            parameters=parameters,
        )

    def _run(self, exchanges: Sequence[SampleExchange]) -> None:
        """Call ``execute`` with these, and again with those that it reschedules, until every one has an answer."""
        HOST.running = exchanges
        waiting = list(exchanges)
        try:
            while waiting:
                for each in waiting:
                    each.request.release_flags = TRITONSERVER_REQUEST_RELEASE_ALL
                try:
                    self._take_responses(waiting, self._execute([each.request for each in waiting]))
                except MooringError as error:
                    for each in waiting:
                        each.fail(error)
                rescheduled = [each for each in waiting if each.rescheduled]
                for each in waiting:
                    if not each.answers.complete and each not in rescheduled:
                        each.wait()
                waiting = [each for each in rescheduled if not each.drop_if_cancelled()]
        finally:
            HOST.running = ()

    def _execute(self, requests: list[InferenceRequest]) -> Any:
        try:
            returned = self._model.execute(requests)
            return asyncio.run(returned) if inspect.iscoroutine(returned) else returned
        except MooringError:
            raise
        except (
            Exception,
            SystemExit,
            KeyboardInterrupt,
        ) as error:  # an exit, too, as in Triton: the process goes on
            raise to_model_failure(error) from error

    def _take_responses(self, exchanges: Sequence[SampleExchange], returned: Any) -> None:
        """Keep what ``execute`` returned. Raises ``InvalidOutput`` where it is no response for each of its requests."""
        if returned is None and all(each.uses_sender or each.rescheduled for each in exchanges):
            return
        if not isinstance(returned, list):
            raise InvalidOutput(
                f"Expected a list in the execute return, found type '{type(returned).__name__}'."
            )
        if len(returned) != len(exchanges):
            raise InvalidOutput(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                f"InferenceRequest(s) size is:{len(exchanges)}, and InferenceResponse(s) size is:{len(returned)}"
            )
        for exchange, response in zip(exchanges, returned, strict=True):
            left_out = response is None and (exchange.uses_sender or exchange.rescheduled)
            if not left_out and not isinstance(response, InferenceResponse):
                raise InvalidOutput(
                    "Expected an 'InferenceResponse' object in the execute function return list, found type "
                    f"'{type(response).__name__}'."
                )
        for exchange, response in zip(exchanges, returned, strict=True):
            if response is not None and not exchange.rescheduled:
                exchange.take(response)

    def response_arrays(self, response: InferenceResponse) -> Arrays:
        """Return the outputs of a response by name, in the declared types. Raises ``InvalidOutput``."""
        outputs = {each.name(): to_strings(each.as_numpy()) for each in response.output_tensors()}
        if not outputs and not self.spec.decoupled:
            raise InvalidOutput("the model gave a response without outputs")
        if not outputs:
            return {}
        # A model may leave declared outputs out, as in Triton.
        declared = {name: spec for name, spec in self._declared.items() if name in outputs}
        arrays = to_output_arrays(outputs, declared)
        return arrays if self._reshaping is None else self._reshaping.reshape_outputs(arrays)

    def step_arrays(self, sample: Sample, response: InferenceResponse) -> Arrays:
        """Return the outputs of a response as ``response_arrays``, and keep the state of its sequence among them."""
        arrays = self.response_arrays(response)
        return arrays if self.slots is None else self.slots.keep_outputs(sample, arrays)

    def _conclude(self, request: CoreRequest, read: "_Read", group: Sequence[SampleExchange]) -> Outcome:
        """Return the answer to a request whose samples have run, or the first error among them."""
        error = read.error or next((each.answers.error for each in group if each.answers.error), None)
        if error is not None:
            return error
        pieces = [(each.sample, each.answers.pieces) for each in group]
        if not all(each.answers.complete for each in group):
            return ModelFailed("the model gave no response, and nobody waits for one")
        return self.build_outcome(request, pieces, read.rows, group[0].answers.parameters if group else None)

    def build_outcome(
        self,
        request: CoreRequest,
        pieces: list[tuple[Sample, list[Arrays]]],
        rows: bool,
        parameters: dict[str, Any] | None,
    ) -> Outcome:
        """Build the answer to a request from the outputs of its samples, or the error that it is.

        Outputs that the client asked for and the model left out are left out, as in Triton.
        """
        if request.outputs and pieces and pieces[0][1]:
            given = [each for each in request.outputs if each.name in pieces[0][1][-1]]
            if given and len(given) < len(request.outputs):
                request = msgspec.structs.replace(request, outputs=given)
        try:
            response = self.encode_response(request, self.to_response(request, pieces, rows))
        except MooringError as error:
            return error
        if parameters:
            response.parameters = {**(response.parameters or {}), **parameters}
        return response

    async def _infer_decoupled(self, requests: Sequence[CoreRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch of a decoupled model: its responses go out as they come."""
        if requests[0].operation is not INFER:
            return await self.infer_async(requests, reply)
        HOST.set_recorder(reply.record_metric)
        streams = [_Stream(self, index, request, reply) for index, request in enumerate(requests)]
        exchanges = [exchange for stream in streams for exchange in stream.exchanges]
        try:
            for together in [exchanges] if self._joins else [[each] for each in exchanges]:
                begun = _begin_call(requests, together)
                await self._call_decoupled(together)
                end_call(begun)
            return await asyncio.gather(*(stream.wait() for stream in streams))
        except asyncio.CancelledError:
            for each in exchanges:
                each.withdrawn = True
            raise

    async def _call_decoupled(self, exchanges: Sequence[StreamExchange]) -> None:
        """Call ``execute`` with these, and again with those that it reschedules."""
        model = self.overlap
        assert isinstance(model, DecoupledModel)
        waiting = list(exchanges)
        while waiting:
            for each in waiting:
                each.request.release_flags = TRITONSERVER_REQUEST_RELEASE_ALL
            try:
                rows = sum(max(each.sample.rows, 1) for each in waiting)
                returned = await model.call(self._model.execute, [each.request for each in waiting], rows)
                if returned is not None:
                    raise InvalidOutput(
                        f"Python model '{self.spec.name}' is using the decoupled mode and the execute function must "
                        "return None."
                    )
            except Exception as error:
                failure = error if isinstance(error, MooringError) else to_model_failure(error)
                for each in waiting:
                    each.fail(failure)
            waiting = [each for each in waiting if each.rescheduled and not each.drop_if_cancelled()]

    def predict(self, arrays: Arrays, parameters: Parameters) -> ModelOutput:
        """Call ``execute`` with one request of these arrays, for an explanation."""
        if self.overlap is not None:
            raise Unsupported(
                f"model '{self.spec.name}' is decoupled, so that its answers cannot be explained"
            )
        sample = Sample(0, {name: array.copy() for name, array in arrays.items()}, parameters=parameters)
        request = self.to_model_request(sample, CoreRequest(self.spec.name, self.spec.version, "", []))
        exchange = SampleExchange(sample, request, None, self.response_arrays, lambda: False)
        self._run([exchange])
        if exchange.answers.error is not None:
            raise exchange.answers.error
        return exchange.answers.pieces[0]

    def close(self) -> None:
        """Call ``finalize``, and close the event loops. What ``finalize`` raises is only logged, as in Triton."""
        model, self._model = self._model, None
        try:
            if hasattr(model, "finalize"):
                model.finalize()
        except Exception:
            _log.exception("finalize of model %s failed", self.spec.name)
        if isinstance(self.overlap, DecoupledModel):
            self.overlap.close()


class _Read:
    """A request as samples, or the error with which it is refused; ``rows`` says that they are KServe v1 instances."""

    def __init__(
        self, samples: Sequence[Sample], rows: bool = False, error: MooringError | None = None
    ) -> None:
        self.samples = samples
        self.rows = rows
        self.error = error


def _begin_call(requests: Sequence[CoreRequest], exchanges: Sequence[ClientExchange]) -> list[list[float]]:
    """Note that ``execute`` is called with these samples of the requests, where one asks for timings."""
    times = CURRENT.get()
    if times is None:
        return []
    rows = sum(max(each.sample.rows, 1) for each in exchanges)
    return times.begin_call([requests[each.sample.request] for each in exchanges], rows)


class _Stream:
    """One request of a decoupled model, from its samples to its last response."""

    def __init__(self, backend: TritonPythonBackend, index: int, request: CoreRequest, reply: Reply) -> None:
        self._backend = backend
        self._index = index
        self._request = request
        self._reply = reply
        self._read = backend.read_request(index, request)
        # Of instances of KServe v1, whose predictions are whole: by identity, as samples cannot be compared.
        self._pieces: dict[int, list[Arrays]] = {id(each): [] for each in self._read.samples}
        cancelled = functools.partial(reply.cancelled, index)
        self.exchanges = [
            StreamExchange(
                each,
                backend.to_model_request(each, request),
                request.deadline,
                functools.partial(self._build_piece, each),
                self._emit,
                cancelled,
            )
            for each in self._read.samples
        ]

    def _build_piece(self, sample: Sample, response: InferenceResponse) -> CoreResponse:
        arrays = self._backend.step_arrays(sample, response)
        if self._read.rows:
            self._pieces[id(sample)].append(arrays)
            return CoreResponse([])
        piece = self._backend.build_outcome(
            self._request, [(sample, [arrays])], False, response.response_parameters()
        )
        if isinstance(piece, MooringError):
            raise piece
        return piece

    def _emit(self, piece: CoreResponse) -> None:
        if not self._read.rows:
            self._reply.emit(self._index, piece)

    async def wait(self) -> Outcome:
        """Return the last response, when it has come."""
        if self._read.error is not None:
            return self._read.error
        last: CoreResponse | None = None
        for each in self.exchanges:
            ended = await each.ended
            if isinstance(ended, MooringError):
                return ended
            last = ended
        if self._read.rows:
            pieces = [(each.sample, self._pieces[id(each.sample)]) for each in self.exchanges]
            return self._backend.build_outcome(self._request, pieces, True, None)
        return last or CoreResponse([])


def import_model_class(path: Path) -> Any:
    """Import ``TritonPythonModel`` from its file. Raises ``ModelLoadFailed`` where there is none.

    The version's folder and the model's are on the import path, and relative imports find what lies beside the file.
    """
    folder = path.parent
    if str(COMPAT) not in sys.path:
        sys.path.insert(0, str(COMPAT))
    for place in (folder, folder.parent):
        if str(place) not in sys.path:
            sys.path.append(str(place))
    bypass_bytecode_cache(str(folder))
    package = "" if "." in folder.name else f"{folder.name}."
    module = import_source(f"{package}{path.stem}", path)
    kind = getattr(module, CLASS, None)
    if kind is None:
        raise ModelLoadFailed(f"{path} has no class {CLASS}")
    return kind
