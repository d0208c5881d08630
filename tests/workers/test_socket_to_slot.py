"""The spike that the design rests on: from a socket's buffer through a slot of the arena to a worker that is killed.

The server alone owns the slots, so a worker that dies in the middle of one cannot lose it, nor spoil the next request.
"""

import asyncio
import random

import psutil
import pytest

from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor
from mooring.web.http1 import HttpServer, Limits

pytestmark = pytest.mark.processes

ROUNDS = 100
LONG_ROUNDS = 1000


class Front:
    """The smallest protocol there can be: the path says what to do, the body goes there and back."""

    def __init__(self, engine):
        self.engine = engine

    def __call__(self, exchange):
        def done(outcome):
            if isinstance(outcome, InferenceResponse):
                exchange.respond(200, outcome.outputs[0].data[0])
            else:
                exchange.respond(500, type(outcome).__name__.encode())

        do = exchange.target.decode().strip("/")
        body = Tensor("body", "BYTES", [1], [exchange.take_body()])
        request = InferenceRequest("echo", "", "", [body], form=Form.BODY, parameters={"do": do})
        exchange.on_abandoned = self.engine.submit(request, done).cancel


class Client:
    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    async def ask(self, do, body):
        self.writer.write(
            b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (do, len(body)) + body
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head.split()[1], await self.reader.readexactly(length)


async def started(worker):
    while worker.state.name != "BUSY" or worker.process.progress.started(0) != 1:
        await asyncio.sleep(0.001)


@pytest.mark.timeout(300)
async def test_hundreds_of_workers_killed_in_the_middle_of_a_slot_leak_nothing_and_corrupt_nothing(
    harness, long_run
):
    await harness.load(retry=False)
    refuse = lambda *refusal: (refusal[2].encode(), b"")  # noqa: E731
    server = HttpServer(Front(harness.engine), limits=Limits(), allocator=harness.arena, render_error=refuse)
    await server.start("127.0.0.1", 0)
    client = Client(*await asyncio.open_connection("127.0.0.1", server.port))
    rng = random.Random(7)
    descriptors = psutil.Process().num_fds()
    pool = harness.engine.registry.find_version("echo").pool
    for round_ in range(LONG_ROUNDS if long_run else ROUNDS):
        body = bytes([round_ % 251]) * (100_000 + rng.randrange(200_000))
        victim = asyncio.create_task(client.ask(b"copy_for_ever", body))
        while not pool.workers:
            await asyncio.sleep(0.001)
        worker = pool.workers[0]
        await started(worker)
        await asyncio.sleep(rng.random() * 0.003)
        worker.process.kill()
        assert await victim == (b"500", b"WorkerDied")
        assert await client.ask(b"echo", body) == (b"200", body)
        assert harness.arena.slots_in_use == 0
    assert psutil.Process().num_fds() <= descriptors + 8
    client.writer.close()
    await client.writer.wait_closed()
    await server.close()
