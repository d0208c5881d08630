"""Answers that are kept, so that the same request is answered again without a worker: Triton's response cache.

A key is a hash of all that an answer depends on: the version, the inputs with their contents, the outputs asked for and
in which form, the parameters, and the headers where the model reads them. Requests up to 64 KB are hashed on the event
loop, larger ones in a thread.
"""

import asyncio
import functools
import hashlib
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from mooring.core.buffers import LARGE, Buffer, Payload, view_of
from mooring.core.errors import MooringError
from mooring.core.requests import INFER, InferenceRequest, InferenceResponse
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import JsonOutput, Output, Tensor
from mooring.engine.admission import NO_OP_TICKET
from mooring.engine.dispatcher import W
from mooring.engine.queue_policy import PolicyScheduler
from mooring.observability.statistics import ModelStatistics

# Bytes of a request above which it is not hashed: that would take longer than most models.
_MAX_REQUEST = 64 << 20
# Bytes of an answer above which it is not kept: it is copied on the event loop, 0.1 ms a megabyte.
_MAX_ANSWER = 1 << 20
# Bytes that an entry takes beside the elements of its tensors.
_ENTRY_OVERHEAD = 1024

_owners = itertools.count(1)
_encode = msgspec.msgpack.Encoder().encode

CacheKey = tuple[int, bytes]
"""Whose answer it is, and the hash of the request."""


class ResponseCache:
    """Answers by their keys, of all versions of a process, ``size`` bytes at most. The one unused longest goes first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._entries: OrderedDict[CacheKey, tuple[InferenceResponse, int]] = OrderedDict()

    def find(self, key: CacheKey) -> InferenceResponse | None:
        """Return a copy of the answer of that key, whose tensors its reader may change but for their elements."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return _copy_response(entry[0], _lend_payload)

    def keep(self, key: CacheKey, answer: InferenceResponse) -> None:
        """Keep a copy of an answer, unless it is too large; what was unused longest makes room for it."""
        size = sum(map(_output_size, answer.outputs)) + _ENTRY_OVERHEAD
        if size > min(self.size, _MAX_ANSWER) or key in self._entries:
            return
        self._entries[key] = _copy_response(answer, _copy_payload), size
        self.used += size
        while self.used > self.size:
            _, (_, oldest) = self._entries.popitem(last=False)
            self.used -= oldest

    def forget(self, owner: int) -> None:
        """Forget all answers of an owner."""
        for key in [key for key in self._entries if key[0] == owner]:
            self.used -= self._entries.pop(key)[1]

    def __len__(self) -> int:
        return len(self._entries)


Forward = Callable[[Done], Ticket]
"""Has a request answered by its model, with this ``done``."""


class CachedAnswers:
    """The answers of one version that are kept in a ``ResponseCache``.

    How this works: a request is hashed. An answer that is kept under that hash goes to the caller at once; else the
    request goes on to the model, and its answer is kept. Equal requests that come before the first of them is answered
    all run. What is no plain inference, or streams its answer, is not kept.

    With ``by_headers``, for a model that reads the headers of requests, requests with other headers are others.
    """

    by_headers = False

    def __init__(
        self, cache: ResponseCache, statistics: ModelStatistics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cache = cache
        self._statistics = statistics
        self._clock = clock
        self._owner = next(_owners)
        self._hashing = 0

    @property
    def idle(self) -> bool:
        """Whether no request is being hashed."""
        return not self._hashing

    def forget_all(self) -> None:
        """Forget all answers: the version is gone, or has changed."""
        self._cache.forget(self._owner)
        self._owner = next(_owners)  # for what is answered by the old one still

    def submit(self, request: InferenceRequest, done: Done, forward: Forward) -> Ticket:
        """Answer a request with what is kept, or pass it on and keep its answer."""
        size = _request_size(request)
        if request.operation is not INFER or size > _MAX_REQUEST:
            return forward(done)
        began = self._clock()
        if size <= LARGE:
            return self._answer(request, done, forward, hash_request(request, headers=self.by_headers), began)
        ticket = _HashedTicket()
        self._hashing += 1

        def on_hashed(task: "asyncio.Future[bytes]") -> None:
            self._hashing -= 1
            if ticket.cancelled:
                request.release()
            else:
                ticket.inner = self._answer(request, done, forward, task.result(), began)

        hashing = functools.partial(hash_request, request, headers=self.by_headers)
        task = asyncio.get_running_loop().run_in_executor(None, hashing)
        task.add_done_callback(on_hashed)
        return ticket

    def _answer(
        self, request: InferenceRequest, done: Done, forward: Forward, digest: bytes, began: float
    ) -> Ticket:
        if not digest:
            return forward(done)
        key = self._owner, digest
        answer = self._cache.find(key)
        lookup = self._clock() - began
        if answer is None:
            return forward(self._keeping(key, request.id, done, lookup))
        request.release()
        if request.timing is not None:
            request.timing.cache = self._clock() - began
        answer.id = answer.id or request.id
        self._statistics.observe_cache(lookup, hit=True)
        self._statistics.observe_request(self._clock() - began, 0.0, True, not request.version)
        done(answer)
        return NO_OP_TICKET

    def _keeping(self, key: CacheKey, request_id: str, done: Done, lookup: float) -> Done:
        """Return a ``done`` that keeps the answer before it passes it on."""
        streams = False

        def keep_and_pass(outcome: Outcome) -> None:
            nonlocal streams
            if isinstance(outcome, MooringError):
                done(outcome)
                return
            streams = streams or not outcome.final
            if outcome.final and not streams and outcome.outputs and key[0] == self._owner:
                began = self._clock()
                outcome_id = outcome.id
                if outcome_id == request_id:  # the next client's is another
                    outcome.id = ""
                self._cache.keep(key, outcome)
                outcome.id = outcome_id
                self._statistics.observe_cache(lookup + self._clock() - began, hit=False)
            done(outcome)

        return keep_and_pass


class CachingScheduler(PolicyScheduler[W]):
    """The queue of a version whose answers are kept: a request whose answer there is does not wait in it."""

    answers: CachedAnswers

    def set_cache(self, cache: ResponseCache) -> None:
        """Keep answers there. Called once, before the first request."""
        self.answers = CachedAnswers(cache, self._dispatcher.statistics, self._clock)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, runs or is being hashed."""
        return self.answers.idle and super().idle

    def _submit_at(self, request: InferenceRequest, done: Done, rows: int, level: int) -> Ticket:
        if self.refusal is not None:
            return super()._submit_at(request, done, rows, level)
        forward = super()._submit_at
        self.answers.by_headers = not self._drops_headers  # known once a worker has loaded the model
        return self.answers.submit(request, done, lambda done: forward(request, done, rows, level))


class _HashedTicket:
    """A large request while a thread hashes it; then ``inner`` is its ticket."""

    def __init__(self) -> None:
        self.inner: Ticket | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """Withdraw the request: the caller does not wait any more."""
        self.cancelled = True
        if self.inner is not None:
            self.inner.cancel()


def hash_request(request: InferenceRequest, *, headers: bool = False) -> bytes:
    """Return the hash of all that the answer to a request depends on, but for the version that answers it.

    ``headers``: it depends on those of the request, too.

    It is empty where a parameter is a number that no message can hold: whoever sends it on says so.
    """
    body = request.body
    head = (
        request.form,
        request.path,
        request.parameters,
        request.outputs,
        request.json_writer,
        request.null_for_nan,
        request.layout,
        [
            (tensor.name, tensor.datatype, tensor.shape, tensor.parameters, tensor.packed)
            for tensor in request.inputs
        ],
        None if body is None else (body.kind, body.json_size, body.no_regions, body.declared),
        request.headers if headers else None,
    )
    try:
        digest = hashlib.sha256(_encode(head))
    except OverflowError:
        return b""
    for data in ([] if body is None else [body.data]) + [tensor.data for tensor in request.inputs]:
        if isinstance(data, list):
            digest.update(_encode([each if type(each) is bytes else bytes(each) for each in data]))
        else:
            digest.update(b"%d:" % len(data))
            digest.update(view_of(data))
    return digest.digest()


def _request_size(request: InferenceRequest) -> int:
    size = 0 if request.body is None else len(request.body.data)
    return size + sum(map(_output_size, request.inputs))


def _output_size(tensor: Output) -> int:
    return sum(map(len, tensor.data)) if isinstance(tensor.data, list) else len(tensor.data)


def _copy_response(
    response: InferenceResponse, copy_payload: Callable[[Payload], Payload]
) -> InferenceResponse:
    parameters = dict(response.parameters) if response.parameters else None
    outputs = [_copy_output(output, copy_payload) for output in response.outputs]
    return msgspec.structs.replace(response, outputs=outputs, parameters=parameters)


def _copy_output(output: Output, copy_payload: Callable[[Payload], Payload]) -> Tensor | JsonOutput:
    data = output.data
    copied = [copy_payload(each) for each in data] if isinstance(data, list) else copy_payload(data)
    parameters = dict(output.parameters) if output.parameters else None
    return msgspec.structs.replace(output, data=copied, shape=[*output.shape], parameters=parameters)


def _copy_payload(payload: Payload) -> bytes:
    return payload if isinstance(payload, bytes) else bytes(payload)


def _lend_payload(payload: Payload) -> Payload:
    """The kept bytes; large ones in the form in which large answers come, which are sent without a copy."""
    return Buffer(view_of(payload)) if len(payload) > LARGE else payload
