"""A real listener, blocking sockets against it, and an allocator that counts."""

import asyncio
import json
import socket
import time

from mooring.core.buffers import Buffer, Slot
from mooring.core.memory import BodyMemory, Claim
from mooring.web.http1 import HttpServer, Limits, header_lines


class CountingAllocator:
    """Every buffer is its own memory, which is spoiled on release: what is used after it shows."""

    def __init__(self, memory=None):
        self.live = {}
        self.given = 0
        self.memory = memory or BodyMemory()

    def allocate(self, size):
        self.given += 1
        memory = bytearray(size)
        self.live[self.given] = memory
        return Buffer(memoryview(memory), Slot(self.given, 0, size), self._take_back)

    expect = allocate

    def claim(self):
        return Claim(self.memory)

    def _take_back(self, slot):
        memory = self.live.pop(slot.arena)  # a second release would be a KeyError
        memory[:] = b"\xdd" * len(memory)


def triple(status, kind, message, target, origin):
    """TorchServe's words for a refusal."""
    body = json.dumps({"code": status, "type": kind, "message": message}).encode()
    return body, header_lines([("content-type", "application/json")])


def hello(exchange):
    exchange.respond(200, b"hello", b"content-type: text/plain\r\n")


def echo(exchange):
    exchange.respond(200, exchange.take_body())


class Response:
    def __init__(self, status, reason, headers, body):
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body


class Client:
    """One connection, as raw as it gets."""

    def __init__(self, sock):
        self.sock = sock
        self.pending = b""

    def send(self, data):
        self.sock.sendall(data)
        return self

    def read_until(self, mark):
        while mark not in self.pending:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(self.pending)
            self.pending += data
        found, _, self.pending = self.pending.partition(mark)
        return found + mark

    def read_exactly(self, size):
        while len(self.pending) < size:
            data = self.sock.recv(1 << 20)
            if not data:
                raise EOFError(self.pending)
            self.pending += data
        found, self.pending = self.pending[:size], self.pending[size:]
        return found

    def read_all(self):
        """Everything until the server ends the connection."""
        while data := self.sock.recv(1 << 20):
            self.pending += data
        found, self.pending = self.pending, b""
        return found

    def response(self, *, bodiless=False):
        first, *lines = self.read_until(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines)
        body = b""
        if not bodiless and "content-length" in headers:
            body = self.read_exactly(int(headers["content-length"]))
        elif not bodiless and "transfer-encoding" in headers:
            while size := int(self.read_until(b"\r\n"), 16):
                body += self.read_exactly(size)
                assert self.read_exactly(2) == b"\r\n"
            assert self.read_exactly(2) == b"\r\n"
        return Response(int(status), reason, headers, body)

    def ask(self, data, **options):
        return self.send(data).response(**options)

    def ended(self):
        """Whether the server ended the connection, with nothing more to read."""
        try:
            return self.pending == b"" and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def finish_sending(self):
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def close(self):
        self.sock.close()


class Served:
    """A listener that runs."""

    def __init__(
        self,
        loop,
        app,
        *,
        tls=None,
        plain=None,
        path=None,
        admission_check=None,
        root=b"",
        migratable=False,
        **limits,
    ):
        self.loop = loop
        self.allocator = CountingAllocator()
        self.seen = []
        self.clients = []
        self.app = app
        self.server = HttpServer(
            self._app,
            limits=Limits(**limits),
            allocator=self.allocator,
            render_error=triple,
            admission_check=admission_check,
            tls=tls,
            plain=plain,
            root=root,
            migratable=migratable,
        )
        self.run(self.server.start("127.0.0.1", 0) if path is None else self.server.start_unix(path))

    def _app(self, exchange):
        self.seen.append(exchange)
        self.app(exchange)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def soon(self, function, *args):
        """Run something on the server's loop and return what it gives."""

        async def call():
            return function(*args)

        return self.run(call())

    def connect(self, *, receive=None):
        sock = socket.socket()
        if receive is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        sock.settimeout(10)
        self.clients.append(Client(sock))
        sock.connect(("127.0.0.1", self.server.port))
        return self.clients[-1]

    @property
    def connections(self):
        return len(self.server._connections)


def eventually(condition, seconds=5.0):
    """Wait for something that another thread brings about."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.005)
