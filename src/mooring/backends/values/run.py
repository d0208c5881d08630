"""A run of a function of values for one batch of requests: all that is more than one plain request."""

import functools
from collections import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from mooring.backends.backend import Concurrent, Stepwise
from mooring.backends.call_times import CURRENT, end_call
from mooring.backends.model_calls import await_output, is_stream, iterate_pieces, to_model_failure
from mooring.backends.values.arguments import Values
from mooring.backends.values.callee import Callee
from mooring.core.errors import InvalidOutput, ModelFailed, MooringError, Unsupported
from mooring.core.requests import BODY, INSTANCES, TENSORS, InferenceRequest, InferenceResponse
from mooring.core.service import MetricValue, Outcome, Reply
from mooring.core.tensors import Tensor
from mooring.repository.spec import ModelSpec


class ValueModel(Protocol):
    """The model that is called; ``ValueFunction`` is one. ``limit`` is the most samples of a call."""

    spec: ModelSpec
    limit: int
    overlap: Concurrent | Stepwise | None

    def read_samples(self, request: InferenceRequest, callee: Callee) -> list[Values]:
        """Return the arguments of each sample of a request. Raises ``InvalidInput``."""

    def arguments_beside(
        self, callee: Callee, requests: Sequence[InferenceRequest], cancelled: Callable[[], bool]
    ) -> Values:
        """Return the arguments of a call that are not inputs."""


class Sample:
    """The arguments of one sample of a request, and what the function gave for it: one result, or with ``streamed`` pieces."""

    __slots__ = ("request", "results", "streamed", "values")

    def __init__(self, request: int, values: Values) -> None:
        self.request = request
        self.values = values
        self.results: list[Any] = []
        self.streamed = False


class _RowReply:
    """The ``Reply`` of one request of a run, for a run of that request alone."""

    def __init__(self, reply: Reply, row: int) -> None:
        self._reply = reply
        self._row = row

    def emit(self, row: int, piece: InferenceResponse) -> None:
        self._reply.emit(self._row + row, piece)

    def cancelled(self, row: int) -> bool:
        return self._reply.cancelled(self._row + row)

    def record_metric(self, metric: MetricValue) -> None:
        self._reply.record_metric(metric)


class ValueRun:
    """Runs one batch.

    How this works: ``run`` reads every request into samples first, so that the function runs for no request that is at
    fault. Samples are called one by one, or with ``mooring.batch`` in groups of equal parameters. Results are kept until
    all calls are done, pieces of a stream are sent at once. Each request then gets its error, or its answer.
    """

    def __init__(
        self, model: ValueModel, callee: Callee, requests: Sequence[InferenceRequest], reply: Reply
    ) -> None:
        self._model = model
        self._requests = requests
        self._reply = reply
        self._callee = callee
        self._errors: dict[int, MooringError] = {}
        self._samples: list[Sample] = []
        self._emitted: set[int] = set()
        self._repeated: dict[int, Outcome] = {}

    async def run(self, read: list[Values] | None = None, returned: Any = None) -> list[Outcome]:
        """Run it; ``read`` are the samples of the only request where they are read already, ``returned`` its stream.

        Raises what the function raised in a call that several requests shared, unless pieces of a stream have been sent:
        whoever repeats all requests then would fail those that got their pieces in another call.
        """
        if read is not None:
            self._samples = [Sample(0, values) for values in read]
        else:
            self._read_requests()
        for group in [self._samples] if returned is not None else self._groups():
            try:
                await self._call(group) if returned is None else await self._collect_pieces(group, returned)
            except MooringError as error:
                if len({sample.request for sample in group}) == 1:
                    self._errors.setdefault(group[0].request, error)
                elif self._emitted:
                    await self._fail(group, error)
                else:
                    raise
        return [self._outcome_of(index) for index in range(len(self._requests))]

    def _read_requests(self) -> None:
        for index, request in enumerate(self._requests):
            try:
                read = self._model.read_samples(request, self._callee)
            except MooringError as error:
                self._errors[index] = error
            else:
                self._samples += [Sample(index, values) for values in read]

    def _groups(self) -> Iterator[list[Sample]]:
        """Yield the samples of each call."""
        if not self._callee.batched:
            yield from ([sample] for sample in self._samples)
            return
        groups: dict[Any, list[Sample]] = {}
        for sample in self._samples:
            key = self._group_key(self._requests[sample.request])
            group = groups.setdefault(key, [])
            group.append(sample)
            if len(group) == self._model.limit:
                yield groups.pop(key)
        yield from groups.values()

    def _group_key(self, request: InferenceRequest) -> Any:
        """Return what is equal for requests that may share a call. True, 1 and 1.0 are not equal here."""
        if not (self._callee.arguments.parameters and request.parameters):
            return ()
        return tuple(sorted((name, repr(value)) for name, value in request.parameters.items()))

    async def _fail(self, group: list[Sample], error: MooringError) -> None:
        """Give the requests of a failed call their outcomes: those with no piece yet run once more, each by itself."""
        for index in {sample.request for sample in group}:
            if index in self._emitted:
                self._errors[index] = ModelFailed("the batch failed after a part of the answer was sent")
            elif not self._model.spec.limits.retry:
                self._errors[index] = error
            else:
                alone = ValueRun(
                    self._model, self._callee, [self._requests[index]], _RowReply(self._reply, index)
                )
                (self._repeated[index],) = await alone.run()

    async def _call(self, group: list[Sample]) -> None:
        if self._errors.get(group[0].request) is not None and not self._callee.batched:
            return  # an instance before this one failed the request
        times = CURRENT.get()
        requests = () if times is None else [self._requests[sample.request] for sample in group]
        begun = None if times is None else times.begin_call(requests, len(group))
        returned = self._call_function(group)
        if self._model.overlap is not None:
            returned = await await_output(returned)
        if begun is not None:
            end_call(begun)
        if is_stream(returned):
            await self._collect_pieces(group, returned)
            return
        for sample, result in zip(group, self._results_of(group, returned), strict=True):
            sample.results.append(result)

    def _call_function(self, group: list[Sample]) -> Any:
        callee = self._callee
        values = (
            {name: [sample.values[name] for sample in group] for name in callee.arguments.inputs}
            if callee.batched
            else group[0].values
        )
        if callee.takes_more:
            requests = [self._requests[sample.request] for sample in group]
            is_cancelled = functools.partial(self._is_cancelled, group)
            values = {**values, **self._model.arguments_beside(callee, requests, is_cancelled)}
        try:
            return callee.call(**values)
        except MooringError:
            raise
        except Exception as error:  # the model's own code
            raise to_model_failure(error) from error

    def _results_of(self, group: list[Sample], returned: Any) -> Sequence[Any]:
        """Return the result of each sample in what one call returned. Raises ``InvalidOutput``."""
        if not self._callee.batched:
            return [returned]
        name, count = self._callee.name, len(group)
        # A set has no order: clients would get each other's results.
        if isinstance(returned, str | bytes | abc.Mapping | abc.Set) or not hasattr(returned, "__len__"):
            raise self._refuse(returned, count)
        try:
            results = list(returned)
        except TypeError:  # an array of numpy's without dimensions
            raise self._refuse(returned, count) from None
        if len(results) != count:
            raise InvalidOutput(
                f"'{name}' returned {len(results)} results for a batch of {count}: it must return one for each, in order"
            )
        return results

    def _refuse(self, returned: Any, count: int) -> InvalidOutput:
        return InvalidOutput(
            f"'{self._callee.name}' returned a {type(returned).__name__} for a batch of {count}: with @mooring.batch it must "
            "return a list with a result for each"
        )

    async def _collect_pieces(self, group: list[Sample], returned: Any) -> None:
        """Send every piece as soon as it comes; keep those for instances, whose answer is whole."""
        for sample in group:
            sample.streamed = True
        self._check_whole(group)
        empty = True
        async with aclosing(iterate_pieces(returned, functools.partial(self._is_cancelled, group))) as pieces:
            async for piece in pieces:
                empty = False
                of_requests: dict[int, list[Any]] = {}
                for sample, part in zip(group, self._results_of(group, piece), strict=True):
                    if self._requests[sample.request].form is INSTANCES:
                        sample.results.append(part)
                    else:
                        of_requests.setdefault(sample.request, []).append(part)
                for index, parts in of_requests.items():
                    self._emit(index, parts)
        if (
            empty
            and not self._model.spec.decoupled
            and any(self._requests[each.request].form is TENSORS for each in group)
        ):
            raise InvalidOutput(
                "the model ended its stream without a piece; say decoupled where it may give no response"
            )

    def _check_whole(self, group: list[Sample]) -> None:
        """Raise ``Unsupported`` where the stream is of a part of a request alone."""
        for index in {sample.request for sample in group}:
            own = [sample for sample in self._samples if sample.request == index]
            if self._requests[index].form is TENSORS and any(each not in group for each in own):
                raise Unsupported(f"the model streams; send at most {self._model.limit} samples in a request")

    def _emit(self, index: int, parts: list[Any]) -> None:
        """Send a piece of the answer to a request."""
        self._emitted.add(index)
        self._reply.emit(index, self._callee.answers.build_piece(self._requests[index], parts))

    def _is_cancelled(self, group: Sequence[Sample]) -> bool:
        """Whether nobody waits any more for what a call gives."""
        return all(self._reply.cancelled(sample.request) for sample in group)

    def _outcome_of(self, index: int) -> Outcome:
        if index in self._repeated:
            return self._repeated[index]
        error = self._errors.get(index)
        if error is not None:
            return error
        if index in self._emitted:
            return InferenceResponse([])  # every piece is there already; this says that it was the last
        request, answers = self._requests[index], self._callee.answers
        samples = [sample for sample in self._samples if sample.request == index]
        try:
            if request.form is INSTANCES:
                return self._predictions_of(request, samples)
            if samples and samples[0].streamed:  # without a piece
                body = [Tensor("body", "BYTES", [1], [b""])] if request.form is BODY else []
                return InferenceResponse([*body])
            return answers.build(request, [sample.results[0] for sample in samples])
        except MooringError as wrong:
            return wrong

    def _predictions_of(self, request: InferenceRequest, samples: list[Sample]) -> InferenceResponse:
        answers = self._callee.answers
        if not any(sample.streamed for sample in samples):
            return answers.build(request, [sample.results[0] for sample in samples])
        return answers.build_predictions(
            request, [answers.encode_pieces(sample.results) for sample in samples]
        )
