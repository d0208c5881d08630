"""The state of an ensemble follows the models of its steps."""

import asyncio

import msgspec
from ensemble_kit import ensemble_spec, specs, step
from model_kit import model_spec

from mooring.core.errors import ModelLoadFailed
from mooring.core.service import ModelMetadata
from mooring.engine.graphs.ensembles import Ensembles
from mooring.engine.lifecycle import State
from mooring.engine.registry import ModelVersion, Registry

SPEC = ensemble_spec(step("a", "x=A", "y=m"), step("b", "x=m", "y=C", version="2"), inputs="A", outputs="C")


class World:
    def __init__(self, *ensembles):
        self.registry = Registry()
        self.ensembles = Ensembles(self.registry)
        self.versions = {}
        for spec in ensembles or (SPEC,):
            version = self.versions[spec.name] = ModelVersion(spec)
            self.registry.add_version(version)

    async def started(self):
        """Start all ensembles, which wait for their models."""
        self.starting = [asyncio.ensure_future(self.ensembles.start(each)) for each in self.versions.values()]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self

    @property
    def state(self):
        return self.versions["e"].state

    @property
    def reason(self):
        return self.versions["e"].error.message

    def add(self, name, version="1", *, ready=True, shape=(-1, 2), **more):
        made = self.register(name, version, **more)
        if ready:
            self.become_ready(made, shape)
        self.ensembles.update()
        return made

    def register(self, name, version="1", **more):
        spec = model_spec(name, version, backend="onnx", max_batch_size=8, batch_dimension=True, **more)
        made = ModelVersion(spec)
        made.start_loading(None, None)
        self.registry.add_version(made)
        return made

    def become_ready(self, version, shape=(-1, 2)):
        name = version.spec.name
        version.on_worker_event(ModelMetadata(name, ["1"], "", specs("x", shape), specs("y", shape)))
        self.ensembles.update()


async def test_it_waits_for_its_models_and_is_ready_with_them():
    world = await World().started()
    assert world.state is State.FAILED
    assert "step 'a': model 'a' is not loaded" in world.reason
    first = world.add("a", ready=False)
    second = world.add("b", "2", ready=False)
    assert world.state is State.LOADING
    world.become_ready(first)
    assert world.state is State.LOADING
    world.become_ready(second)
    assert world.state is State.READY
    assert world.ensembles.can_answer(world.versions["e"])


async def test_models_that_are_registered_in_the_same_turn_are_awaited():
    world = World()
    starting = asyncio.ensure_future(world.ensembles.start(world.versions["e"]))
    registered = [asyncio.ensure_future(registered_soon(world, name, "2")) for name in ("a", "b")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.state is State.LOADING
    for each in registered:
        world.become_ready(each.result())
    await starting
    assert world.state is State.READY


async def registered_soon(world, *args):
    return world.register(*args)


async def test_it_fails_with_a_model_that_fails_or_goes_and_comes_back_with_it():
    world = await World().started()
    first = world.add("a")
    world.add("b", "2")
    assert world.state is State.READY
    world.registry.remove_version(first)
    world.ensembles.update()
    assert world.state is State.FAILED
    assert world.reason == "step 'a': model 'a' is not loaded"
    broken = world.add("a", ready=False)
    broken.fail(ModelLoadFailed("no weights"))
    world.ensembles.update()
    assert "no weights" in world.reason
    world.become_ready(broken)
    assert world.state is State.READY


async def test_a_version_that_a_step_names_must_be_there():
    world = await World().started()
    world.add("a")
    world.add("b", "1")
    assert world.reason == "step 'b': model 'b' has no version 2 that is loaded; there is 1"


async def test_what_does_not_fit_is_said_and_is_looked_at_again_with_another_model():
    world = await World().started()
    other = world.add("a", shape=(-1, 3))
    world.add("b", "2")
    assert "tensor 'A' has the shape [-1, 2] in model 'e', and [-1, 3] as input 'x'" in world.reason
    world.registry.remove_version(other)
    world.add("a")
    assert world.state is State.READY


async def test_a_decoupled_model_makes_it_decoupled():
    world = await World().started()
    world.add("a", decoupled=True)
    world.add("b", "2")
    assert world.versions["e"].spec.decoupled


async def test_ensembles_that_lead_back_to_themselves_fail():
    first = ensemble_spec(step("f", "A=A", "C=C"), inputs="A", outputs="C")
    second = ensemble_spec(step("e", "A=A", "C=C"), inputs="A", outputs="C")
    world = await World(first, msgspec.structs.replace(second, name="f")).started()
    assert world.reason == "the ensemble is a step of itself: e -> f -> e"
    assert world.versions["f"].error.message == "the ensemble is a step of itself: f -> e -> f"


async def test_one_that_is_unloaded_is_followed_no_longer():
    world = await World().started()
    version = world.versions["e"]
    world.ensembles.forget(version)
    world.add("a")
    world.add("b", "2")
    assert version.state is State.FAILED
