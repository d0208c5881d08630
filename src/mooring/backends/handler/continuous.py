"""Continuous batching: a handler that is called again and again, with a row for every request that is not at its end.

The row of a request that has been in a step before is ``{}``; what the handler needs to go on with it, it keeps under
the request's id (``context.request_ids``). After each step ``context.stopping_criteria[row](result)`` says whether the
row has ended: True ends a stream, False goes on, and None says that this is the whole answer. Source:
docs/contracts/torchserve.md, section 2.6.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mooring.backends.backend import Stepwise
from mooring.backends.handler.context import Context, PieceSender
from mooring.backends.handler.faults import fault_of
from mooring.backends.handler.forms import RowForm, as_results
from mooring.backends.handler.metrics import MetricsStore
from mooring.core.errors import InvalidInput, MooringError
from mooring.core.requests import Form, InferenceRequest, ResponseHead
from mooring.core.service import Outcome, Reply

CallHandler = Callable[[list[Any], Sequence[InferenceRequest], dict[int, str], PieceSender], Any]


class HandlerSteps(Stepwise):
    """Runs a handler step by step. ``call`` calls the handler, and raises ``MooringError``."""

    def __init__(
        self, call: CallHandler, context: Context, forms: Mapping[Form, RowForm], metrics: MetricsStore
    ) -> None:
        self._call = call
        self._metrics = metrics
        self._context = context
        self._forms = forms
        self._ids: dict[int, str] = {}
        self._numbers = itertools.count(1)

    def run_step(self, requests: Sequence[InferenceRequest], started: int, reply: Reply) -> Sequence[Outcome]:
        self._metrics.set_listener(reply.record_metric)
        outcomes: dict[int, Outcome] = {}
        rows: dict[int, Any] = {}
        for index, request in enumerate(requests):
            try:
                rows[index] = {} if index < started else self._row_of(request)
            except MooringError as error:
                outcomes[index] = error
        if rows:
            outcomes.update(self._run_rows(requests, rows, reply))
        return [outcomes[index] for index in range(len(requests))]

    def _run_rows(
        self, requests: Sequence[InferenceRequest], rows: Mapping[int, Any], reply: Reply
    ) -> dict[int, Outcome]:
        present = [requests[index] for index in rows]
        self._ids = {id(request): self._ids.get(id(request)) or self._new_id(request) for request in present}
        ids = dict(enumerate(self._ids.values()))
        sender = _FormPieceSender(reply, self._forms, present, list(rows))
        results = as_results(self._call(list(rows.values()), present, ids, sender), len(rows))
        heads = self._context.response_heads() or [None] * len(rows)
        return {
            index: self._row_outcome(requests[index], row, result, head)
            for row, (index, result, head) in enumerate(zip(rows, results, heads, strict=True))
        }

    def _row_outcome(
        self, request: InferenceRequest, row: int, result: Any, head: ResponseHead | None
    ) -> Outcome:
        """Return a row's piece or its last answer. A result that no answer can hold fails this row only."""
        form = self._forms[request.form]
        try:
            if self._has_ended(row, result):
                return form.to_response(request, [result], head)
            piece = form.to_piece(request, result, head)
        except Exception as error:  # the handler's own criterion, or a result that no answer can hold
            return fault_of(error)
        piece.final = False
        return piece

    def _has_ended(self, row: int, result: Any) -> bool:
        """Whether a row has ended, by the handler's criterion for it; a row without one ends with its first step."""
        criteria = self._context.stopping_criteria
        if not criteria:
            return True
        try:
            criterion = criteria[row]
        except (IndexError, KeyError):
            return True
        has_ended = criterion(result)
        return has_ended is None or bool(has_ended)

    def _row_of(self, request: InferenceRequest) -> Any:
        rows = self._forms[request.form].to_rows(request)
        if len(rows) != 1:
            raise InvalidInput(
                f"the request has {len(rows)} rows; with continuous batching it may have one: send one request for each"
            )
        return rows[0]

    def _new_id(self, request: InferenceRequest) -> str:
        """Return an id that no other request has or had: handlers keep a row's state under it, and clients of v2 choose theirs."""
        if request.form is Form.BODY:
            return request.id
        return f"{request.id}-{next(self._numbers)}"


class _FormPieceSender(PieceSender):
    """Sends pieces of rows whose requests may be of different forms."""

    def __init__(
        self,
        reply: Reply,
        forms: Mapping[Form, RowForm],
        requests: Sequence[InferenceRequest],
        owners: Sequence[int],
    ) -> None:
        super().__init__(reply, forms[Form.BODY], requests, owners)
        self._forms = forms

    def send(self, row: int, item: Any, head: ResponseHead | None) -> None:
        self._form = self._forms[self._requests[row].form]
        super().send(row, item, head)
