"""A worker whose process is the test: it speaks for the worker at the other end of a real channel."""

import asyncio
import os
import socket

from model_kit import model_spec

from mooring.core.errors import ErrorRecord
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import Joining, JoiningState, ModelMetadata
from mooring.core.tensors import Tensor
from mooring.ipc.arena import anonymous_file
from mooring.ipc.framing import Frames
from mooring.ipc.messages import Codec, Loaded, LoadFailed, Results
from mooring.ipc.progress import Progress

_codec = Codec()


class FakeOutput:
    """What the worker has printed."""

    def __init__(self):
        self.last_lines = []
        self.closed = False

    def name_worker(self, number):
        pass

    def read(self):
        pass

    def close(self):
        self.closed = True


class FakeProcess:
    """The process of one worker. It ends when it is told to: by ``end``, or in the turn after ``kill``."""

    stale = False
    fault = ""

    def __init__(self, pid=4000, *, channel=0, channels=1):
        self.pid = pid
        self.channel = channel
        self.shared = channels > 1
        self.sock, self.theirs = socket.socketpair()
        self.sock.setblocking(False)
        self.theirs.setblocking(False)
        fd = anonymous_file(Progress.size(channels))
        self.progress = Progress(fd, channels)
        os.close(fd)
        self.output = FakeOutput()
        self.status = None
        self.ended = asyncio.Event()
        self.on_end = lambda: None
        self.kills = 0
        self.frontends_told = False
        self._frames = Frames()

    def kill(self):
        if self.status is None:
            self.kills += 1
            asyncio.get_running_loop().call_soon(self.end, -9)

    def end(self, status=0):
        if self.status is None:
            self.status = status
            self.theirs.close()
            self.ended.set()
            self.on_end()

    def close_frontend_channels(self):
        self.frontends_told = True

    def say(self, message):
        """What the worker says to the server; ``turn`` lets the server hear it."""
        self.theirs.send(_codec.frame(message))

    def load(self, **more):
        self.say(Loaded(ModelMetadata("m", ["1"], "p"), **more))

    def fail(self, text="no such file", *, lasting=False):
        self.say(LoadFailed(ErrorRecord("ModelLoadFailed", text), lasting))

    def answer(self, *keys, outcome=None):
        """Answer the requests of these keys."""
        outcomes = [InferenceResponse([]) if outcome is None else outcome for _ in keys]
        self.say(Results(list(keys), outcomes, [(len(keys), 0.5, len(keys))]))

    @property
    def heard(self):
        """The messages that the server has sent since this was last asked."""
        messages = []
        while True:
            try:
                if not self._frames.receive(self.theirs):
                    return messages
            except BlockingIOError:
                return messages
            messages += [_codec.to_worker(frame, self._frames.attached) for frame in self._frames]

    @property
    def dismissed(self):
        """Whether the server has closed its end of the channel."""
        return self.sock.fileno() < 0


class FakeWork:
    """A request on its way, and what came back."""

    def __init__(self, key):
        self.key = key
        self.request = InferenceRequest("m", "1", str(key), [Tensor("x", "FP32", [1], b"1234")])
        self.answer_slot = None
        self.pieces = []
        self.answers = []

    def piece(self, response):
        self.pieces.append(response)

    def answer(self, outcome):
        self.answers.append(outcome)


class FakeOwner:
    """The scheduler of a pool: it writes down what it is told. ``dismissible`` is its answer to ``may_dismiss``."""

    def __init__(self):
        self.dismissible = True
        self.log = []
        self.free = 0
        self.loaded = 0
        self.recycled = 0
        self.restarts = []
        self.failures = []
        self.deaths = []

    def on_worker_free(self):
        self.free += 1

    def on_worker_died(self, running, unstarted, error, retry):
        self.deaths.append(([w.key for w in running], [w.key for w in unstarted], retry))
        self.log.append(error)

    def may_dismiss(self, _worker):
        return self.dismissible

    def requeue(self, works):
        self.log.append(("requeue", [work.key for work in works]))

    def large_answer(self, size):
        self.log.append(("large", size))

    def batches_done(self, batches):
        self.log.append(("batches", list(batches)))

    def answers_came(self, seconds):
        pass

    def finish_many(self, works, outcomes, *, borrowed):
        self.log.append(("answers", [work.key for work in works], borrowed))
        for work, outcome in zip(works, outcomes, strict=True):
            work.answer(outcome)

    def on_worker_loaded(self, _metadata):
        self.loaded += 1

    def on_worker_failed(self, error):
        self.failures.append(error)

    def on_worker_recycled(self):
        self.recycled += 1

    def on_worker_restarted(self, reason):
        self.restarts.append(reason.name)


class FakeSpawner:
    """Starts ``FakeProcess``es: none while ``closed_gate``, and none at all with an ``error``."""

    pid = 0

    def __init__(self, *_args):
        self.processes = []
        self.error = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.closed = 0
        self.rechecks = 0
        self.shown = Joining(JoiningState.SHOWN, "the same alone and joined")

    async def start_worker(self):
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.error is not None:
            raise self.error
        self.processes.append(FakeProcess(4000 + len(self.processes)))
        return self.processes[-1]

    def recheck_fork_safety(self):
        self.rechecks += 1

    async def try_joining(self):
        if self.error is not None:
            raise self.error
        return self.shown

    def close(self):
        self.closed += 1


class FakeHandlePool:
    """The pool of one ``WorkerHandle``, which writes down what it hears."""

    def __init__(self):
        self.spec = model_spec(backend="x")
        self.owner = FakeOwner()
        self.idle = []
        self.heard = self.owner.log

    def on_loaded(self, worker, metadata, joining):
        self.heard.append("loaded")

    def on_joining_missed(self):
        self.heard.append("joining missed")

    def on_load_failed(self, worker, failure):
        self.heard.append("load failed")

    def on_closed(self, worker):
        self.heard.append("closed")
        worker.close()

    def on_idle(self, worker):
        self.heard.append("idle")

    def on_room(self, worker):
        self.heard.append("room")

    def on_records(self, records):
        self.heard.append(("records", len(records)))
