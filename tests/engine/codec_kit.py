"""A codec process that is none: it reads bodies in this process, at once or when the test says so."""

from mooring.backends.codec_backend import decode_json
from mooring.core.buffers import HeapAllocator
from mooring.core.tensors import release
from mooring.engine.body_reader import BodyReader


class CodecsAtHand:
    """With ``wait`` what was asked lies in ``jobs`` until ``work``."""

    def __init__(self, *, wait=False):
        self.wait = wait
        self.jobs = []
        self.cancelled = 0

    def idle(self, again):
        return True

    def submit(self, request, done):
        self.jobs.append((request, done))
        if not self.wait:
            self.work()
        return self

    def cancel(self):
        self.cancelled += 1

    def work(self, outcome=None):
        request, done = self.jobs.pop(0)
        outcome = outcome or decode_json(request)
        release(request.inputs)
        done(outcome)

    def reader(self):
        return BodyReader(self, HeapAllocator().allocate).read
