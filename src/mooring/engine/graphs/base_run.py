"""What every request on its way through several models has: a caller, and requests to models that are under way."""

import abc
from typing import Any

from mooring.core.errors import MooringError
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import Done, Ticket
from mooring.engine.body_reader import ReadBody, is_undecoded


class BaseRun(abc.ABC):
    """One request; the ``Ticket`` of its caller. It stands in ``runs`` until it is answered or withdrawn."""

    def __init__(self, request: InferenceRequest, done: Done, runs: set[Ticket]) -> None:
        self._request = request
        self._done: Done | None = done
        self._runs = runs
        self._tickets: dict[Any, Ticket] = {}  # of the requests to models that are under way
        # True while the body is decoded. Until then this object must release the request's memory.
        self._undecoded = False
        self._body_ticket: Ticket | None = None
        runs.add(self)

    def cancel(self) -> None:
        """The caller does not wait any more."""
        self._done = None
        if self._undecoded:
            if self._body_ticket is not None:
                self._body_ticket.cancel()
            self._request.release()
        self._release_all()

    def _begin(self, read_body: ReadBody) -> None:
        """Start at once, or when the body has been decoded."""
        self._undecoded = is_undecoded(self._request)
        if self._undecoded:
            self._body_ticket = read_body(self._request, self._on_body_read)
        else:
            self._start()

    def _on_body_read(self, error: MooringError | None) -> None:
        self._undecoded = False
        if error is None:
            self._start()
        else:
            self._refuse_request(error)

    def _refuse_request(self, error: MooringError) -> None:
        """End the run before any model is asked."""
        self._undecoded = False
        self._request.release()
        self._end_with_error(error)

    def _deliver_answer(self, answer: InferenceResponse) -> None:
        done, self._done = self._done, None
        self._name_answer(answer)
        self._release_all()
        assert done is not None
        done(answer)

    def _end_with_error(self, error: MooringError) -> None:
        done, self._done = self._done, None
        self._release_all()
        if done is not None:
            done(error)

    def _release_all(self) -> None:
        """Withdraw the requests to models, and release all memory that is held."""
        self._runs.discard(self)
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ticket.cancel()

    @abc.abstractmethod
    def _name_answer(self, answer: InferenceResponse) -> None:
        """Set the model, the version and the id that the answer has for its caller."""

    @abc.abstractmethod
    def _start(self) -> None:
        """Send the first requests to models."""
