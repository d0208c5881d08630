"""Models that are loaded before their workers are forked: what they share, what they calculate, what happens otherwise."""

import asyncio
import os
import signal
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from model_kit import model_spec
from worker_kit import Harness

from mooring.core.requests import Form, InferenceRequest
from mooring.core.tensors import Tensor
from mooring.repository.preloads import fork_unsafe_reason

pytestmark = pytest.mark.processes

torch = pytest.importorskip("torch")

WEIGHTS_MB = 64
INPUT = (np.arange(2 * 3 * 40 * 40, dtype=np.float32).reshape(2, 3, 40, 40) % 7) / 7

SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x):
        return x * self.weight
"""


class Net(torch.nn.Module):
    """A convolution, and a matrix large enough to be worth sharing (and two threads)."""

    def __init__(self, megabytes):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.wide = torch.nn.Linear(8 * 1600, megabytes * (1 << 18) // (8 * 1600))

    def forward(self, x):
        return self.wide(torch.relu(self.conv(x)).flatten(1))


def saved(file, megabytes):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Net(megabytes).eval(), torch.from_numpy(INPUT)).save(str(file))
    return file


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("large") / "model.pt", WEIGHTS_MB)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("small") / "model.pt", 2)


async def deploy(harness: Harness, file, name="net", workers=1, **settings):
    settings = {"backend": "pytorch", "max_batch_size": 8, "threads": 1} | settings
    spec = model_spec(
        name=name,
        version="1",
        location=str(file.parent),
        entry=file.name,
        min_workers=workers,
        max_workers=workers,
        **settings,
    )
    pool = (await harness.engine.deploy_version(spec)).pool
    while pool.ready < workers:
        await asyncio.sleep(0.005)
    return pool


def asked(harness: Harness, array, name="net"):
    future = asyncio.get_running_loop().create_future()
    request = InferenceRequest(name, "", "id", [Tensor.of("INPUT0", array)], form=Form.TENSORS)
    harness.engine.submit(request, future.set_result)
    return future


async def ask(harness: Harness, array, name="net"):
    return bytes((await asyncio.wait_for(asked(harness, array, name), 20)).outputs[0].data)


async def ask_each(harness: Harness, pool, array, name="net"):
    """What every worker answers, one after the other."""
    answers = []
    for worker in list(pool.workers):
        pool.idle = [worker]
        answers.append(await ask(harness, array, name))
    return answers


def family(pool):
    """Which process each worker was forked from."""
    found = set()
    for worker in pool.workers:
        with suppress(psutil.NoSuchProcess):  # the server has not heard of it yet
            found.add(psutil.Process(worker.process.pid).ppid())
    return found


def own_megabytes(pid):
    """What a process shares with no other."""
    fields = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(field[1]) for field in fields if field[0].startswith("Private_")) / 1024


@pytest.mark.parametrize("preload", [None, False])
async def test_a_second_worker_shares_the_weights_of_a_model_that_is_loaded_before_the_fork(
    harness, script, preload
):
    pool = await deploy(harness, script, workers=2, preload=preload)
    await ask_each(harness, pool, INPUT)
    own = [own_megabytes(worker.process.pid) for worker in pool.workers]
    # What is rearranged of a convolution, and what a call needs, is the worker's own: tens of megabytes at most.
    assert max(own) < WEIGHTS_MB if preload is None else min(own) > WEIGHTS_MB, own


@pytest.mark.timeout(120)
async def test_workers_forked_with_the_model_calculate_as_one_that_loaded_it_itself(harness, small, long_run):
    alone = await deploy(harness, small, name="alone", preload=False, threads=2)
    answers = set(await ask_each(harness, alone, INPUT, "alone"))
    for round_ in range(4 if long_run else 1):
        name = f"net{round_}"
        pool = await deploy(harness, small, name=name, workers=25, threads=2)
        answers |= set(await ask_each(harness, pool, INPUT, name))
        await harness.engine.retire_version(name)
    assert len(answers) == 1


async def test_workers_forked_with_a_session_of_onnx_runtime_calculate_the_same(harness, tmp_path, long_run):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    weights = onnx.numpy_helper.from_array(np.random.default_rng(1).random((300, 300), np.float32), "w")
    value = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 300]) for name in ("x", "y")]
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weights]
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / "model.onnx"))
    x = np.ones((2, 300), np.float32)
    answers = set()
    rounds = [(f"m{round_}", 25, None) for round_ in range(4 if long_run else 1)]
    for name, workers, preload in [("alone", 1, False), *rounds]:
        pool = await deploy(
            harness, tmp_path / "model.onnx", name=name, workers=workers, backend="onnx", preload=preload
        )
        for worker in list(pool.workers):
            pool.idle = [worker]
            request = InferenceRequest(name, "", "id", [Tensor.of("x", x)], form=Form.TENSORS)
            future = asyncio.get_running_loop().create_future()
            harness.engine.submit(request, future.set_result)
            answers.add(bytes((await asyncio.wait_for(future, 20)).outputs[0].data))
        await harness.engine.retire_version(name)
    assert len(answers) == 1


@pytest.mark.parametrize("preload", [None, False])
async def test_a_worker_calculates_with_as_many_threads_as_it_was_given(harness, script, preload):
    counts = []
    for threads in (1, 2):
        pool = await deploy(harness, script, name=f"t{threads}", threads=threads, preload=preload)
        await ask(harness, INPUT, f"t{threads}")
        counts.append(psutil.Process(pool.workers[0].process.pid).num_threads())
    assert counts[1] > counts[0] == 2  # the other one is the flush thread


@pytest.mark.parametrize(
    "trouble",
    [
        "import threading, time; threading.Thread(target=time.sleep, args=(30,), daemon=True).start()",
        "import os, pathlib; mark = pathlib.Path(__file__ + '.ran')\nif not mark.exists(): mark.touch(); os._exit(3)",
        "import os, pathlib; mark = pathlib.Path(__file__ + '.ran')\nif not mark.exists(): mark.touch(); raise KeyError(3)",
    ],
    ids=["threads", "death", "failure"],
)
async def test_a_model_that_cannot_be_forked_is_loaded_by_each_worker(harness, tmp_path, capfd, trouble):
    (tmp_path / "net.py").write_text(SOURCE + trouble)
    torch.save({"weight": torch.tensor([1.0, 2.0, 3.0])}, tmp_path / "model.pth")
    pool = await deploy(
        harness, tmp_path / "model.pth", workers=2, preload=True, parameters={"module": "net.py:Net"}
    )
    for answer in await ask_each(harness, pool, np.ones((1, 3), np.float32)):
        assert np.frombuffer(answer, np.float32).tolist() == [1.0, 2.0, 3.0]


async def test_a_replacement_comes_from_the_process_that_has_the_model(harness, small):
    pool = await deploy(harness, small)
    before, (parent,) = pool.workers[0].process.pid, family(pool)
    small.rename(small.with_suffix(".away"))  # nobody reads it again
    try:
        os.kill(before, signal.SIGKILL)
        await ask(harness, INPUT)
    finally:
        small.with_suffix(".away").rename(small)
    assert pool.workers[0].process.pid != before
    assert family(pool) == {parent}


async def test_a_killed_template_with_the_model_is_replaced(harness, small):
    pool = await deploy(harness, small, workers=2)
    (parent,) = family(pool)
    right = await ask(harness, INPUT)
    os.kill(parent, signal.SIGKILL)
    assert await ask(harness, INPUT) == right
    end = time.monotonic() + 10
    while pool.ready < 2 or parent in family(pool):
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


async def test_a_model_that_is_unloaded_leaves_no_process_behind(harness, small):
    pool = await deploy(harness, small, workers=2)
    (parent,) = family(pool)
    pids = [parent, *(worker.process.pid for worker in pool.workers)]
    await harness.engine.retire_version("net")
    end = time.monotonic() + 10
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_request_is_accounted_for_when_a_worker_is_killed_under_load(harness, small, workers):
    pool = await deploy(harness, small, workers=workers)
    right = await ask(harness, INPUT)
    futures = [asked(harness, INPUT) for _ in range(90)]
    await asyncio.wait(futures[:8])
    os.kill(pool.workers[0].process.pid, signal.SIGKILL)
    outcomes = await asyncio.wait_for(asyncio.gather(*futures), 30)
    assert len(outcomes) == 90
    for outcome in outcomes:
        # The size of the batch decides how a sum is taken, and so its last digits.
        found = np.frombuffer(bytes(outcome.outputs[0].data), np.float32)
        assert np.allclose(found, np.frombuffer(right, np.float32), atol=1e-5)
    assert harness.arena.slots_in_use == 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"backend": "pytorch"}, ""),
        ({"backend": "pytorch", "preload": False}, "preload = false"),
        ({"backend": "pytorch", "parameters": {"module": "a.py:Net"}}, "preload = true"),
        ({"backend": "pytorch", "parameters": {"module": "a.py:Net"}, "preload": True}, ""),
        ({"backend": "handler", "preload": True}, "the user's own"),
        ({"backend": "onnx"}, "threads"),
    ],
)
def test_which_models_are_loaded_before_the_fork(settings, reason):
    spec = model_spec(name="m", version="1", location="", **settings)
    found = fork_unsafe_reason(spec, threads=2)
    assert (reason in found) if reason else not found


def test_onnx_runtime_with_one_thread_starts_none():
    assert not fork_unsafe_reason(model_spec(name="m", version="1", location="", backend="onnx"), threads=1)
