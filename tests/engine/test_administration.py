"""Loading and unloading while the server runs: over a real engine with real workers."""

import asyncio
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from model_kit import defaults, model_spec

from mooring.config.settings import Config
from mooring.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelLoadFailed,
    ModelNotFound,
    MooringError,
    QueueFull,
    VersionNotFound,
)
from mooring.core.requests import Form, InferenceRequest
from mooring.core.tensors import Tensor
from mooring.engine.administration import Administration
from mooring.engine.engine import Engine
from mooring.engine.lifecycle import State
from mooring.engine.registry import Unavailable
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics
from mooring.repository.catalog import Catalog
from mooring.repository.store import Store
from mooring.workers.capacity import Capacity

pytestmark = pytest.mark.processes

SAY = (
    "def infer(inputs, parameters):\n    return {{'said': {text!r}, 'p': str(sorted(parameters.items()))}}\n"
)


class Harness:
    def __init__(self, folder):
        self.repository = folder / "repository"
        for name in ("repository", "archives", "files"):
            (folder / name).mkdir()
        self.arena = Arena(16 << 20)
        metrics = Metrics()
        self.engine = Engine(self.arena, metrics, drain_limit=5.0)
        config = Config(model_repository=(self.repository,))
        catalog = Catalog(Store(folder / "archives"), config, folder / "files", defaults())
        self.files = folder / "files"
        self.changes = []
        self.administration = Administration(
            self.engine, catalog, metrics, on_change=lambda: self.changes.append(1)
        )

    def write(self, name, source, version="1"):
        folder = self.repository / name / version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text(source)

    async def ask(self, model, version="", number=1, **fields):
        future = asyncio.get_running_loop().create_future()
        body = Tensor("body", "BYTES", [1], [b'{"x":%d}' % number], {"content_type": "application/json"})
        self.engine.submit(
            InferenceRequest(model, version, "", [body], form=Form.BODY, **fields), future.set_result
        )
        outcome = await asyncio.wait_for(future, 10)
        return outcome if isinstance(outcome, Exception) else bytes(outcome.outputs[0].data[0])


@pytest.fixture
async def harness(tmp_path):
    harness = Harness(tmp_path)
    yield harness
    await harness.engine.close()


async def test_a_loaded_model_answers_and_an_unloaded_one_is_gone(harness):
    harness.write("talker", SAY.format(text="one"))
    assert [(state.name, state.state) for state in harness.administration.index()] == [
        ("talker", "UNAVAILABLE")
    ]
    await harness.administration.load("talker")
    assert b"one" in await harness.ask("talker")
    assert [(state.name, state.ready) for state in harness.administration.index()] == [("talker", True)]
    await harness.administration.unload("talker")
    assert isinstance(await harness.ask("talker"), ModelNotFound)
    assert [(state.name, state.state) for state in harness.administration.index()] == [
        ("talker", "UNAVAILABLE")
    ]


async def test_loading_again_replaces_the_model_without_a_gap(harness):
    harness.write("talker", SAY.format(text="one"))
    await harness.administration.load("talker")
    harness.write("talker", SAY.format(text="two"))
    answers = []

    async def keep_asking():
        while b"two" not in (answers or [b""])[-1]:
            answers.append(await harness.ask("talker"))

    asking = asyncio.create_task(keep_asking())
    await harness.administration.load("talker")
    await asyncio.wait_for(asking, 10)
    assert all(isinstance(answer, bytes) for answer in answers)


async def test_what_waits_when_a_model_is_unloaded_is_still_answered(harness):
    harness.write("slow", "import time\ndef infer(inputs):\n    time.sleep(0.1)\n    return {'y': 1}\n")
    await harness.administration.load("slow")
    asked = [asyncio.create_task(harness.ask("slow")) for _ in range(4)]
    await asyncio.sleep(0.02)
    await harness.administration.unload("slow")
    assert await asyncio.gather(*asked) == [b'{"y":1}'] * 4


async def test_deadlines_hold_while_a_model_is_unloaded(harness):
    harness.write("slow", "import time\ndef infer(inputs):\n    time.sleep(1)\n    return {'y': 1}\n")
    await harness.administration.load("slow")
    began = time.monotonic()
    first = asyncio.create_task(harness.ask("slow"))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(harness.ask("slow", deadline=began + 0.1))
    unloading = asyncio.create_task(harness.administration.unload("slow"))
    assert isinstance(await second, DeadlineExceeded)
    assert time.monotonic() - began < 0.8
    assert await first == b'{"y":1}'
    await unloading


async def test_a_new_version_that_does_not_load_leaves_the_old_one_serving(harness):
    harness.write("talker", SAY.format(text="one"))
    await harness.administration.load("talker")
    harness.write("talker", "raise RuntimeError('broken release')")
    with pytest.raises(ModelLoadFailed, match="broken release"):
        await harness.administration.load("talker")
    assert b"one" in await harness.ask("talker")
    assert harness.engine.ready("talker")


async def test_a_load_that_fails_leaves_nothing_behind(harness):
    harness.write("broken", "raise RuntimeError('no')")
    with pytest.raises(ModelLoadFailed, match="no"):
        await harness.administration.load("broken")
    assert harness.engine.models() == []
    assert harness.engine.ready()


async def test_more_workers_than_the_machine_bears_are_refused_with_the_bound_and_its_reason(harness):
    harness.engine._capacity = Capacity(6, "3 for each core")
    harness.write("talker", SAY.format(text="one"))
    await harness.administration.load("talker")
    bound = r"room for 6 \(3 for each core\)"
    with pytest.raises(InvalidInput, match=f"100000 workers are too many.*{bound}"):
        await harness.administration.scale("talker", least=100_000, most=100_000)
    assert len((await harness.administration.describe("talker"))[0].workers) == 1
    assert (await harness.administration.scale("talker", least=4, most=4)).done
    harness.write("other", SAY.format(text="two"))
    (harness.repository / "other" / "config.toml").write_text("[workers]\nmin = 3\nmax = 3\n")
    with pytest.raises(ModelLoadFailed, match=f"3 workers beside 4 of other models are too many.*{bound}"):
        await harness.administration.load("other")
    assert b"one" in await harness.ask("talker")


async def test_at_the_start_a_model_of_too_many_workers_is_failed_and_the_others_are_served(harness):
    harness.engine._capacity = Capacity(6, "3 for each core")
    common = {"version": "1", "backend": "builtin", "location": "", "entry": "echo"}
    greedy = model_spec(name="greedy", min_workers=7, max_workers=7, **common)
    version = await harness.engine.deploy_version(greedy, at_startup=True)
    assert version.state is State.FAILED
    assert "7 workers are too many" in (await harness.administration.describe("greedy"))[0].reason
    assert not (await harness.administration.describe("greedy"))[0].workers
    assert (await harness.engine.deploy_version(model_spec(name="modest", **common), at_startup=True)).ready


async def test_what_is_unloaded_while_it_gets_workers_is_not_found_and_keeps_none(harness):
    harness.write("slow", "import time\ntime.sleep(0.5)\ndef infer(inputs):\n    return {'y': 1}\n")
    await harness.administration.load("slow")
    version = harness.engine.registry.find_version("slow")
    scaling = asyncio.create_task(harness.administration.scale("slow", least=3, most=3))
    await asyncio.sleep(0.1)
    await harness.administration.unload("slow")
    with pytest.raises(ModelNotFound, match="unloaded meanwhile"):
        await scaling
    with pytest.raises(ModelNotFound, match="unloaded meanwhile"):
        await harness.engine.resize_workers(version, 2, 2)
    assert not version.pool.wanted


async def test_what_is_not_there_cannot_be_loaded_or_unloaded(harness):
    harness.write("talker", SAY.format(text="one"))
    for change in (
        harness.administration.load("nobody"),
        harness.administration.load("talker", "9"),
        harness.administration.unload("talker"),
        harness.administration.unload_worker("cplusplus"),
    ):
        with pytest.raises(ModelNotFound):
            await change
    await harness.administration.load("talker")
    with pytest.raises(VersionNotFound):
        await harness.administration.unload("talker", "9")


async def test_a_caller_may_override_the_configuration_and_add_parameters(harness):
    harness.write("talker", SAY.format(text="one"))
    config = {
        "max_batch_size": 4,
        "instance_group": [{"count": 2}],
        "parameters": {"a": {"string_value": "b"}},
    }
    await harness.administration.load("talker", config=config, parameters={"c": 3})
    shown = await harness.administration.config("talker")
    assert (shown.max_batch_size, shown.instances, shown.parameters) == (4, 2, {"a": "b", "c": 3})
    assert b"('a', 'b'), ('c', 3)" in await harness.ask("talker")


@pytest.mark.parametrize(
    "config",
    [
        {"max_batch_size": "many"},
        {"parameters": [1]},
        {"instance_group": 3},
        {"input": [{"name": "x", "data_type": "TYPE_COLOR"}]},
        {"input": [{"data_type": "TYPE_FP32"}]},
    ],
)
async def test_a_configuration_that_makes_no_sense_is_the_callers_fault(harness, config):
    harness.write("talker", SAY.format(text="one"))
    with pytest.raises(InvalidInput):
        await harness.administration.load("talker", config=config)


async def test_a_caller_may_send_the_models_files(harness):
    await harness.administration.load("sent", files={"file:1/model.py": SAY.format(text="by mail").encode()})
    assert b"by mail" in await harness.ask("sent")
    await harness.administration.unload("sent")
    assert list(harness.files.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "/etc/evil.py",
        "1/../../evil.py",
        "",
        ".",
        "..",
        "/",
        "a\0b",
        "x" * 300,
        "1/" * 3000 + "x",
        "\ud800",
    ],
)
async def test_files_stay_below_the_models_folder(harness, name):
    with pytest.raises(InvalidInput):
        await harness.administration.load("sent", files={name: b"x"})
    assert list(harness.files.iterdir()) == []


async def test_a_file_where_a_folder_must_be_is_refused(harness):
    with pytest.raises(InvalidInput, match="cannot be written"):
        await harness.administration.load("sent", files={"1": b"x", "1/model.py": b"x"})
    assert list(harness.files.iterdir()) == []


async def test_usage_counts_requests_rows_and_executions(harness):
    harness.write("talker", SAY.format(text="one"))
    await harness.administration.load("talker")
    for _ in range(3):
        await harness.ask("talker")
    (usage,) = await harness.administration.usage("talker")
    assert (usage.success.count, usage.fail.count, usage.inferences, usage.executions) == (3, 0, 3, 3)
    assert usage.success.ns > usage.infer.ns > 0
    assert abs(usage.last_inference / 1e3 - time.time()) < 60
    assert (await harness.administration.usage()) == [usage]


async def test_a_worker_is_loaded_shared_and_unloaded_by_instances(harness):
    administration = harness.administration
    assert await administration.load_worker("CPlusPlus", {"model": "echo"}) == "cplusplus"
    assert await administration.load_worker("cplusplus", {"model": "echo", "share": False}) == "cplusplus"
    assert await administration.load_worker("cplusplus", {"model": "echo_multi"}) == "cplusplus-0"
    assert len((await administration.describe("cplusplus"))[0].workers) >= 1
    await administration.unload_worker("cplusplus")
    assert harness.engine.ready("cplusplus")
    await administration.unload_worker("cplusplus")
    with pytest.raises(ModelNotFound):
        harness.engine.ready("cplusplus")
    assert await administration.load_worker("cplusplus", {"model": "echo"}) == "cplusplus-1"


@pytest.mark.parametrize(
    ("worker", "parameters"),
    [
        ("nobody", {}),
        ("cplusplus", {}),
        ("cplusplus", {"model": 3}),
        ("cplusplus", {"model": "echo", "batch_size": "2"}),
        ("cplusplus", {"model": "echo", "share": "no"}),
        ("migraphx", {"model": "/nowhere/model.onnx"}),
    ],
)
async def test_a_worker_that_cannot_be_is_the_callers_fault(harness, worker, parameters):
    with pytest.raises(InvalidInput):
        await harness.administration.load_worker(worker, parameters)
    assert harness.engine.models() == []


async def test_requests_of_a_better_priority_are_served_first(harness):
    harness.write(
        "slow",
        "import time\norder = []\ndef infer(inputs, parameters):\n"
        "    time.sleep(0.1 if not order else 0)\n    order.append(parameters['n'])\n    return {'order': str(order)}\n",
    )
    await harness.administration.load("slow")
    first = asyncio.create_task(harness.ask("slow", parameters={"n": 0}))
    await asyncio.sleep(0.03)
    later = [
        asyncio.create_task(harness.ask("slow", parameters={"n": n}, priority=priority))
        for n, priority in ((1, 0), (2, 3), (3, 1), (4, 3), (5, 0), (6, 1))
    ]
    await first
    answers = await asyncio.gather(*later)
    assert max(answers, key=len) == b'{"order":"[0, 3, 6, 2, 4, 1, 5]"}'


async def test_a_priority_does_not_get_around_a_full_queue(harness):
    harness.write(
        "slow", "import time\ndef infer(inputs, parameters):\n    time.sleep(0.3)\n    return {'y': 1}\n"
    )
    (harness.repository / "slow" / "config.toml").write_text("queue_size = 1\n")
    await harness.administration.load("slow")
    running = asyncio.create_task(harness.ask("slow"))
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(harness.ask("slow"))
    await asyncio.sleep(0.05)
    assert isinstance(await harness.ask("slow", priority=1), QueueFull)
    assert await running == await waiting == b'{"y":1}'


async def test_workers_are_chained_by_the_endpoint_that_comes_next(harness):
    administration = harness.administration
    last = await administration.load_worker("cplusplus", {"model": "echo"})
    middle = await administration.load_worker("cplusplus", {"model": "echo", "next": last})
    first = await administration.load_worker("cplusplus", {"model": "echo", "next": middle})
    assert [last, middle, first] == ["cplusplus", "cplusplus-0", "cplusplus-1"]
    answers = [await harness.ask(endpoint, number=7) for endpoint in (last, middle, first)]
    assert answers == [b'{"output":[8]}', b'{"output":[9]}', b'{"output":[10]}']
    await administration.unload_worker(last)
    assert not harness.engine.ready(first)
    assert isinstance(await harness.ask(first), ModelNotFound)
    with pytest.raises(InvalidInput, match="No next endpoint found at: nowhere"):
        await administration.load_worker("cplusplus", {"model": "echo", "next": "nowhere"})


STAGES = """
[[models]]
name = "twice"
platform = "amdinfer_cpp"
id = "libecho.so"
[[models]]
name = "thrice"
platform = "amdinfer_cpp"
id = "libecho.so"
[[models]]
name = "once"
platform = "amdinfer_cpp"
id = "libecho.so"
"""


async def counted(harness, model):
    future = asyncio.get_running_loop().create_future()
    word = Tensor("", "UINT32", [1], b"\x07\0\0\0")
    harness.engine.submit(InferenceRequest(model, "", "", [word], form=Form.TENSORS), future.set_result)
    outcome = await asyncio.wait_for(future, 10)
    return int.from_bytes(bytes(outcome.outputs[0].data), "little")


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("", {"three": 10, "twice": 10, "thrice": 9, "once": 8}),
        ("three", {"three": 10, "twice": 8, "once": 8}),
    ],
)
async def test_a_stage_of_amds_chains_runs_the_rest_and_one_of_a_named_chain_runs_alone(
    harness, name, answers
):
    folder = harness.repository / "three"
    folder.mkdir()
    (folder / "chain.toml").write_text((f'name = "{name}"\n' if name else "") + STAGES)
    await harness.administration.load("three")
    assert {model: await counted(harness, model) for model in answers} == answers
    await harness.administration.unload("three", dependents=True)
    assert harness.engine.models() == []


async def test_what_the_server_was_started_with_can_be_loaded_again(tmp_path):
    harness = Harness(tmp_path)
    file = tmp_path / "elsewhere.py"
    file.write_text("def infer(inputs, parameters):\n    return {'said': 'elsewhere'}\n")
    store = Store(tmp_path / "archives")
    config = Config(targets=[f"talker={file}"], model_repository=(harness.repository,))
    catalog = Catalog(store, config, harness.files, defaults())
    administration = Administration(harness.engine, catalog, Metrics())
    with pytest.raises(ModelNotFound):
        await administration.load("talker")
    catalog.remember_targets(store.find(config).specs)
    await administration.load("talker")
    assert b"elsewhere" in await harness.ask("talker")
    await administration.unload("talker")
    assert [(state.name, state.state) for state in administration.index()] == [("talker", "UNAVAILABLE")]
    await administration.load("talker")
    assert b"elsewhere" in await harness.ask("talker")
    await harness.engine.close()


async def test_each_change_that_was_made_is_told_and_none_that_was_not(harness):
    administration = harness.administration

    async def told(change):
        before = len(harness.changes)
        with suppress(MooringError):
            await change
        return len(harness.changes) - before

    harness.write("talker", SAY.format(text="one"))
    harness.write("broken", "import a_module_that_is_not_there")
    assert await told(administration.load("talker")) == 1
    assert await told(administration.load("broken")) == 0
    assert await told(administration.load("nowhere")) == 0
    assert await told(administration.scale("talker", least=2, most=2)) == 1
    assert await told(administration.scale("nowhere", least=2, most=2)) == 0
    before = len(harness.changes)
    await administration.scale("talker", least=1, most=1, wait=False)
    while len(harness.changes) == before:
        await asyncio.sleep(0.01)
    await administration.set_default("talker", "1")
    assert len(harness.changes) == before + 2
    with pytest.raises(ModelNotFound):
        await administration.set_default("talker", "7")
    assert len(harness.changes) == before + 2
    assert await told(administration.unregister("talker")) == 1
    assert await told(administration.unregister("talker")) == 0


LATEST = "[version_policy]\nlatest = 1\n"


def served(harness):
    return [(state.version, state.is_default) for state in harness.engine.models() if state.ready]


def write_versions(harness, *versions, config=""):
    for version in versions:
        harness.write("talker", SAY.format(text=f"version {version}"), version)
    (harness.repository / "talker" / "config.toml").write_text(config)


async def test_a_version_whose_folder_is_gone_is_unloaded_by_the_next_load(harness):
    write_versions(harness, "1", "2")
    await harness.administration.load("talker")
    assert served(harness) == [("1", False), ("2", True)]
    shutil.rmtree(harness.repository / "talker" / "2")
    await harness.administration.load("talker")
    assert served(harness) == [("1", True)]
    assert b"version 1" in await harness.ask("talker")


async def test_a_newer_version_takes_over_without_a_request_that_fails(harness):
    write_versions(harness, "1", config=LATEST)
    await harness.administration.load("talker")
    write_versions(harness, "2", config=LATEST)
    shutil.rmtree(harness.repository / "talker" / "1")
    answers = []

    async def keep_asking():
        while b"version 2" not in (answers or [b""])[-1]:
            answers.append(await harness.ask("talker"))

    asking = asyncio.create_task(keep_asking())
    await harness.administration.load("talker")
    await asyncio.wait_for(asking, 10)
    assert all(isinstance(answer, bytes) for answer in answers)
    assert served(harness) == [("2", True)]


async def test_a_newer_version_that_does_not_load_leaves_the_old_one_serving_and_says_why(harness):
    write_versions(harness, "1", config=LATEST)
    await harness.administration.load("talker")
    harness.write("talker", "raise RuntimeError('broken release')", "2")
    shutil.rmtree(harness.repository / "talker" / "1")
    with pytest.raises(ModelLoadFailed, match="broken release"):
        await harness.administration.load("talker")
    assert served(harness) == [("1", True)]
    states = [(state.version, state.state, state.reason) for state in harness.administration.index()]
    assert states[0] == ("1", "READY", "")
    assert states[1][:2] == ("2", "UNAVAILABLE")
    assert "broken release" in states[1][2]
    assert harness.engine.ready()
    harness.write("talker", SAY.format(text="mended"), "2")
    await harness.administration.load("talker")
    assert [(state.version, state.state) for state in harness.administration.index()] == [("2", "READY")]


async def test_one_version_that_cannot_be_read_does_not_keep_the_others_from_being_loaded(harness):
    write_versions(harness, "1", "2")
    (harness.repository / "talker" / "2" / "model.py").unlink()
    with pytest.raises(ModelLoadFailed, match=r"no model\.py"):
        await harness.administration.load("talker")
    assert served(harness) == [("1", True)]


async def test_a_folder_without_any_version_any_more_serves_nothing(harness):
    write_versions(harness, "1")
    await harness.administration.load("talker")
    shutil.rmtree(harness.repository / "talker" / "1")
    (harness.repository / "talker" / "config.toml").unlink()
    with pytest.raises(ModelLoadFailed, match="is empty"):
        await harness.administration.load("talker")
    assert served(harness) == []
    (state,) = harness.administration.index()
    assert (state.name, state.state) == ("talker", "UNAVAILABLE")
    assert "is empty" in state.reason


async def test_a_load_of_a_model_whose_folder_is_gone_unloads_it(harness):
    write_versions(harness, "1")
    await harness.administration.load("talker")
    shutil.rmtree(harness.repository / "talker")
    with pytest.raises(ModelNotFound):
        await harness.administration.load("talker")
    assert harness.engine.models() == []
    assert harness.administration.index() == []


async def test_a_version_that_is_asked_for_by_its_number_is_loaded_and_stays_whatever_the_policy_says(
    harness,
):
    write_versions(harness, "1", "2", config=LATEST)
    await harness.administration.load("talker")
    assert served(harness) == [("2", True)]
    await harness.administration.load("talker", "1")
    assert dict(served(harness)) == {"1": False, "2": True}
    await harness.administration.load("talker")
    assert dict(served(harness)) == {"1": False, "2": True}
    await harness.administration.unload("talker", "1")
    await harness.administration.load("talker")
    assert served(harness) == [("2", True)]


async def test_the_version_that_an_operator_made_the_default_is_not_rolled_away(harness):
    write_versions(harness, "1", config=LATEST)
    await harness.administration.load("talker")
    await harness.administration.set_default("talker", "1")
    write_versions(harness, "2", config=LATEST)
    await harness.administration.load("talker")
    assert dict(served(harness)) == {"1": True, "2": False}
    (described,) = await harness.administration.describe("talker")
    assert (described.version, described.default_rule) == ("1", "chosen by an operator")


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ({"latest": {"num_versions": 2}}, ["2", "10"]),
        ({"specific": {"versions": ["1", 10]}}, ["1", "10"]),
        ({"all": {}}, ["1", "2", "10"]),
        ({}, ["10"]),
    ],
)
async def test_a_caller_may_say_which_versions_to_load(harness, policy, versions):
    write_versions(harness, "1", "2", "10")
    await harness.administration.load("talker", config={"version_policy": policy})
    assert [version for version, _ in served(harness)] == versions


@pytest.mark.parametrize(
    "policy",
    [
        {"latest": {"num_version": 2}},
        {"latest": {"num_versions": 0}},
        {"newest": {}},
        {"specific": {}},
        {"specific": {"versions": []}},
        {"latest": {}, "all": {}},
        "latest",
        {"latest": 1},
    ],
)
async def test_a_policy_that_is_none_is_the_callers_fault(harness, policy):
    write_versions(harness, "1")
    with pytest.raises(InvalidInput, match="version_policy"):
        await harness.administration.load("talker", config={"version_policy": policy})


async def test_a_load_does_not_look_at_the_folders_of_other_models(harness, monkeypatch):
    """Rollouts, CI and syncs take other folders away while this one is loaded: that is no concern of it."""
    write_versions(harness, "1")
    for name in ("b", "c"):
        harness.write(name, SAY.format(text="other"))
    looked_at = []
    iterate = Path.iterdir

    def recorded(folder):
        looked_at.append(folder)
        return iterate(folder)

    monkeypatch.setattr(Path, "iterdir", recorded)
    await harness.administration.load("talker")
    assert not [place for place in looked_at if place.is_relative_to(harness.repository / "b")]
    assert not [place for place in looked_at if place.is_relative_to(harness.repository / "c")]


async def test_the_index_is_written_while_folders_vanish(harness, monkeypatch):
    write_versions(harness, "1")
    harness.write("gone", SAY.format(text="gone"))
    iterate = Path.iterdir

    def vanishing(folder):
        for entry in list(iterate(folder)):
            if entry.name == "gone":
                shutil.rmtree(entry)
            yield entry

    monkeypatch.setattr(Path, "iterdir", vanishing)
    assert [state.name for state in harness.administration.index()] == ["talker"]
    await harness.administration.load("talker")


async def test_a_model_that_is_served_under_another_name_is_in_the_index_once(harness):
    write_versions(harness, "1", config='name = "called_so"\n')
    await harness.administration.load("talker")
    assert [(state.name, state.state) for state in harness.administration.index()] == [("called_so", "READY")]


@pytest.mark.parametrize("name", ["../outside", "sub/model", ".hidden", "", "..", "a\0b"])
async def test_no_name_of_a_client_leads_out_of_the_repository(harness, name, tmp_path):
    for place in (tmp_path / "outside", harness.repository / "sub" / "model", harness.repository / ".hidden"):
        (place / "1").mkdir(parents=True)
        (place / "1" / "model.py").write_text(SAY.format(text="escaped"))
    with pytest.raises(ModelNotFound):
        await harness.administration.load(name)


async def test_uploaded_files_lead_nowhere_and_neither_do_the_names_in_their_configuration(harness, tmp_path):
    (tmp_path / "secret.py").write_text(SAY.format(text="secret"))
    for entry in ("../../../secret.py", str(tmp_path / "secret.py")):
        files = {"config.toml": f'entry = "{entry}"'.encode(), "1/model.py": b""}
        with pytest.raises(ModelLoadFailed, match="is not in it"):
            await harness.administration.load("sent", files=files)
    files = {"config.toml": b'labels = "../../../secret.py"', "1/model.py": b""}
    with pytest.raises(ModelLoadFailed, match="is not in it"):
        await harness.administration.load("sent", files=files)
    assert list(harness.files.iterdir()) == []


async def test_files_that_a_client_sends_are_the_whole_model(harness):
    for version in ("1", "2"):
        files = {f"{version}/model.py": SAY.format(text=f"sent {version}").encode()}
        await harness.administration.load("sent", files=files)
        assert served(harness) == [(version, True)]
    assert len(list(harness.files.iterdir())) == 1


async def test_a_model_that_is_missed_may_be_unloaded_and_is_missed_no_more(harness):
    registry = harness.engine.registry
    registry.note_missing(
        "gone", "", Unavailable(str(harness.repository / "gone"), "a typing error", expected=True)
    )
    assert not harness.engine.ready()
    assert not harness.engine.healthy()
    await harness.administration.unload("gone")
    assert harness.engine.ready()
    with pytest.raises(ModelNotFound):
        await harness.administration.unload("gone")
