"""A gRPC server with a few methods, and a client that says what it is told, frame by frame."""

import asyncio
import struct
from collections import defaultdict
from contextlib import asynccontextmanager, suppress

import hpack
from hyperframe.frame import Frame
from web_client import CountingAllocator

from mooring.protocols.grpc_messages import copy_bytes
from mooring.protocols.grpc_server import GrpcServer, Service, StreamingMethod, UnaryMethod
from mooring.tokens import Access
from mooring.web.grpc.status import Status, StatusError
from mooring.web.http2 import frames
from mooring.web.http2.context import Http2Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = [
    (":method", "POST"), (":scheme", "http"), (":path", "/t.T/Echo"), (":authority", "x"), ("te", "trailers"),
    ("content-type", "application/grpc"),
]  # fmt: skip


class Methods:
    """What the server does. ``held`` are calls that nobody has answered."""

    def __init__(self):
        self.held = []
        self.cancelled = 0
        self.written = 0
        self.read = []
        self.metadata = []

    def service(self):
        names = ("echo", "hold", "fail", "refuse", "tell")
        unary = {name.capitalize(): UnaryMethod(Access.OPEN, getattr(self, name)) for name in names}
        streaming = {
            "Chat": StreamingMethod(Access.OPEN, self.chat),
            "Pour": StreamingMethod(Access.OPEN, self.pour),
        }
        return Service("t.T", unary, streaming)

    def echo(self, call):
        message = call.take_message()
        if isinstance(message, bytes):
            call.respond([message])
        else:
            call.respond([message.view], message.release)

    def hold(self, call):
        self.held.append((call, copy_bytes(call.take_message())))
        call.on_cancelled = self.cancel

    def cancel(self):
        self.cancelled += 1

    def fail(self, call):
        raise ZeroDivisionError

    def refuse(self, call):
        raise StatusError(Status.NOT_FOUND, "50 % of Ü\n")

    def tell(self, call):
        call.take_message()
        parts = [call.header(b"x-bin") or b"none", b"|", call.header(b"x-text") or b"none"]
        call.respond(parts)

    async def chat(self, call):
        while (message := await call.read_message()) is not None:
            self.read.append(len(message))
            await call.write_message(copy_bytes(message))

    async def pour(self, call):
        await call.read_message()
        try:
            while True:
                await call.write_message(bytes(100_000))
                self.written += 1
        finally:
            self.cancelled += 1


class Wire:
    """One connection, spoken by hand."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.seen = defaultdict(list)  # stream -> frames

    def send(self, *parts):
        self.writer.write(b"".join(parts))

    def block(self, path="/t.T/Echo", **changes):
        """A head; a value of None leaves the field out, and other names are added."""
        changed = {":path": path} | {name.replace("_", "-"): value for name, value in changes.items()}
        head = {**dict(HEAD), **changed}
        ordered = sorted(head.items(), key=lambda item: not item[0].startswith(":"))
        return self.encoder.encode([(name, value) for name, value in ordered if value is not None])

    def call(self, number, message=b"", path="/t.T/Echo", *, end=True, **head):
        """A head, and a message where there is one."""
        self.send(frames.pack_frame(frames.HEADERS, frames.END_HEADERS, number, self.block(path, **head)))
        if message is not None:
            self.data(number, packed(message), end=end)

    def data(self, number, content, *, end=False):
        self.send(frames.pack_frame(frames.DATA, frames.END_STREAM if end else 0, number, content))

    async def frame(self):
        """The next frame; None at the connection's end."""
        try:
            head = await asyncio.wait_for(self.reader.readexactly(9), 10)
            frame, size = Frame.parse_frame_header(memoryview(head))
            frame.parse_body(memoryview(await asyncio.wait_for(self.reader.readexactly(size), 10)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self.seen[frame.stream_id].append(frame)
        return frame

    async def until(self, name, number=None):
        """The next frame of a kind, on a stream if one is named."""
        while (frame := await self.frame()) is not None:
            if type(frame).__name__ == f"{name}Frame" and number in (None, frame.stream_id):
                return frame
        raise AssertionError(f"the connection ended without {name}: {dict(self.seen)}")

    async def answer(self, number):
        """The fields and the content of a whole answer, or the code that ended it."""
        fields, content = {}, b""
        while (frame := await self.frame()) is not None:
            kind = type(frame).__name__
            if kind == "HeadersFrame":
                decoded = dict(self.decoder.decode(frame.data))
                if frame.stream_id == number:
                    fields |= decoded
            if frame.stream_id != number:
                continue
            if kind == "DataFrame":
                content += frame.data
            elif kind == "RstStreamFrame":
                return frame.error_code
            if "END_STREAM" in frame.flags:
                return fields, content
        raise AssertionError("the connection ended")

    async def alive(self):
        """Whether a ping is answered."""
        self.send(frames.pack_frame(frames.PING, 0, 0, b"areyouok"))
        while (frame := await self.until("Ping")).opaque_data != b"areyouok" or "ACK" not in frame.flags:
            pass
        return True

    async def gone(self):
        """The code of the goodbye, once the connection has ended."""
        code = None
        while (frame := await self.frame()) is not None:
            if type(frame).__name__ == "GoAwayFrame":
                code = frame.error_code
        self.writer.close()
        return code


class Served:
    """A server for one test."""

    def __init__(self, **limits):
        certificates = limits.pop("certificates", None)
        self.methods = Methods()
        self.allocator = CountingAllocator()
        most = limits.pop("max_message_bytes", 0)
        self.server = GrpcServer(
            [self.methods.service()],
            allocator=self.allocator,
            max_message_bytes=most,
            tls=certificates.current_rpc if certificates is not None else None,
        )
        self.server.http2 = Http2Limits(**limits)
        self.writers = []

    async def wire(self, *, begin=True, settings=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        self.writers.append(writer)
        wire = Wire(reader, writer)
        if begin:
            wire.send(PREFACE, frames.pack_frame(frames.SETTINGS, 0, 0, settings))
        return wire


@asynccontextmanager
async def served(**limits):
    """At the end nothing may be left of connections, tasks or memory."""
    each = Served(**limits)
    await each.server.start("127.0.0.1", 0)
    try:
        yield each
    finally:
        await each.server.close()
        for writer in each.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        assert not each.allocator.live


def packed(message, flag=0):
    return struct.pack(">BI", flag, len(message)) + message


def setting(number, value):
    return struct.pack(">HI", number, value)


async def until(condition, limit=10):
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)
