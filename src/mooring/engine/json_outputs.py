"""Encodes outputs as JSON where the worker leaves that to the server.

It does so for requests whose bodies a codec process has decoded (offload.py): small outputs are written here and now,
large ones by a codec process, or by a thread where that fails.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeGuard

from mooring.codecs.packed import MAX_UNPACKED
from mooring.codecs.v2_json import OutputSelection, encode_json_output
from mooring.core.errors import InvalidOutput, MooringError
from mooring.core.requests import InferenceRequest, InferenceResponse, JsonWriter, RequestedOutput
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import JsonOutput, Output, Tensor, release, share_tensors

# Bytes of an output above which its text is not written on the event loop: writing takes about 10 ns a byte, so up to
# here it costs less than the message to a codec process. The same as in codecs/open_inference.py.
_INLINE_JSON_LIMIT = 16_384
_BINARY = "binary_data"


class CodecProcesses(Protocol):
    """The processes that decode and encode large JSON."""

    def has_idle(self, again: Callable[[], None]) -> bool:
        """Whether one has nothing to do; where not, ``again`` is called once when one may have."""

    def start_if_busy(self) -> None:
        """Start one more where none has nothing to do, and one more is allowed."""

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        """Have the body of a request decoded; where it has none, its inputs encoded as JSON."""


class JsonOutputs:
    """Writes the outputs of one request that its client wants as JSON; ``null`` stands for NaN and Infinity there."""

    def __init__(self, codecs: CodecProcesses, selection: OutputSelection, *, null: bool) -> None:
        self._codecs = codecs
        self._selection = selection
        self._null = null

    def encode_piece(self, piece: InferenceResponse) -> None:
        """Write the JSON of a streamed part now, in place: models that stream are not asked for much JSON."""
        for at, tensor in enumerate(piece.outputs):
            if self._is_json(tensor):
                piece.outputs[at] = encode_json_output(tensor, null=self._null)
                release([tensor])

    def encode_answer(self, answer: InferenceResponse, done: Callable[[Outcome], None]) -> None:
        """Write the JSON of an answer in place, then pass it to ``done``; it passes an error where that fails."""
        json = [at for at, tensor in enumerate(answer.outputs) if self._is_json(tensor)]
        large = [at for at in json if _output_size(answer.tensors[at]) > _INLINE_JSON_LIMIT]
        error = self._encode_here(answer, [at for at in json if at not in large])
        if error is not None:
            done(error)
        elif large:
            self._encode_elsewhere(answer, large, done)
        else:
            done(answer)

    def _is_json(self, tensor: Output) -> TypeGuard[Tensor]:
        return type(tensor) is Tensor and tensor.data is not None and not self._selection.is_binary(tensor)

    def _encode_here(self, answer: InferenceResponse, places: list[int]) -> MooringError | None:
        """Write these of the outputs on the event loop. An error gives back the memory of the whole answer."""
        for at in places:
            tensor = answer.tensors[at]
            try:
                answer.outputs[at] = encode_json_output(tensor, null=self._null)
            except MooringError as error:
                release(answer.outputs)
                return error
            release([tensor])
        return None

    def _encode_elsewhere(
        self, answer: InferenceResponse, places: list[int], done: Callable[[Outcome], None]
    ) -> None:
        kept, lent = share_tensors([answer.tensors[at] for at in places], 2)
        for at, tensor in zip(places, kept, strict=True):
            answer.outputs[at] = tensor

        def on_encoded(outcome: Outcome) -> None:
            if isinstance(outcome, InferenceResponse):
                _replace_outputs(answer, places, outcome.outputs)
                done(answer)
            else:
                self._encode_in_thread(answer, places, done)

        # Before all bodies: this client is nearly answered, and the memory is in use.
        job = InferenceRequest(
            model="",
            version="",
            id="",
            inputs=lent,
            priority=1,
            json_writer=JsonWriter.CODEC,
            null_for_nan=self._null,
        )
        self._codecs.submit(job, on_encoded)

    def _encode_in_thread(
        self, answer: InferenceResponse, places: list[int], done: Callable[[Outcome], None]
    ) -> None:
        """Write these of the outputs where no codec process could: the answer keeps their memory meanwhile."""
        tensors = [answer.tensors[at] for at in places]

        def encode_all() -> list[JsonOutput]:
            return [encode_json_output(tensor, null=self._null) for tensor in tensors]

        def on_encoded(task: "asyncio.Future[list[JsonOutput]]") -> None:
            error = task.exception()
            if error is None:
                _replace_outputs(answer, places, task.result())
                done(answer)
                return
            release(answer.outputs)
            done(error if isinstance(error, MooringError) else InvalidOutput(repr(error)))

        asyncio.get_running_loop().run_in_executor(None, encode_all).add_done_callback(on_encoded)


def take_over_json(request: InferenceRequest) -> OutputSelection | None:
    """Ask the worker for plain tensors only, and return which outputs are not to be JSON; None where that cannot be.

    Where an output is requested in yet another form, as classes or in shared memory, the worker writes all of them.
    """
    outputs = request.outputs or []
    if any(output.parameters and output.parameters.keys() != {_BINARY} for output in outputs):
        return None
    named = {output.name: bool((output.parameters or {}).get(_BINARY)) for output in outputs}
    selection = OutputSelection(request.json_writer is JsonWriter.NOBODY, named)
    if selection.others and all(named.values()):
        return None
    request.json_writer = JsonWriter.CODEC
    request.outputs = [RequestedOutput(name) for name in named] or None
    return selection


def _output_size(tensor: Tensor) -> int:
    """Bytes of an output, or more than the limit for so many elements that to count them takes long."""
    if isinstance(tensor.data, list):
        return _INLINE_JSON_LIMIT + 1 if len(tensor.data) > MAX_UNPACKED else sum(map(len, tensor.data))
    return len(tensor.data)


def _replace_outputs(answer: InferenceResponse, places: list[int], texts: Sequence[Output]) -> None:
    release([answer.outputs[at] for at in places])
    for at, tensor in zip(places, texts, strict=True):
        answer.outputs[at] = tensor
