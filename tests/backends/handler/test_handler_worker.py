"""A handler in a worker process of its own, asked through the engine."""

import asyncio

import pytest
from model_kit import model_spec

from mooring.core.errors import ModelFailed
from mooring.core.requests import Form, InferenceRequest
from mooring.core.tensors import Tensor
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics

HANDLER = """
import sys
from ts.handler_utils.utils import send_intermediate_predict_response
class H:
    def handle(self, data, context):
        rows = [row["body"] for row in data]
        if rows[0] == bytearray(b"stream"):
            send_intermediate_predict_response(["piece "], context.request_ids, "", 200, context)
        if bytearray(b"die") in rows:
            sys.exit(1)
        return [len(row) / (row != bytearray(b"bad")) for row in rows]
"""


class Asked:
    """The outcome of a request, and the pieces that came before it."""

    def __init__(self, engine, payload):
        self.pieces = []
        self.outcome = asyncio.get_running_loop().create_future()
        inputs = [Tensor("body", "BYTES", [1], [payload], {"content_type": ""})]
        engine.submit(InferenceRequest("h", "", "id", inputs, form=Form.BODY), self.done)

    def done(self, outcome):
        if getattr(outcome, "final", True):
            self.outcome.set_result(outcome)
        else:
            self.pieces.append(bytes(outcome.outputs[0].data[0]))

    async def body(self):
        outcome = await asyncio.wait_for(self.outcome, 30)
        if isinstance(outcome, Exception):
            raise outcome
        return bytes(outcome.outputs[0].data[0])


@pytest.fixture
async def engine():
    arena = Arena(16 << 20)
    engine = Engine(arena, Metrics())
    yield engine
    await engine.close()


async def load(engine, folder, source=HANDLER, **settings):
    (folder / "handler.py").write_text(source)
    spec = model_spec(
        name="h", version="1.0", backend="handler", location=str(folder), entry="handler.py", **settings
    )
    await engine.deploy_version(spec)


async def test_a_batch_with_one_bad_row_answers_the_others(engine, tmp_path):
    await load(engine, tmp_path, max_batch_size=8, max_delay=0.05, exact_delay=True)
    asked = [Asked(engine, payload) for payload in (b"x", b"bad", b"xyz")]
    assert await asked[0].body() == b"1.0"
    with pytest.raises(ModelFailed, match="ZeroDivisionError"):
        await asked[1].body()
    assert await asked[2].body() == b"3.0"


async def test_pieces_come_before_the_answer(engine, tmp_path):
    await load(engine, tmp_path)
    asked = Asked(engine, b"stream")
    assert await asked.body() == b"6.0"
    assert asked.pieces == [b"piece "]


async def test_a_handler_that_does_not_load_says_why(engine, tmp_path):
    await load(engine, tmp_path, "raise RuntimeError('no weights here')\n")
    error = engine.registry.find_version("h").error
    assert error.message == "RuntimeError: no weights here"
    assert "handler.py" in error.detail
