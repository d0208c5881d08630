"""Large bodies that must be decoded before their requests can go to a model, decoded in a codec process.

Only the body says which outputs a chain's last model is to give, and which worker has the state of a request's sequence.
The event loop would need seconds to decode a large one, and would answer no other request meanwhile.
"""

from collections.abc import Callable

from mooring.core.buffers import Buffer
from mooring.core.errors import DeadlineExceeded, ErrorRecord, MooringError
from mooring.core.requests import TENSORS, InferenceRequest
from mooring.core.service import Outcome, Ticket
from mooring.engine.json_outputs import CodecProcesses
from mooring.engine.offload import decode_job, move_to_arena, replace_body

BodyRead = Callable[[MooringError | None], None]
"""Receives None once a body is decoded, or why it cannot be. Never called for a ticket that was cancelled."""
ReadBody = Callable[[InferenceRequest, BodyRead], Ticket]


class BodyReader:
    """Has bodies decoded by codec processes, and puts what they hold into their requests."""

    def __init__(self, codecs: CodecProcesses, allocate: Callable[[int], Buffer | None]) -> None:
        self._codecs = codecs
        self._allocate = allocate

    def read_body(self, request: InferenceRequest, done: BodyRead) -> Ticket:
        """Replace the undecoded body of a request by its inputs, parameters and outputs, and call ``done`` then.

        The request stays the caller's to release, whatever becomes of the body.
        """
        job = decode_job(request)
        self._codecs.start_if_busy()
        return self._codecs.submit(job, lambda outcome: self._apply_body(request, done, outcome))

    def _apply_body(self, request: InferenceRequest, done: BodyRead, outcome: Outcome) -> None:
        if isinstance(outcome, MooringError):
            done(body_error(outcome))
            return
        move_to_arena(outcome.tensors, self._allocate)
        replace_body(request, outcome)
        done(None)


def is_undecoded(request: InferenceRequest) -> bool:
    """Whether a request is a body that says more than its inputs, and is not decoded yet."""
    return request.body is not None and request.form is TENSORS


def body_error(error: MooringError) -> MooringError:
    """The error for a body that cannot be decoded. It does not name the codec, which is no model of the client's."""
    if isinstance(error, DeadlineExceeded):
        return DeadlineExceeded("the body of the request was not read in time")
    return ErrorRecord.of(error).error(model="", version="")
