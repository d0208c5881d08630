"""A real engine with real worker processes, over the test backend."""

import asyncio
from pathlib import Path

from model_kit import model_spec

from mooring.core.requests import Form, InferenceRequest
from mooring.core.tensors import Tensor
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics


class Harness:
    def __init__(self, **settings):
        self.arena = Arena(64 << 20)
        self.engine = Engine(self.arena, Metrics(), **settings)

    async def load(self, name="echo", **settings):
        settings = {"backend": "echo_backend:EchoBackend"} | settings
        settings = {"version": "1.0"} | settings
        spec = model_spec(name=name, location=str(Path(__file__).parent), **settings)
        return await self.engine.deploy_version(spec)

    def request(self, body=b"x", *, model="echo", rows=None, **parameters):
        form = Form.BODY if rows is None else Form.INSTANCES
        if len(body) > 65536:
            buffer = self.arena.allocate(len(body))
            buffer.view[:] = body
            body = buffer
        data = [body] if rows is None else rows
        deadline = parameters.pop("deadline", None)
        headers = parameters.pop("headers", None)
        return InferenceRequest(
            model,
            "",
            "id",
            [Tensor("body", "BYTES", [len(data)], data)],
            form=form,
            parameters=parameters or None,
            deadline=deadline,
            headers=headers,
        )

    def submit(self, *args, **kwargs):
        """The outcome as a future, and the pieces that came before it."""
        future = asyncio.get_running_loop().create_future()
        future.pieces = []

        def done(outcome):
            if getattr(outcome, "final", True):
                future.set_result(outcome)
            else:
                future.pieces.append(outcome)

        future.ticket = self.engine.submit(self.request(*args, **kwargs), done)
        return future

    async def ask(self, *args, **kwargs):
        return await asyncio.wait_for(self.submit(*args, **kwargs), 20)

    def worker(self, name="echo", index=0):
        return self.engine.registry.find_version(name).pool.workers[index]


def body_of(outcome):
    payload = outcome.outputs[0].data[0]
    if isinstance(payload, bytes):
        return payload
    data = bytes(payload.view)
    payload.release()
    return data
