"""Stand-ins for what a request meets on its way: a clock, an event loop, workers, codec processes, shared memory.

They do what the real ones do in the order in which they do it, but only when the test says so: no test with them waits
or starts a process. Time stands still until ``FakeLoop.advance``.
"""

import asyncio
import heapq
import itertools
import time

from mooring.backends.codec_backend import run_job
from mooring.core.buffers import Buffer, HeapAllocator, Slot, heap
from mooring.core.errors import WorkerDied
from mooring.core.requests import InferenceResponse
from mooring.core.service import ModelMetadata
from mooring.engine.body_reader import BodyReader
from mooring.workers.failures import FailureHistory
from mooring.workers.handle import WorkerState


class FakeClock:
    """Seconds, which pass only when a test adds some."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


class FakeLoop:
    """An event loop whose turns are calls of ``turn``, and whose timers go off in ``advance``."""

    def __init__(self, clock):
        self.clock = clock
        self._soon = []
        self._timers = []
        self._order = itertools.count()

    def call_soon(self, callback, *args):
        self._soon.append((callback, args))

    def call_later(self, delay, callback, *args):
        heapq.heappush(self._timers, (self.clock.now + delay, next(self._order), callback, args))

    @property
    def timers(self):
        """In how many seconds each timer goes off."""
        return [due - self.clock.now for due, *_ in sorted(self._timers, key=lambda timer: timer[:2])]

    def turn(self):
        """Run what was called for until nothing is left."""
        while self._soon:
            soon, self._soon = self._soon, []
            for callback, args in soon:
                callback(*args)

    def advance(self, seconds):
        """Let so many seconds pass, and run the timers that are due meanwhile, each at its time."""
        end = self.clock.now + seconds
        self.turn()
        while self._timers and self._timers[0][0] <= end:
            due, _, callback, args = heapq.heappop(self._timers)
            self.clock.now = due
            callback(*args)
            self.turn()
        self.clock.now = end


class FakeWorker:
    """One worker: it keeps what it is sent until ``answer``, ``give_back`` or its pool's ``kill``."""

    def __init__(self, pool, name, capacity=0):
        self.id = name
        self.state = WorkerState.READY
        self.capacity = capacity
        self.pool = pool
        self.sent = []
        self.cancelled = []

    @property
    def outstanding(self):
        return [work for batch in self.sent[self._answered :] for work in batch]

    _answered = 0

    @property
    def room(self):
        return self.capacity - len(self.outstanding) if self.capacity else 1 << 30

    def send(self, batch):
        self.pool.idle.remove(self)
        self.state = WorkerState.BUSY
        self.sent.append(list(batch))
        if self.capacity and self.room > 0:
            self.pool.idle.append(self)

    def cancel(self, work):
        self.cancelled.append(work)

    @property
    def names(self):
        """The ids of the requests that it was sent, message by message."""
        return [[work.request.id for work in batch] for batch in self.sent]

    def answer(self, *outcomes, seconds=0.0, borrowed=True):
        """Answer the last message: with an outcome for each request, or with none for empty answers.

        As the real worker does: it says how long the model took, is idle, and then the callers are answered.
        """
        batch = self.sent[-1]
        self._answered = len(self.sent)
        owner = self.pool.owner
        owner.batches_done([(len(batch), seconds, len(batch))])
        owner.answers_came(0.0)
        self._become_idle()
        answers = list(outcomes) or [InferenceResponse([]) for _ in batch]
        owner.finish_many(batch, answers, borrowed=borrowed)

    def give_back(self):
        """Hand the last message back without having started it."""
        self._answered = len(self.sent)
        self.pool.owner.requeue(self.sent[-1])
        self._become_idle()

    def _become_idle(self):
        self.state = WorkerState.READY
        if self not in self.pool.idle:
            self.pool.idle.append(self)
        self.pool.owner.on_worker_free()


class FakePool:
    """The workers of one version. The last idle one is sent to first, as in the real pool."""

    def __init__(self, owner, count=1, capacity=0):
        self.owner = owner
        self.workers = [FakeWorker(self, str(number), capacity) for number in range(count)]
        self.idle = list(self.workers)
        self.wanted = count
        self.overlapping = capacity > 0
        self.leaving = ()
        self.failures = FailureHistory()
        self.shedding = 0
        self.start_seconds = 0.0
        self.checks = []

    @property
    def ready(self):
        return len(self.workers)

    def next(self):
        return self.idle[-1]

    def put_least_busy_last(self):
        self.idle.sort(key=lambda worker: worker.room)

    def check(self, now):
        self.checks.append(now)

    def dismiss_surplus(self):
        self.shedding += 1

    def add(self):
        """One more worker has loaded the model."""
        worker = FakeWorker(self, str(len(self.workers)))
        self.workers.append(worker)
        self.idle.append(worker)
        self.owner.on_worker_free()
        return worker

    def kill(self, worker, *, started=True, retry=True):
        """A worker dies, with what it was sent last started or not."""
        worker.state = WorkerState.ENDED
        self.workers.remove(worker)
        works = worker.outstanding
        if worker in self.idle:
            self.idle.remove(worker)
        running, unstarted = (works, []) if started else ([], works)
        self.owner.on_worker_died(running, unstarted, WorkerDied("Worker died."), retry)


class FakeWorkerPool(FakePool):
    """Workers that load, or fail to, in the turn after they are wanted. ``plan`` says which: None loads the model."""

    plan = None

    def __init__(self, spec, owner, workers, threads, *, sharing=None, record_metrics=None):
        super().__init__(owner, 0)
        self.spec, self.threads = spec, threads
        self.stopped = False
        self.served = 0
        self.processes = 0
        self.starting = 0
        self.busy = 0.0

    def has_exactly(self, count):
        return len(self.workers) == count

    def start(self, count):
        self.wanted = count
        asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self):
        while len(self.workers) > self.wanted:
            worker = self.workers.pop()
            self.idle.remove(worker)
        for _ in range(self.wanted - len(self.workers)):
            if self.plan is not None:
                self.failures.record(self.plan, time.monotonic(), loading=True)
                self.owner.on_worker_failed(self.plan)
                return
            worker = FakeWorker(self, str(9000 + len(self.workers)))
            worker.load_seconds = 0.5
            self.workers.append(worker)
            self.idle.append(worker)
            self.owner.on_worker_loaded(ModelMetadata(self.spec.name, [self.spec.version], "p"))
            self.owner.on_worker_free()

    async def stop(self):
        self.stopped = True
        self.workers.clear()
        self.idle.clear()


class FakeCodecs:
    """One codec process, which decodes in this process: at once with ``at_hand``, else in ``work``."""

    def __init__(self, *, at_hand=False):
        self.at_hand = at_hand
        self.jobs = []
        self.asking = []
        self.cancelled = 0

    def has_idle(self, again):
        if self.jobs:
            self.asking.append(again)
        return not self.jobs

    def start_if_busy(self):
        pass

    def submit(self, request, done):
        self.jobs.append((request, done))
        if self.at_hand:
            self.work()
        return self

    def cancel(self):
        self.cancelled += 1

    def work(self, outcome=None):
        """Do the oldest job, or fail it with this error."""
        request, done = self.jobs.pop(0)
        asking, self.asking = self.asking, []
        for again in asking:
            again()
        if outcome is None:
            outcome = run_job(request)
        request.release()
        done(outcome)

    def reader(self):
        """What chains and sequences have their bodies read with."""
        return BodyReader(self, HeapAllocator().allocate).read_body


class FakeMemory:
    """Shared memory: ``out`` counts the slots that nobody has given back."""

    def __init__(self):
        self.out = 0
        self.sizes = []
        self.full = False

    def allocate(self, size):
        if self.full:
            return None
        self.out += 1
        self.sizes.append(size)
        return Buffer(heap(size), Slot(0, 0, size), self._back)

    def _back(self, slot):
        self.out -= 1
