"""A scheduler with workers, codec processes, a clock and memory that all do what the test says (fakes.py)."""

from fakes import FakeClock, FakeLoop, FakeMemory, FakePool
from model_kit import model_spec

from mooring.core.requests import InferenceRequest
from mooring.core.tensors import Tensor
from mooring.engine.scheduler import Scheduler
from mooring.observability.statistics import ModelStatistics


class Stage:
    """One version. ``outcomes`` has what each caller was told, by the id of its request; ``answered`` in which order."""

    def __init__(self, kind=Scheduler, *, workers=1, capacity=0, codecs=None, more=None, **spec):
        self.clock = FakeClock()
        self.loop = FakeLoop(self.clock)
        self.memory = FakeMemory()
        self.codecs = codecs
        self.spec = model_spec(**{"name": "m", "version": "1", "backend": "x", "location": "", **spec})
        self.statistics = ModelStatistics("m", "1")
        self.news = []
        self.scheduler = kind(
            self.spec,
            self.statistics,
            self.memory.allocate,
            self.news.append,
            lambda owner: FakePool(owner, workers, capacity),
            clock=self.clock,
            loop=self.loop,
            **({"codecs": codecs} if codecs is not None else {}),
            **(more or {}),
        )
        self.pool = self.scheduler.pool
        self.outcomes = {}
        self.answered = []

    @property
    def worker(self):
        return self.pool.workers[0]

    def submit(self, request, rows=1):
        outcomes = self.outcomes[request.id] = []

        def done(outcome):
            outcomes.append(outcome)
            self.answered.append(request.id)

        return self.scheduler.submit(request, done, rows)

    def arrive(self, name, *, rows=1, priority=0, deadline=None, inputs=None, **request):
        """A request that comes in this turn of the loop."""
        inputs = [Tensor("x", "FP32", [rows], b"1234" * rows)] if inputs is None else inputs
        return self.submit(
            InferenceRequest("m", "", name, inputs, priority=priority, deadline=deadline, **request), rows
        )

    def ask(self, *names, **request):
        """Requests that come one after the other, each in a turn of its own; the ticket of the last one."""
        for name in names:
            ticket = self.arrive(name, **request)
            self.loop.turn()
        return ticket

    def told(self, name):
        """The kinds of what a caller was told."""
        return [type(outcome) for outcome in self.outcomes[name]]

    def refusals(self, kind):
        """The ids of the requests that got this error."""
        return [name for name in self.outcomes if self.told(name)[:1] == [kind]]

    def sent(self):
        """The ids of what every worker was sent, message by message."""
        return [worker.names for worker in self.pool.workers]

    def finish(self):
        """Let all workers answer until nothing runs any more."""
        while busy := [worker for worker in self.pool.workers if worker not in self.pool.idle]:
            busy[0].answer()
            self.loop.turn()

    @property
    def queue(self):
        """The ids of the requests that wait, the next one first."""
        return [queued.request.id for queued in self.scheduler._queue]
