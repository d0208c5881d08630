"""A user's function or class that takes and gives Python values, over every protocol.

How this works: ``Arguments`` and ``ResultType`` are made from the function's hints when it is loaded, so that a request
looks at none. A request is one *sample*, but for the instances of KServe v1, and with ``mooring.batch`` the first dimension
of v2's tensors, of which each is one. A function is called for one sample at a time, or with ``mooring.batch`` for lists of
them. A lone request, the usual case, takes the short way through ``infer``; ``ValueRun`` takes all others.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from mooring.backends.backend import Backend, run_sync
from mooring.backends.call_times import CURRENT, end_call
from mooring.backends.model_calls import is_stream, to_model_failure
from mooring.backends.tensors import forward_headers
from mooring.backends.user_function import UserFunction, name_of
from mooring.backends.values.arguments import Arguments, Values, add_rows
from mooring.backends.values.callee import Callee
from mooring.backends.values.results import result_hint
from mooring.backends.values.run import ValueRun
from mooring.codecs.instances import split_instances
from mooring.codecs.open_inference import decode_v2_body
from mooring.codecs.packed import split_predictions
from mooring.core.buffers import view_of
from mooring.core.errors import InvalidInput, ModelLoadFailed, MooringError, Unsupported
from mooring.core.model_code import Request, batch_of
from mooring.core.options import compile_header_pattern
from mooring.core.requests import BODY, EXPLAIN, INFER, TENSORS, InferenceRequest, Operation
from mooring.core.service import (
    CodeOptions,
    LoadContext,
    ModelMetadata,
    Outcome,
    Reply,
    ValueDescription,
)
from mooring.repository.spec import ModelSpec


class ValueFunction(Backend):
    """Runs a function of values."""

    notes_calls = True

    spec: ModelSpec

    def __init__(self, code: UserFunction) -> None:
        self._code = code
        self._explain: Callee | None = None

    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Read the function's hints. Raises ``ModelLoadFailed`` for one that cannot be served."""
        code = self._code
        self.spec = spec
        if spec.explain:
            raise ModelLoadFailed(
                f"{code.path}: [explain] explains models of tensors, and '{name_of(code.infer)}' takes values: "
                "write a method explain, or take arrays of numpy's"
            )
        batch = batch_of(code.infer)
        try:
            self._infer = Callee(code.infer, spec, batched=batch is not None)
            if code.explain is not None:
                self._explain = Callee(code.explain, spec, batched=batch_of(code.explain) is not None)
        except ModelLoadFailed as error:
            error.message = f"{code.path}: {error.message}"  # of whatever kind it is
            raise
        if code.loop is not None:
            from mooring.backends.overlapping import Overlapping

            self.overlap = Overlapping(self.infer_async, code.loop)
        asking = [
            each for each in (self._infer, self._explain) if each is not None and each.arguments.request
        ]
        asked = CodeOptions(bool(asking), *(batch or ()))
        self.limit = spec.with_code(asked).batching.max_batch_size
        forwarded = spec.handler.forward_headers
        self._forwarded = compile_header_pattern(forwarded) if forwarded else None
        arguments, result = self._infer.arguments, self._infer.result
        return ModelMetadata(
            spec.name,
            [spec.version],
            spec.platform or "python",
            arguments.tensors(),
            [add_rows(each) for each in result.tensors] if batch is not None else list(result.tensors),
            ValueDescription(
                arguments.schema,
                result.schema,
                _streams(code.infer, arguments.result_hint),
                inspect.getdoc(code.infer) or "",
            ),
            asked if asking or batch is not None else None,
        )

    def _callee_of(self, operation: Operation) -> Callee:
        """Return the function that answers requests of an operation. Raises ``Unsupported`` where there is none."""
        if operation is INFER:
            return self._infer
        if operation is EXPLAIN:
            if self._explain is not None:
                return self._explain
            raise Unsupported(
                f"model '{self.spec.name}' gives no explanations: write a method explain beside infer"
            )
        raise Unsupported(f"model '{self.spec.name}' has no description of its own")

    def read_samples(self, request: InferenceRequest, callee: Callee) -> list[Values]:
        """Return the arguments of each sample of a request. Raises ``InvalidInput``."""
        arguments = callee.arguments
        if request.form is BODY:
            samples = [arguments.read_body(request.inputs)]
        elif request.form is TENSORS:
            decode_v2_body(request)
            samples = (
                arguments.read_rows(request.inputs)
                if callee.batched
                else [arguments.read_tensors(request.inputs)]
            )
        else:
            samples = self._read_instances(request, arguments)
        if self._forwarded is not None and request.headers:
            request.parameters = forward_headers(self._forwarded, request) or None
        return samples

    def _read_instances(self, request: InferenceRequest, arguments: Arguments) -> list[Values]:
        texts = (
            split_instances(bytes(view_of(request.body.data)))
            if request.body is not None
            else split_predictions(request.inputs[0])
        )
        samples = []
        for position, text in enumerate(texts):
            try:
                samples.append(arguments.read_json(text))
            except InvalidInput as error:
                if len(texts) == 1:
                    raise
                raise InvalidInput(f"instance {position}: {error.message}") from None
        return samples

    def arguments_beside(
        self, callee: Callee, requests: Sequence[InferenceRequest], cancelled: Callable[[], bool]
    ) -> Values:
        """Return the arguments of a call that are not inputs; ``requests`` has the request of each sample."""
        arguments, more = callee.arguments, dict[str, Any]()
        if arguments.parameters:
            more["parameters"] = self._parameters_of(requests[0])
        if arguments.cancelled:
            more["cancelled"] = cancelled
        if arguments.request:
            made = [
                Request(
                    request.id,
                    model=request.model,
                    version=request.version or self.spec.version,
                    parameters=self._parameters_of(request),
                    headers=request.headers or (),
                    deadline=request.deadline,
                    cancelled=cancelled,
                )
                for request in requests
            ]
            more[arguments.request] = made if callee.batched else made[0]
        return more

    def _parameters_of(self, request: InferenceRequest) -> dict[str, Any]:
        return {**self.spec.parameters, **(request.parameters or {})}

    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch; see ``Backend.infer``."""
        callee = self._infer
        if len(requests) > 1 or callee.batched or requests[0].operation is not INFER:
            return run_sync(self.infer_async(requests, reply))
        request = requests[0]
        try:
            samples = self.read_samples(request, callee)
            if len(samples) != 1:
                return run_sync(ValueRun(self, callee, requests, reply).run(samples))
            values = samples[0]
            if callee.takes_more:
                values = {**values, **self.arguments_beside(callee, requests, lambda: reply.cancelled(0))}
            times = CURRENT.get()
            begun = None if times is None else times.begin_call(requests, 1)
            try:
                returned = callee.call(**values)
            except MooringError:
                raise
            except Exception as error:  # the model's own code
                return [to_model_failure(error)]
            if begun is not None:
                end_call(begun)
            if is_stream(returned):
                return run_sync(ValueRun(self, callee, requests, reply).run(samples, returned))
            return [callee.answers.build(request, [returned])]
        except MooringError as error:
            return [error]

    async def infer_async(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch as ``infer``, for a model that waits."""
        try:
            callee = self._callee_of(requests[0].operation)
        except Unsupported as error:
            return [error] * len(requests)
        return await ValueRun(self, callee, requests, reply).run()

    def close(self) -> None:
        """Close the code."""
        self._code.close()


def _streams(function: Callable[..., Any], hint: Any) -> bool:
    """Whether a function streams, as far as its kind or its hint shows."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return True
    return hint is not inspect.Parameter.empty and result_hint(hint) is not hint and "Iterator" in str(hint)
