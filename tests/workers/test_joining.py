"""The trial of a model file beside its workers: when it is made, what all workers are told, and what bounds it."""

import asyncio

import numpy as np
import onnx
import pytest
from model_kit import model_spec
from onnx import TensorProto as Kind
from onnx import helper

from mooring.core.requests import Form, InferenceRequest
from mooring.core.service import JoiningState
from mooring.core.tensors import Tensor
from mooring.ipc.messages import EnableJoining
from mooring.workers import local

pytestmark = pytest.mark.processes


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "m.onnx", helper.make_node("Neg", ["x"], ["y"]))


def write(file, *nodes):
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [tensor("x", Kind.FLOAT, ["N", 2])], [tensor("y", Kind.FLOAT, ["N", 2])]
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), file)
    return file


async def deploy(harness, file, workers=1):
    spec = model_spec(
        name="m",
        version="1",
        backend="onnx",
        location=str(file),
        max_batch_size=8,
        size_by_default=True,
        min_workers=workers,
        max_workers=workers,
        threads=2,
    )
    return (await harness.engine.deploy_version(spec)).pool


async def ask(harness, count):
    """So many requests in one turn of the event loop, with a row each."""
    answers = [asyncio.get_running_loop().create_future() for _ in range(count)]
    for number, answer in enumerate(answers):
        row = Tensor.of("x", np.full((1, 2), number, np.float32))
        harness.engine.submit(InferenceRequest("m", "", "id", [row], form=Form.TENSORS), answer.set_result)
    found = [(await asyncio.wait_for(answer, 20)).outputs[0].array() for answer in answers]
    assert [each.tolist() for each in found] == [[[-number, -number]] for number in range(count)]


async def settled(pool):
    async with asyncio.timeout(30):
        while pool.joining.state in (JoiningState.UNTRIED, JoiningState.TRYING):
            await asyncio.sleep(0.02)
    return pool.joining


async def test_a_client_that_is_alone_causes_no_trial(harness, file):
    pool = await deploy(harness, file)
    for _ in range(3):
        await ask(harness, 1)
    assert pool.joining.state is JoiningState.UNTRIED


async def test_requests_at_once_cause_one_and_later_workers_are_told(harness, file):
    pool = await deploy(harness, file)
    await ask(harness, 4)
    assert (await settled(pool)).state is JoiningState.SHOWN
    sent = []
    send_message = type(pool.workers[0]).send_message
    pool.start(2)
    async with asyncio.timeout(20):
        while pool.ready < 2:
            for worker in pool.workers[1:]:
                worker.send_message = lambda message, worker=worker: (
                    sent.append(message),
                    send_message(worker, message),
                )
            await asyncio.sleep(0.005)
    await ask(harness, 8)
    assert [message for message in sent if isinstance(message, EnableJoining)] == [EnableJoining()]


async def test_a_trial_that_takes_too_long_is_ended_and_says_so(harness, file, monkeypatch):
    monkeypatch.setattr(local, "_TRIAL", 0.0)
    pool = await deploy(harness, file)
    await ask(harness, 4)
    found = await settled(pool)
    assert found.state is JoiningState.APART
    assert "the trial took longer than 0 s; set max_batch_size" in found.reason
    await ask(harness, 4)


async def test_a_model_may_be_unloaded_in_the_middle_of_its_trial(harness, file):
    pool = await deploy(harness, file)
    await ask(harness, 4)
    assert pool.joining.state is JoiningState.TRYING
    await harness.engine.retire_version("m")
    assert not pool.workers


async def test_what_a_trial_found_holds_for_no_other_file_of_the_same_name(harness, file):
    pool = await deploy(harness, file)
    await ask(harness, 4)
    assert (await settled(pool)).state is JoiningState.SHOWN
    mean = helper.make_node("ReduceMean", ["x"], ["m"], axes=[0])
    write(file, mean, helper.make_node("Sub", ["m", "x"], ["y"]))
    pool.workers[0].process.kill()
    async with asyncio.timeout(20):
        while pool.joining.state is JoiningState.SHOWN or not pool.ready:
            await asyncio.sleep(0.02)
    assert pool.joining.state is JoiningState.UNTRIED
    pool.workers[0].process.kill()  # the same file again
    async with asyncio.timeout(20):
        while pool.ready:
            await asyncio.sleep(0.02)
        while not pool.ready:
            await asyncio.sleep(0.02)
    assert pool.joining.state is JoiningState.UNTRIED
