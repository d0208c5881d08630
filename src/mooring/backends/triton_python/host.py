"""What the code of the model in this process reaches through ``pb_utils``, which is a module and belongs to no object."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mooring.backends.triton_python.errors import TritonModelException
from mooring.core.service import MetricValue, ModelAccess

RecordMetric = Callable[[MetricValue], None]
"""``Reply.record_metric``."""

# A model may count things while it loads, before anybody listens; what it then has is kept for the first batch.
_KEPT_RECORDS = 1000


class Exchange(Protocol):
    """A client's request in this process: where its responses go."""

    deadline: float | None

    def open_sender(self) -> None:
        """The model took the sender: it answers by that, and not by what ``execute`` returns."""

    def send(self, response: Any, *, final: bool) -> None:
        """Send an ``InferenceResponse`` or None; the ``final`` one is the last.

        Raises ``TritonModelException`` after that.
        """

    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""


class Caller(Protocol):
    """Sends requests of the model's code to other models (calls.py)."""

    def call(self, request: Any, *, decoupled: bool) -> Any:
        """Send an ``InferenceRequest`` and wait for its ``InferenceResponse``, or return an iterator over them."""

    def call_async(self, request: Any, *, decoupled: bool) -> Any:
        """As ``call``, without waiting: returns something to await."""


class Host:
    """The model of this process, in ``folder``: the server's other models, and where its metrics go.

    ``running`` are the requests that ``execute`` has now, where it has one batch at a time: a call of another model ends
    when all of them have.
    """

    def __init__(self) -> None:
        self.folder = ""
        self.models: ModelAccess | None = None
        self._caller: Caller | None = None
        self.running: Sequence[Exchange] = ()
        self._record: RecordMetric | None = None
        self._waiting: list[MetricValue] = []

    def find_models(self) -> ModelAccess:
        """Return the access to other models. Raises ``TritonModelException`` where there is none."""
        if self.models is None:
            raise TritonModelException("there is no server whose models could be called")
        return self.models

    def set_model(self, folder: str, models: ModelAccess | None, caller: Caller) -> None:
        """Say which model is in this process."""
        self.folder, self.models, self._caller = folder, models, caller

    def caller(self) -> Caller:
        """Return who sends requests to other models. Raises ``TritonModelException`` before a model is loaded."""
        if self._caller is None:
            raise TritonModelException("other models are called from the code of a model that is loaded")
        return self._caller

    def deadline(self) -> float | None:
        """When nobody waits any more for what runs now, on the monotonic clock; None where it is not known."""
        deadlines = [each.deadline for each in self.running]
        known = [each for each in deadlines if each is not None]
        return max(known) if known and len(known) == len(deadlines) else None

    def is_abandoned(self) -> bool:
        """Whether nobody waits any more for what runs now."""
        running = self.running
        return bool(running) and all(each.is_cancelled() for each in running)

    def set_recorder(self, record: RecordMetric) -> None:
        """Send metrics there from now on, first those that were recorded before."""
        self._record = record
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            record(each)

    def record(self, metric: MetricValue) -> None:
        """Record a value of a metric."""
        if self._record is not None:
            self._record(metric)
        elif len(self._waiting) < _KEPT_RECORDS:
            self._waiting.append(metric)


HOST = Host()
