"""Which libraries may be imported before a fork: 25 workers from one template, and every one calculates (``--long``: 100).

The outcome is written down in docs/decisions/0004-fork-or-spawn.md; a library that fails here must be spawned.
"""

import asyncio
import importlib.util
import json

import pytest
from worker_kit import body_of

from mooring.workers import spawner

pytestmark = pytest.mark.processes

WORKERS_A_ROUND = 25
ROUNDS = 1
LONG_ROUNDS = 4


@pytest.mark.timeout(240)
@pytest.mark.parametrize("library", ["torch", "captum", "onnxruntime"])
async def test_forked_workers_calculate_the_same(harness, monkeypatch, library, long_run):
    modules = {"captum": ["torch", "captum.attr"], "onnxruntime": ["onnxruntime", "onnx"]}.get(
        library, [library]
    )
    for module in modules:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            pytest.skip(f"{module} is not installed")
    monkeypatch.setattr(spawner, "preload", lambda spec: (*modules, "library_backend"))
    answers = set()
    for round_ in range(LONG_ROUNDS if long_run else ROUNDS):
        name = f"{library}{round_}"
        await harness.load(
            name,
            backend="library_backend:LibraryBackend",
            parameters={"library": library},
            min_workers=WORKERS_A_ROUND,
            max_workers=WORKERS_A_ROUND,
            threads=2,
        )
        workers = harness.engine.registry.find_version(name).pool
        for _ in range(2000):
            if workers.ready == WORKERS_A_ROUND:
                break
            await asyncio.sleep(0.01)
        assert workers.ready == WORKERS_A_ROUND
        for worker in list(workers.workers):
            workers.idle = [worker]  # every one of them in turn, not whoever is quickest
            answers.add(body_of(await harness.ask(model=name)))
        await harness.engine.retire_version(name)
    assert len(answers) == 1, json.dumps([answer.decode() for answer in answers])
