"""What a gRPC call needs of its listener and of its connection, without either."""

import asyncio
import gzip

from fake_http2 import FakeConnection
from fake_transport import FakeContext
from web_client import CountingAllocator

from mooring.core.memory import BodyMemory
from mooring.web.grpc.calls import Method, StreamingCall, UnaryCall
from mooring.web.grpc.headers import CallHead
from mooring.web.grpc.responses import MESSAGE_PREFIX
from mooring.web.grpc.status import Status, StatusError


class FakeGrpcContext(FakeContext):
    """``memory`` is how many bytes all bodies may have; 0 is no limit."""

    def __init__(self, *, memory=0, max_message_bytes=0, max_request_bytes=0, **options):
        super().__init__(allocator=CountingAllocator(BodyMemory(memory)), **options)
        self.max_message_bytes = max_message_bytes
        self.max_request_bytes = max_request_bytes
        self.max_request_key = "grpc_max_request_size"

    def inflate(self, data, encoding, count):
        try:
            inflated = gzip.decompress(data)
        except gzip.BadGzipFile:
            raise StatusError(Status.INVALID_ARGUMENT, "no gzip") from None
        count(len(inflated))
        return inflated


def message(content, *, compressed=0):
    return MESSAGE_PREFIX.pack(compressed, len(content)) + content


class Called:
    """A call of a method that does nothing by itself."""

    def __init__(self, kind=UnaryCall, *, admit=None, windows=None, head=None, connection=None, **options):
        self.context = FakeGrpcContext(**options)
        self.connection = connection or FakeConnection()
        self.sender = self.connection.sender
        self.started = []
        self.cancelled = 0
        method = Method(self.started.append, admit)
        self.call = kind(self.context, self.connection, 1, head or CallHead(b"/t.T/M"), method)
        self.call.on_cancelled = self.cancel
        self.call.begin()

    def cancel(self):
        self.cancelled += 1

    def feed(self, data, *, end=False):
        self.call.receive_content(data, 0, len(data))
        if end:
            self.call.end_received()

    def sweep(self, seconds):
        self.context.now += seconds
        self.call.check_timeouts(self.context.now)


def streaming(**options):
    return Called(StreamingCall, **options)


async def settle():
    """Let what waits go on."""
    for _ in range(3):
        await asyncio.sleep(0)
