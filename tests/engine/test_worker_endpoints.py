"""AMD's table of endpoint names, sharing and unloading, row by row: over a real engine with real workers."""

import asyncio

import numpy as np
import pytest
from model_kit import defaults

from mooring.config.settings import Config
from mooring.core.errors import InvalidInput, ModelLoadFailed, ModelNotFound
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor
from mooring.engine.administration import Administration
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics
from mooring.repository.catalog import Catalog
from mooring.repository.store import Store

pytestmark = pytest.mark.processes

ECHO = {"model": "echo"}


class Amd:
    """A server as the table's reader has it: loads, unloads, lists, asks."""

    def __init__(self, folder):
        self.repository = folder / "repository"
        for name in ("repository", "archives", "files"):
            (folder / name).mkdir()
        metrics = Metrics()
        self.engine = Engine(Arena(1 << 20), metrics, drain_limit=5.0)
        config = Config(model_repository=(self.repository,))
        catalog = Catalog(Store(folder / "archives"), config, folder / "files", defaults())
        self.administration = Administration(self.engine, catalog, metrics)
        self.unload = self.administration.unload_worker

    async def load(self, worker="cplusplus", /, **parameters):
        endpoint = await self.administration.load_worker(worker, parameters)
        assert self.engine.ready(endpoint)  # when a load returns, the endpoint can be asked
        return endpoint

    def list(self):
        return [state.name for state in self.engine.models() if state.ready]

    async def instances(self, endpoint):
        return len((await self.administration.describe(endpoint))[0].workers)

    async def ask(self, endpoint, number=5):
        answered = asyncio.get_running_loop().create_future()
        inputs = [Tensor.of("in", np.array([number], np.uint32))]
        self.engine.submit(InferenceRequest(endpoint, "", "", inputs), answered.set_result)
        return await asyncio.wait_for(answered, 10)


@pytest.fixture
async def amd(tmp_path):
    server = Amd(tmp_path)
    yield server
    await server.engine.close()


async def test_the_rows_on_names_in_their_order(amd):
    # The first endpoint is called like its worker; the same again is the same one.
    assert await amd.load(**ECHO) == "cplusplus"
    assert await amd.load(**ECHO) == "cplusplus"
    assert await amd.load("CPlusPlus", **ECHO) == "cplusplus"
    assert await amd.load(**ECHO, share=True) == "cplusplus"
    assert await amd.load(**ECHO, worker="zzz") == "cplusplus"
    assert amd.list() == ["cplusplus"]
    # Any key counts, and 100.0 is 100.
    assert await amd.load(**ECHO, max_buffer_num=100) == "cplusplus-0"
    assert await amd.load(**ECHO, max_buffer_num=100.0) == "cplusplus-0"
    # So do its value and its type.
    assert await amd.load(**ECHO, max_buffer_num="100") == "cplusplus-1"
    assert await amd.load(model="echo_multi") == "cplusplus-2"
    assert await amd.load(**ECHO, neg=-1) == "cplusplus-3"
    # A load that fails has used its number up.
    with pytest.raises(InvalidInput, match="batch_size"):
        await amd.load(**ECHO, batch_size="2")
    assert await amd.load(**ECHO, batch_size=2) == "cplusplus-5"
    assert amd.list() == ["cplusplus", *(f"cplusplus-{number}" for number in (0, 1, 2, 3, 5))]
    # While others live, the plain name is not given again; nor is any number.
    await amd.unload("cplusplus")
    await amd.unload("cplusplus-5")
    assert await amd.load(**ECHO) == "cplusplus-6"
    # When all are gone, names begin anew.
    for endpoint in amd.list():
        await amd.unload(endpoint)
    assert amd.list() == []
    assert await amd.load(**ECHO, max_buffer_num=100) == "cplusplus"


async def test_share_false_adds_an_instance_and_every_unload_takes_one(amd):
    assert await amd.load(**ECHO) == "cplusplus"
    assert await amd.load(**ECHO, share=False) == "cplusplus"
    async with asyncio.timeout(10):
        while (await amd.instances("cplusplus")) != 2:
            await asyncio.sleep(0.01)
    await amd.unload("cplusplus")
    assert amd.list() == ["cplusplus"]
    assert isinstance(await amd.ask("cplusplus"), InferenceResponse)
    await amd.unload("cplusplus")
    assert amd.list() == []


async def test_loads_are_not_counted(amd):
    await amd.load(**ECHO)
    await amd.load(**ECHO)
    await amd.unload("cplusplus")
    assert amd.list() == []
    with pytest.raises(ModelNotFound):  # which AMD's paths answer with 200
        await amd.unload("cplusplus")


async def test_every_worker_has_names_of_its_own(amd):
    assert await amd.load(**ECHO) == "cplusplus"
    assert await amd.load("fake") == "fake"
    assert await amd.load("fake", delay=1) == "fake-0"
    await amd.unload("cplusplus")
    assert await amd.load("fake", delay=2) == "fake-1"
    assert await amd.load(model="echo_multi") == "cplusplus"


async def test_an_endpoint_is_no_worker_to_load(amd):
    # There "cplusplus-0" would be a further worker, whose endpoints collide with those of cplusplus.
    await amd.load(**ECHO)
    with pytest.raises(InvalidInput, match="unknown worker"):
        await amd.load("cplusplus-0", **ECHO)
    assert amd.list() == ["cplusplus"]


async def test_an_endpoint_answers_with_the_name_that_the_models_code_has(amd):
    await amd.load(**ECHO)
    endpoint = await amd.load(**ECHO, key=1)
    answer = await amd.ask(endpoint, 41)
    assert answer.model == "echo"
    assert answer.outputs[0].array().tolist() == [42]


@pytest.mark.parametrize(
    ("worker", "parameters", "said"),
    [
        ("cplusplus", {}, "No model specified"),
        ("nonesuch", ECHO, "unknown worker 'nonesuch'"),
        ("cplusplus", {"model": 7}, "must be text"),
        ("cplusplus", {**ECHO, "share": "no"}, "share"),
        ("cplusplus", {**ECHO, "timeout": "x"}, "timeout"),
        ("cplusplus", {"model": "libnonesuch.so"}, "nonesuch"),
        ("migraphx", {"model": "/nonesuch.onnx"}, "nonesuch"),
    ],
)
async def test_what_cannot_be_loaded_says_why_and_leaves_nothing(amd, worker, parameters, said):
    with pytest.raises((InvalidInput, ModelLoadFailed), match=said):
        await amd.load(worker, **parameters)
    assert amd.list() == []
    assert await amd.load(**ECHO) == "cplusplus"


async def test_a_model_with_a_hyphen_keeps_its_name_however_often_it_is_loaded(amd):
    # There the text before the first hyphen was taken for the worker, and the plain name was lost.
    folder = amd.repository / "resnet50-onnx"
    (folder / "1").mkdir(parents=True)
    (folder / "config.toml").write_text('name = "resnet50-onnx"\nplatform = "builtin"\nentry = "echo"\n')
    for parameters in ({}, {"batch_size": 2}):
        await amd.administration.load("resnet50-onnx", parameters=parameters)
        assert amd.list() == ["resnet50-onnx"]
    await amd.administration.unload("resnet50-onnx")
    await amd.administration.load("resnet50-onnx")
    assert amd.list() == ["resnet50-onnx"]


async def test_an_endpoint_can_be_unloaded_as_a_model(amd):
    await amd.load(**ECHO)
    await amd.load(**ECHO, share=False)
    await amd.administration.unload("cplusplus")
    assert amd.list() == []
    assert await amd.load(**ECHO, other=1) == "cplusplus"


async def test_a_name_that_a_model_of_the_repository_has_is_not_given_to_an_endpoint(amd):
    folder = amd.repository / "cplusplus"
    (folder / "1").mkdir(parents=True)
    (folder / "config.toml").write_text('platform = "builtin"\nentry = "echo"\n')
    await amd.administration.load("cplusplus")
    assert await amd.load(**ECHO) == "cplusplus-0"


async def test_loads_at_the_same_time_are_the_same_endpoint(amd):
    assert set(await asyncio.gather(*(amd.load(**ECHO) for _ in range(4)))) == {"cplusplus"}
