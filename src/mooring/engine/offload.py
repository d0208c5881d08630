"""Large JSON bodies of one version that wait: they are opened by a codec process before a worker is free for them.

While that is going on a request keeps its place in the queue. What was opened there has its JSON outputs written there,
too. Whatever goes wrong with a codec process, the request goes on as it would have without: its worker opens the body,
or a thread of the server writes the text.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mooring.codecs.decoded_body import apply_decoded, json_output
from mooring.codecs.nonfinite import writes_null
from mooring.codecs.packed import FEW
from mooring.codecs.v2_json import Wanted
from mooring.core.buffers import LARGE, Buffer, view_of
from mooring.core.errors import ErrorRecord, InvalidInput, InvalidOutput, MooringError
from mooring.core.requests import INFER, TENSORS, InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import Tensor, release, shared

if TYPE_CHECKING:
    from mooring.engine.scheduler import QueuedRequest, Scheduler

# Bytes of JSON below which the way to another process costs more than it spares: 0.1 ms of the server against 0.25.
_WORTH = 262_144
# And above which it stays with the worker: nobody else's should wait behind it for seconds.
_GIANT = 64 << 20
# Bytes of an output above which its text is not written by the server, as in codecs/open_inference.py.
_MUCH = 16_384
_BINARY = "binary_data"


class Codecs(Protocol):
    """The codec processes, as those who have something for them see them."""

    def idle(self, again: Callable[[], None]) -> bool:
        """Whether one has nothing to do; where not, ``again`` is called once when one may have."""

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        """Have it read or written."""


class Openings:
    """The bodies of one scheduler that wait unopened, the oldest first, and those that are being opened.

    ``closed`` has the first, and others that have found a worker meanwhile.
    """

    def __init__(
        self, codecs: Codecs, scheduler: "Scheduler", allocate: Callable[[int], Buffer | None]
    ) -> None:
        self._codecs = codecs
        self._allocate = allocate
        self._scheduler = scheduler
        self.closed: deque[QueuedRequest] = deque()
        self._begun: dict[QueuedRequest, Ticket] = {}
        self._again = self.begin  # always the same object: whoever asks twice is told once

    @property
    def begun(self) -> list["QueuedRequest"]:
        """Those that are being opened."""
        return list(self._begun)

    def begin(self) -> None:
        """Have opened what waits while there is a process for it. Call it when all workers are busy."""
        closed = self.closed
        while closed:
            queued = closed[0]
            if not self._scheduler.holds(queued) or not is_closed(queued.request):
                closed.popleft()
            elif not self._codecs.idle(self._again):
                return
            else:
                closed.popleft()
                self._open(queued)

    def _open(self, queued: "QueuedRequest") -> None:
        request = queued.request
        request.inputs, lent = shared(request.inputs, 2)
        self._scheduler.set_aside(queued)
        job = InferenceRequest("", "", request.id, lent, TENSORS, INFER, None, None, request.deadline)
        ticket = self._codecs.submit(job, lambda outcome: self._opened(queued, outcome))
        if self._scheduler.is_aside(queued):
            self._begun[queued] = ticket

    def withdraw(self, queued: "QueuedRequest") -> None:
        """Nobody waits for it any more."""
        self._begun.pop(queued).cancel()

    def _opened(self, queued: "QueuedRequest", outcome: Outcome) -> None:
        self._begun.pop(queued, None)
        request, scheduler = queued.request, self._scheduler
        if isinstance(outcome, InferenceResponse):
            if not place(outcome.outputs, self._allocate):
                release(outcome.outputs)
                scheduler.put_back(queued)
                return
            body = request.inputs
            apply_decoded(request, outcome)
            release([*body, outcome.outputs[0]])
            queued.rows = max(request.rows, 1)
            queued.texts = _texts_elsewhere(request)
        elif isinstance(outcome, InvalidInput):
            spec = scheduler.spec
            scheduler.dismiss(queued, ErrorRecord.of(outcome).error(model=spec.name, version=spec.version))
            return
        # A deadline is the scheduler's own to see. Of any other error the worker will know more.
        scheduler.put_back(queued)

    def write(self, queued: "QueuedRequest", answer: InferenceResponse, wanted: Wanted) -> None:
        """Have the JSON of an answer written, and then finish its request."""
        texts = [at for at, tensor in enumerate(answer.outputs) if _is_text(tensor, wanted)]
        large = [at for at in texts if _size(answer.outputs[at]) > _MUCH]
        null = writes_null(self._scheduler.spec.json_nan, asked=queued.request.null_for_nan)
        if not _write_here(queued, answer, [at for at in texts if at not in large], null):
            return
        if not large:
            queued.finish(answer)
            return
        kept, lent = shared([answer.outputs[at] for at in large], 2)
        for at, tensor in zip(large, kept, strict=True):
            answer.outputs[at] = tensor
        # Before all bodies: a client is nearly answered, and the memory is in use.
        job = InferenceRequest(
            "", "", "", lent, TENSORS, INFER, priority=1, json_outputs=True, null_for_nan=null
        )
        self._codecs.submit(job, lambda outcome: _written(queued, answer, large, outcome, null))


def is_closed(request: InferenceRequest) -> bool:
    """Whether all it has is a JSON body that is worth opening elsewhere."""
    if request.form is not TENSORS or len(request.inputs) != 1:
        return False
    (tensor,) = request.inputs
    return tensor.json and _WORTH <= len(tensor.data[0]) <= _GIANT


def place(tensors: list[Tensor], allocate: Callable[[int], Buffer | None]) -> bool:
    """Put into the arena what came inline; False when there is no room for all, and what has none stays as it is.

    A model that writes to its inputs may do so with what its worker has decoded, and must not see a difference.
    """
    for tensor in tensors:
        data = tensor.data
        inline = isinstance(data, bytes) or (isinstance(data, Buffer) and data.slot is None)
        if inline and len(data) > LARGE:
            found = allocate(len(data))
            if found is None:
                return False
            found.view[:] = view_of(data)
            tensor.data = found
    return True


def write_piece(piece: InferenceResponse, wanted: Wanted, *, null: bool) -> None:
    """The same for a part of an answer, here and now: models that stream are not asked for much JSON."""
    for at, tensor in enumerate(piece.outputs):
        if _is_text(tensor, wanted):
            piece.outputs[at] = json_output(tensor, null=null)
            release([tensor])


def _texts_elsewhere(request: InferenceRequest) -> Wanted | None:
    """Leave to a codec process what the worker would write as JSON: which outputs are not to be. None for no such.

    Where an output is wanted in yet another form, as classes or in shared memory, all is the worker's.
    """
    outputs = request.outputs or []
    if any(output.parameters and output.parameters.keys() != {_BINARY} for output in outputs):
        return None
    named = {output.name: bool((output.parameters or {}).get(_BINARY)) for output in outputs}
    wanted = Wanted(not request.json_outputs, named)
    if wanted.others and all(named.values()):
        return None
    request.json_outputs = False
    request.outputs = [RequestedOutput(name) for name in named]
    return wanted


def _is_text(tensor: Tensor, wanted: Wanted) -> bool:
    return not tensor.json and tensor.data is not None and not wanted.binary(tensor)


def _size(tensor: Tensor) -> int:
    if isinstance(tensor.data, list):
        return _MUCH + 1 if len(tensor.data) > FEW else sum(map(len, tensor.data))
    return len(tensor.data)


def _write_here(queued: "QueuedRequest", answer: InferenceResponse, places: list[int], null: bool) -> bool:
    """Write these of the outputs in this process; False where that fails, and then the request is finished."""
    for at in places:
        tensor = answer.outputs[at]
        try:
            answer.outputs[at] = json_output(tensor, null=null)
        except MooringError as error:
            release(answer.outputs)
            queued.finish(error)
            return False
        release([tensor])
    return True


def _written(
    queued: "QueuedRequest", answer: InferenceResponse, places: list[int], outcome: Outcome, null: bool
) -> None:
    if isinstance(outcome, InferenceResponse):
        _put_texts(answer, places, outcome.outputs)
    elif queued.wanted:
        _write_in_thread(queued, answer, places, null)
        return
    queued.finish(answer)


def _put_texts(answer: InferenceResponse, places: list[int], texts: list[Tensor]) -> None:
    release([answer.outputs[at] for at in places])
    for at, tensor in zip(places, texts, strict=True):
        answer.outputs[at] = tensor


def _write_in_thread(
    queued: "QueuedRequest", answer: InferenceResponse, places: list[int], null: bool
) -> None:
    """Write these of the outputs where no codec process could: the answer keeps their memory meanwhile."""
    tensors = [answer.outputs[at] for at in places]

    def write() -> list[Tensor]:
        return [json_output(tensor, null=null) for tensor in tensors]

    def done(task: "asyncio.Future[list[Tensor]]") -> None:
        error = task.exception()
        if error is None:
            _put_texts(answer, places, task.result())
            queued.finish(answer)
            return
        release(answer.outputs)
        queued.finish(error if isinstance(error, MooringError) else InvalidOutput(repr(error)))

    asyncio.get_running_loop().run_in_executor(None, write).add_done_callback(done)
