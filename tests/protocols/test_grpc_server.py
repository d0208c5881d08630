"""What a gRPC listener makes of heads: calls of the methods that are mounted, behind its gate."""

import asyncio
import gzip

import hpack
import pytest
from fake_http2 import FakeConnection, parse_frames

from mooring.core.buffers import HeapAllocator
from mooring.core.errors import BodyMemoryFull, ModelNotFound
from mooring.core.memory import BodyMemory
from mooring.protocols.access import Gate
from mooring.protocols.grpc_server import ConnectionAge, GrpcServer, Service, StreamingMethod, UnaryMethod
from mooring.tokens import Access, Tokens
from mooring.web.grpc.calls import StreamingCall, UnaryCall
from mooring.web.grpc.headers import CallHead, parse_head
from mooring.web.grpc.responses import MESSAGE_PREFIX
from mooring.web.grpc.status import Status, StatusError

TOKENS = Tokens(fixed={Access.MANAGEMENT: b"a-management-token"})


class Methods:
    """A service, and the calls that it got."""

    def __init__(self, unary=None, streaming=None, access=Access.MANAGEMENT):
        self.calls = []
        self.stopped = 0
        self.service = Service(
            "t.T",
            {"One": UnaryMethod(access, unary or self.calls.append)},
            {"Many": StreamingMethod(Access.MANAGEMENT, streaming or self.stream)},
            self.stop,
        )

    async def stream(self, call):
        self.calls.append(call)

    def stop(self):
        self.stopped += 1


class Mounted:
    def __init__(self, methods=None, **options):
        self.methods = methods or Methods()
        self.server = GrpcServer([self.methods.service], **options)
        self.connection = FakeConnection()

    def call(self, path, message=None, *, metadata=()):
        call = self.server.start_stream(self.connection, 1, CallHead(path, metadata))
        if message is not None:
            data = MESSAGE_PREFIX.pack(0, len(message)) + message
            call.receive_content(data, 0, len(data))
            call.end_received()
        return call

    def status(self):
        ((_, data),) = self.connection.sender.sent
        found = dict(hpack.Decoder().decode(parse_frames(data)[-1][3]))
        return Status(int(found["grpc-status"])), found.get("grpc-message", "")


async def test_each_path_is_a_call_of_its_kind():
    mounted = Mounted()
    assert type(mounted.call(b"/t.T/One", b"x")) is UnaryCall
    assert type(mounted.call(b"/t.T/Many")) is StreamingCall
    await mounted.server.close()
    assert len(mounted.methods.calls) == 2


def test_a_path_that_is_not_offered_says_so_before_any_message():
    mounted = Mounted()
    mounted.call(b"/t.T/Other")
    assert mounted.status() == (Status.UNIMPLEMENTED, "method '/t.T/Other' is not offered here")


def test_a_malformed_head_is_no_call():
    assert Mounted().server.start_stream(FakeConnection(), 1, parse_head([])) is None


def test_trailers_are_told_from_heads():
    server = GrpcServer([])
    assert server.trailers_error(server.parse_head([(b"x", b"1")])) == ""
    assert server.trailers_error(server.parse_head([(b":path", b"/")]))


@pytest.mark.parametrize("path", [b"/t.T/One", b"/t.T/Many"])
async def test_the_gate_is_asked_before_any_message_comes(path):
    mounted = Mounted(gate=Gate(TOKENS))
    mounted.call(path)
    assert mounted.status()[0] is Status.UNAUTHENTICATED
    mounted = Mounted(gate=Gate(TOKENS))
    mounted.call(path, b"x", metadata=[(b"authorization", b"Bearer a-management-token")])
    await mounted.server.close()
    assert len(mounted.methods.calls) == 1


def test_what_a_call_needs_may_depend_on_its_message():
    methods = Methods(access=lambda message: Access.MANAGEMENT if message == b"set" else Access.OPEN)
    mounted = Mounted(methods, gate=Gate(TOKENS))
    mounted.call(b"/t.T/One", b"get")
    assert len(methods.calls) == 1
    mounted.call(b"/t.T/One", b"set")
    assert mounted.status()[0] is Status.UNAUTHENTICATED
    assert len(methods.calls) == 1


async def test_what_a_method_raises_is_a_status_at_once_or_later():
    def raises(call):
        raise ModelNotFound("mnist")

    async def raises_later(call):
        await asyncio.sleep(0)
        raise ModelNotFound("mnist")

    for path, methods in (
        (b"/t.T/One", Methods(unary=raises)),
        (b"/t.T/One", Methods(unary=raises_later)),
        (b"/t.T/Many", Methods(streaming=raises_later)),
    ):
        mounted = Mounted(methods)
        mounted.call(path, b"x")
        await mounted.server.close()
        assert mounted.status()[0] is Status.NOT_FOUND


async def test_a_streaming_method_that_returns_ends_its_call_with_ok():
    mounted = Mounted()
    mounted.call(b"/t.T/Many")
    await mounted.server.close()
    assert mounted.status() == (Status.OK, "")


@pytest.mark.parametrize("path", [b"/t.T/One", b"/t.T/Many"])
async def test_a_task_is_cancelled_with_its_call(path):
    cancelled = []

    async def waits(call):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    mounted = Mounted(Methods(unary=waits, streaming=waits))
    call = mounted.call(path, b"x")
    await asyncio.sleep(0)
    call.reset_received()
    await mounted.server.close()
    assert cancelled == [True]


async def test_a_call_that_is_over_at_once_leaves_no_work_behind():
    async def never(call):
        raise AssertionError("it has not begun")

    mounted = Mounted(Methods(unary=never))
    mounted.call(b"/t.T/One", b"x").reset_received()
    await mounted.server.close()
    assert mounted.connection.sender.sent == []


async def test_services_hear_that_the_server_stops():
    mounted = Mounted()
    await mounted.server.drain(1)
    assert mounted.methods.stopped == 1


def test_a_message_is_inflated_up_to_the_limit_and_counted():
    counted = []
    server = GrpcServer([], max_message_bytes=1000)
    assert server.inflate(gzip.compress(bytes(1000)), "gzip", counted.append) == bytes(1000)
    assert sum(counted) == 1000
    for data, status in (
        (gzip.compress(bytes(1001)), Status.RESOURCE_EXHAUSTED),
        (b"no gzip", Status.INVALID_ARGUMENT),
    ):
        with pytest.raises(StatusError) as raised:
            server.inflate(data, "gzip", counted.append)
        assert raised.value.status is status
    claim = HeapAllocator(BodyMemory(10)).claim()
    with pytest.raises(BodyMemoryFull):
        server.inflate(gzip.compress(bytes(1000)), "gzip", claim.grow)


@pytest.mark.parametrize(
    ("message", "request_", "limit", "key"),
    [
        (0, 0, 0, "grpc_max_message_size"),
        (10, 0, 10, "grpc_max_message_size"),
        (10, 20, 10, "grpc_max_message_size"),
        (20, 10, 10, "grpc_max_request_size"),
        (0, 10, 10, "grpc_max_request_size"),
    ],
)
def test_the_smaller_limit_holds_for_what_comes_and_is_named(message, request_, limit, key):
    server = GrpcServer([], max_message_bytes=message, max_request_bytes=request_)
    assert (server.max_request_bytes, server.max_request_key) == (limit, key)


def test_an_age_of_0_is_no_limit():
    assert ConnectionAge().limits().max_age == ConnectionAge().limits().max_age_grace == float("inf")
    assert ConnectionAge(60, 5).limits().max_age == 60
    assert ConnectionAge(60, 5).limits().max_age_grace == 5


class Forwarded:
    """A call that another process received, and what comes back of it."""

    def __init__(self, mounted, path, message=b"x", token=b""):
        self.messages, self.ends = [], []
        metadata = [(b"content-type", b"application/grpc")]
        metadata += [(b"authorization", b"Bearer " + token)] if token else []
        self.call = mounted.server.run_call(path, metadata, message, 7.0, self.messages.append, self.end)

    def end(self, status, text):
        self.ends.append((status, text))


@pytest.mark.parametrize("path", ["/t.T/One", "/t.T/Many"])
async def test_a_forwarded_call_passes_the_same_gate(path):
    mounted = Mounted(gate=Gate(TOKENS))
    assert Forwarded(mounted, path).ends[0][0] is Status.UNAUTHENTICATED
    Forwarded(mounted, path, token=b"a-management-token")
    await mounted.server.close()
    assert [call.deadline for call in mounted.methods.calls] == [7.0]


async def test_a_forwarded_call_is_answered_by_its_method():
    async def echo(call):
        call.respond([b"answer to ", await asyncio.sleep(0, call.take_message())])

    async def repeat(call):
        message = await call.read_message()
        for _ in range(2):
            await call.write_message(message)

    mounted = Mounted(Methods(echo, repeat))
    unary, stream = (Forwarded(mounted, path, b"hi") for path in ("/t.T/One", "/t.T/Many"))
    unknown = Forwarded(mounted, "/t.T/Other")
    await mounted.server.close()
    assert (unary.messages, unary.ends) == ([b"answer to hi"], [(Status.OK, "")])
    assert (stream.messages, stream.ends) == ([b"hi", b"hi"], [(Status.OK, "")])
    assert unknown.ends == [(Status.UNIMPLEMENTED, "method '/t.T/Other' is not offered here")]


async def test_a_forwarded_call_is_cancelled_with_its_method():
    ended = []

    async def wait(call):
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(call.path)

    mounted = Mounted(Methods(wait, wait))
    for path in ("/t.T/One", "/t.T/Many"):
        forwarded = Forwarded(mounted, path)
        await asyncio.sleep(0)
        forwarded.call.cancel()
        await asyncio.sleep(0.01)
        assert not forwarded.ends
    assert ended == ["/t.T/One", "/t.T/Many"]


def test_every_unary_method_is_listed_and_open_where_its_message_says_what_it_needs():
    mounted = Mounted(Methods(access=lambda _message: Access.MANAGEMENT))
    assert list(mounted.server.unary_methods) == [("t.T", "One", Access.OPEN)]
    assert list(Mounted().server.unary_methods) == [("t.T", "One", Access.MANAGEMENT)]
