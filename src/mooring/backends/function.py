"""A Python function or class as a model. ``function_kind`` says whether it is one of values or of tensors.

The file defines one of

    def infer(text: str, k: int = 1): ...   values, by their hints (values/): any function that is not as the next two
    def infer(inputs, parameters): ...      tensors: every input by name, and the request's parameters (either may be left out)
    def scale(x: np.ndarray, factor=2.0)    tensors: any other arguments are the inputs of those names
    class Model:                            infer as above; load(context), explain and close where it has them

A function of tensors returns a dict of arrays by name, or one value, which is the only declared output or "output". A
generator function streams: each item is such a result and is sent at once.

An ``async def``, or a class whose infer is one, works on many requests at once, all on one event loop, which
runs while load does; load, explain and close may be coroutines then, too. An asynchronous generator streams.

An argument called cancelled, where it is no declared input, is a function without arguments: whether nobody waits for
the answer any more. A model that works for long asks it now and then, and returns.

Where config.toml has [sequences], arguments called sequence_id (an object array of bytes), sequence_start and
sequence_end (bool) have an entry for every row; in a dict of inputs they are among them. So are the states that it
declares; their new values are returned under the names of their outputs.

Inputs are numpy arrays that the function may change: JSON numbers come as float64 or int64 of the shape they have
(a lone number has none), text as an object array of bytes. Where config.toml declares inputs they come in the
declared types and shapes, batch dimension first. A body that is not a JSON object is the only argument, or "input".
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mooring.backends.backend import Backend
from mooring.backends.function_kind import takes_tensors
from mooring.backends.samples import Arrays, Parameters
from mooring.backends.tensors import ExplanationTargets, ModelOutput, TensorBackend
from mooring.backends.user_function import UserFunction, name_of
from mooring.codecs.signature import Signature
from mooring.core.errors import InvalidInput, InvalidOutput, ModelLoadFailed
from mooring.core.model_code import batch_of
from mooring.core.options import Control, ControlKind
from mooring.core.requests import InferenceRequest
from mooring.core.service import LoadContext, ModelMetadata, Outcome, Reply
from mooring.repository.spec import ModelSpec

_DEFAULT_OUTPUT = "output"
_INPUTS, _PARAMETERS, _TARGET, _CANCELLED = "inputs", "parameters", "target", "cancelled"
_CONTROLS = (
    Control("sequence_id", ControlKind.ID, "BYTES", flat=True),
    Control("sequence_start", ControlKind.START, "BOOL", flat=True),
    Control("sequence_end", ControlKind.END, "BOOL", flat=True),
)


class Arguments:
    """The arguments of a user's function: all inputs in one dict, or each by its name.

    ``filled`` are the names of inputs that the server adds to the arrays, ``own`` of arguments that are no arrays.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        filled: Collection[str] = (),
        own: Collection[str] = (_PARAMETERS, _CANCELLED),
    ) -> None:
        self.function = function
        self._filled = filled
        parameters = inspect.signature(function).parameters.values()
        takes = [each for each in parameters if each.name not in own]
        self.parameters = any(each.name == _PARAMETERS for each in parameters)
        self.takes_cancelled = _CANCELLED in own and any(each.name == _CANCELLED for each in parameters)
        self.takes_dict = len(takes) == 1 and _is_dict(takes[0])
        # ``**inputs`` takes any name, as a dict does.
        self.takes_any = self.takes_dict or any(each.kind is each.VAR_KEYWORD for each in takes)
        named = [each for each in takes if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}]
        self.names = () if self.takes_any else tuple(each.name for each in named)
        self.required = (
            () if self.takes_dict else tuple(each.name for each in named if each.default is each.empty)
        )
        if any(each.kind is each.POSITIONAL_ONLY for each in takes):
            raise ModelLoadFailed(
                f"'{name_of(function)}' has positional-only arguments; inputs are passed by name"
            )

    def call_function(self, arrays: Arrays, parameters: Parameters, cancelled: Callable[[], bool]) -> Any:
        """Call the function. Raises ``InvalidInput`` for a missing input, and whatever the function raises."""
        if self._filled and not self.takes_any:
            arrays = {
                name: each
                for name, each in arrays.items()
                if self.accepts_input(name) or name not in self._filled
            }
        for name in self.required:
            if name not in arrays:
                raise InvalidInput(f"input '{name}' is missing")
        extra: dict[str, Any] = {_PARAMETERS: parameters} if self.parameters else {}
        if self.takes_cancelled:
            extra[_CANCELLED] = cancelled
        return self.function(arrays, **extra) if self.takes_dict else self.function(**arrays, **extra)

    def accepts_input(self, name: str) -> bool:
        """Whether the function has an argument for an input of this name."""
        return self.takes_any or name in self.names

    def input_signature(self) -> Signature:
        """Return the signature of a model that declares no inputs: the names of the arguments."""
        if self.takes_any:
            return Signature()
        names = tuple(name for name in self.names if name not in self._filled)
        required = [name for name in self.required if name not in self._filled]
        candidates = required or names
        lone = candidates[0] if len(candidates) == 1 else ""
        return Signature(names, lone=lone, nothing=not required)


def _is_dict(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if parameter.kind is parameter.VAR_KEYWORD:
        return False
    return parameter.name == _INPUTS or str(getattr(annotation, "__name__", annotation)).lower().startswith(
        "dict"
    )


class FunctionBackend(Backend):
    """Runs user code: ``infer`` or ``Model`` of ``model.py``, or ``file.py:name``.

    How this works: ``UserFunction`` loads it. Whether it is a function of tensors decides which backend serves it.
    """

    notes_calls = True

    def __init__(self) -> None:
        self._code = UserFunction()
        self._served: Backend

    def load(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Load the code. Raises ``ModelLoadFailed`` with file, line and reason."""
        try:
            self._code.load(spec, context)
        except BaseException:
            self._code.close()
            raise
        self.client_errors = self._code.client_errors
        try:
            served = self._choose(spec)
            metadata = served.load(spec, context)
        except BaseException:
            self._code.close()
            raise
        self._served = served
        self.overlap = served.overlap
        self.infer = served.infer  # type: ignore[method-assign]  # in place of a call that passes every call on
        return metadata

    def _choose(self, spec: ModelSpec) -> Backend:
        """Return the backend for a function of this kind."""
        if not takes_tensors(self._code.infer, spec):
            from mooring.backends.values.backend import ValueFunction

            return ValueFunction(self._code)
        if batch_of(self._code.infer) is not None:
            raise ModelLoadFailed(
                f"{self._code.path}: '{name_of(self._code.infer)}' takes tensors, which are batches already: set "
                "max_batch_size in its configuration in the place of @mooring.batch"
            )
        return TensorFunction(self._code)

    def infer(self, requests: Sequence[InferenceRequest], reply: Reply) -> Sequence[Outcome]:
        """Answer a batch; ``load`` puts the ``infer`` of what it has loaded in the place of this."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the code."""
        self._code.close()


class TensorFunction(TensorBackend):
    """Runs a function of tensors.

    How this works: ``Arguments`` decides from the function's signature how inputs are passed. A call gets arrays that it
    may change, and its result, or each piece of its stream, becomes a dict of arrays by name. Where the function is
    asynchronous, all calls run on one event loop (``overlap``).
    """

    takes_values = True
    _infer: Arguments
    _explain: Arguments | None = None

    def __init__(self, code: UserFunction) -> None:
        self._code = code

    def load_model(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Read the function's signature. Raises ``ModelLoadFailed`` where it does not fit the configuration."""
        if self._code.loop is not None:
            from mooring.backends.overlapping import Overlapping

            self.overlap = Overlapping(self.infer_async, self._code.loop)
        if self._code.explain is not None:
            self._explain = self._arguments_of(self._code.explain)
            self.explains_itself = True
            self.takes_target = _TARGET in self._explain.names
        self._infer = self._arguments_of(self._code.infer)
        self.takes_cancelled = self._infer.takes_cancelled or (
            self._explain is not None and self._explain.takes_cancelled
        )
        if spec.sequence.enabled:
            declared_names = {each.name for each in self.controls} | {each.name for each in spec.inputs}
            own = [each for each in _CONTROLS if each.name not in declared_names]
            self.controls = [*self.controls, *(each for each in own if self._infer.accepts_input(each.name))]
        self._check_arguments(spec, self._code.path)
        return ModelMetadata(
            spec.name, [spec.version], spec.platform or "python", list(spec.inputs), list(spec.outputs)
        )

    def _arguments_of(self, function: Callable[..., Any]) -> Arguments:
        inputs = {each.name for each in self.spec.inputs}
        own = {_PARAMETERS, _CANCELLED} - (inputs & {_CANCELLED})
        if not self.spec.sequence.enabled:
            return Arguments(function, (), own)
        filled = {each.name for each in (*self.controls, *_CONTROLS)} - inputs
        filled |= {each.input for each in self.spec.sequence.states}
        return Arguments(function, filled, own)

    def _check_arguments(self, spec: ModelSpec, path: Path) -> None:
        declared = {each.name for each in spec.inputs}
        for tensor in spec.inputs:
            if tensor.optional and tensor.name in self._infer.required:
                raise ModelLoadFailed(
                    f"{path}: input '{tensor.name}' is optional, and the function's argument of that name has no "
                    f"default: write {tensor.name}=None"
                )
        kept = {each.input for each in spec.sequence.states}
        for name in kept:
            if not self._infer.accepts_input(name):
                raise ModelLoadFailed(
                    f"{path}: the function has no argument '{name}' for the state of a sequence"
                )
        filled = {each.name for each in self.controls} | kept
        wrong = set(self._infer.required) - declared - filled or (declared - set(self._infer.names))
        if declared and not self._infer.takes_any and wrong:
            raise ModelLoadFailed(
                f"{path}: the function takes {', '.join(self._infer.names)}, "
                f"the configuration declares {', '.join(sorted(declared))}"
            )

    def input_signature(self, metadata: ModelMetadata) -> Signature:
        """Return the signature of the declared inputs, else of the function's arguments."""
        return super().input_signature(metadata) if metadata.inputs else self._infer.input_signature()

    def predict(self, arrays: Arrays, parameters: Parameters) -> ModelOutput:
        """Call the function with arrays that are its own to change."""
        return self._run_function(self._infer, arrays, parameters)

    def explain(self, arrays: Arrays, parameters: Parameters, targets: ExplanationTargets) -> ModelOutput:
        """Call ``Model.explain`` where there is one; its argument ``target`` is a list with an item for each row."""
        if self._explain is None:
            return super().explain(arrays, parameters, targets)
        row_targets = [target for target, rows in targets for _ in range(max(1, rows))]
        more = {_TARGET: row_targets} if self.takes_target and _TARGET not in arrays else {}
        return self._run_function(self._explain, arrays, parameters, more)

    def _run_function(
        self,
        arguments: Arguments,
        arrays: Arrays,
        parameters: Parameters,
        more: Mapping[str, Any] | None = None,
    ) -> ModelOutput:
        # A view of the request would let the function change what a second try is given; a bytearray is a copy of it.
        own: dict[str, Any] = {
            name: array if array.base is None or isinstance(array.base, bytearray) else array.copy()
            for name, array in arrays.items()
        }
        if more:
            own.update(more)
        merged_parameters = {**self.spec.parameters, **parameters} if arguments.parameters else {}
        returned = arguments.call_function(own, merged_parameters, self.cancelled)
        if self.overlap is not None and hasattr(returned, "__await__"):
            return self._await_outputs(returned)
        return self._name_outputs(returned)

    async def _await_outputs(self, returned: Awaitable[Any]) -> ModelOutput:
        return self._name_outputs(await returned)

    def _name_outputs(self, returned: Any) -> ModelOutput:
        """Return what the function returned, or every piece of it, as a dict by name."""
        if hasattr(returned, "__next__"):
            return self._name_pieces(returned)
        if self.overlap is not None and hasattr(returned, "__anext__"):
            return self._name_async_pieces(returned)
        return self._name_output(returned)

    def _name_output(self, returned: Any) -> Any:
        if type(returned) is dict or isinstance(returned, Mapping):
            return returned
        if returned is None:
            raise InvalidOutput("the function returned None; it must return a dict of arrays by name")
        declared = self.spec.outputs
        return {declared[0].name if len(declared) == 1 else _DEFAULT_OUTPUT: returned}

    def _name_pieces(self, returned: Iterator[Any]) -> Iterator[Any]:
        try:
            for item in returned:
                yield self._name_output(item)
        finally:
            close = getattr(returned, "close", None)
            if close is not None:
                close()

    async def _name_async_pieces(self, returned: AsyncIterator[Any]) -> AsyncIterator[Any]:
        try:
            async for item in returned:
                yield self._name_output(item)
        finally:
            close = getattr(returned, "aclose", None)
            if close is not None:
                await close()

    def close(self) -> None:
        """Close the code."""
        self._code.close()
