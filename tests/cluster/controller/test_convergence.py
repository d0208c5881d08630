"""Whatever fails and in whichever order: once faults stop, the cluster serves what is desired, and no two controllers ever ruled a node at once."""

import asyncio
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from simulation import SimCluster, register
from virtual_time import VirtualLoop

from mooring.cluster.records import DrainNode, ScaleVersion, SetDefault, UnregisterVersion
from mooring.core.errors import MooringError

NODES = "abcd"
nodes = st.sampled_from(NODES)
models = st.sampled_from("mn")
versions = st.sampled_from("12")
RIGHT, WRONG = "x", "z"


class Clusters(RuleBasedStateMachine):
    """Four nodes, changes from clients that do not wait, and every fault there is."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        random.seed(seed)
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.runner.run(self._begin())

    async def _begin(self):
        self.cluster = SimCluster(*NODES, total={"CPU": 2.0})
        self.cluster.faults[WRONG * 8] = "it is broken"
        self.controllers = [await self.cluster.start_controller()]
        await asyncio.sleep(3.0)

    def _pass(self, seconds):
        self.runner.run(asyncio.sleep(seconds))

    async def _ask(self, change):
        for port in self.cluster.ports:
            if port.controller is not None and not port.controller.superseded:
                try:
                    await port.controller.handle(change)
                except MooringError:
                    continue
                return

    def _change(self, change):
        self.runner.run(self._ask(change))

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 5.0]))
    def wait(self, seconds):
        self._pass(seconds)

    @rule(model=models, version=versions, content=st.sampled_from([RIGHT, "y", WRONG]), default=st.booleans(),
          retire=st.booleans(), all_nodes=st.booleans(), cpus=st.sampled_from([0, 1, 3]))  # fmt: skip
    def register(self, model, version, content, default, retire, all_nodes, cpus):
        self._change(
            register(model, version, content, wait=False, replace=True, make_default=default,
                     retire_previous=retire, all_nodes=all_nodes, num_cpus=cpus)
        )  # fmt: skip

    @rule(model=models, version=versions, count=st.integers(1, 2), content=st.sampled_from([RIGHT, "y"]))
    def serve(self, model, version, count, content):
        """What is often done: a version that works becomes the default, and its nodes have time to load it."""
        self._change(
            register(model, version, content, wait=False, replace=True, make_default=True, retire_previous=True,
                     min_replicas=count, max_replicas=count)
        )  # fmt: skip
        self._pass(2.0)

    @rule(model=models, version=st.sampled_from(["1", "2"]))
    def unregister(self, model, version):
        self._change(UnregisterVersion(model, version, wait=False))

    @rule(model=models, count=st.integers(1, 3))
    def scale(self, model, count):
        self._change(ScaleVersion(model, min_replicas=count, max_replicas=count, wait=False))

    @rule(model=models, version=versions)
    def set_default(self, model, version):
        # Whoever asks may give up while the answer waits for a node that is silent.
        self.runner.run(self._give_up(SetDefault(model, version)))

    async def _give_up(self, change):
        asking = asyncio.ensure_future(self._ask(change))
        await asyncio.wait([asking], timeout=2.0)
        asking.cancel()
        await asyncio.wait([asking])

    @rule(node=nodes, undo=st.booleans())
    def drain(self, node, undo):
        self._change(DrainNode(node, undo, wait=False))

    @rule(node=nodes, cut=st.booleans())
    def cut_off(self, node, cut):
        self.cluster.nodes[node].cut = cut

    @rule(node=nodes, frozen=st.booleans())
    def freeze(self, node, frozen):
        self.cluster.nodes[node].frozen = frozen

    @rule(node=nodes)
    def kill(self, node):
        self.cluster.nodes[node].die()

    @rule(node=nodes)
    def restart(self, node):
        self.runner.run(self._restart(node))

    async def _restart(self, node):
        self.cluster.nodes[node].restart()
        self.cluster.nodes[node].alive = True

    @rule(node=nodes, fault=st.booleans())
    def break_loading(self, node, fault):
        self.cluster.faults[node, RIGHT * 8] = "no disk" if fault else ""

    @rule(loss=st.sampled_from([0.0, 0.3, 0.7]), latest=st.sampled_from([0.01, 0.5, 2.0]))
    def disturb_messages(self, loss, latest):
        self.cluster.loss, self.cluster.latest = loss, latest

    @rule()
    def break_store(self):
        self.cluster.objects.broken = True

    @rule()
    def mend_store(self):
        self.cluster.objects.broken = False

    @rule(cut=st.booleans())
    def second_controller(self, cut):
        """Ray starts another one, while the first may live on behind a partition."""
        if not self.cluster.objects.broken:
            self.cluster.ports[-1].cut = cut
            self.runner.run(self.cluster.start_controller())

    @rule()
    def kill_controller(self):
        if not self.cluster.objects.broken:
            self.cluster.kill_controller(self.cluster.ports[-1].controller)
            self.runner.run(self.cluster.start_controller())

    @invariant()
    def no_node_ever_obeys_a_controller_that_is_over(self):
        for node in (
            getattr(self, "cluster", SimCluster.__new__(SimCluster)).__dict__.get("nodes", {}).values()
        ):
            assert node.epochs == sorted(node.epochs)

    def teardown(self):
        if not hasattr(self, "runner"):
            return
        try:
            self.runner.run(self._heal())
            self._check()
        finally:
            self.cluster.close()
            self.runner.close()

    async def _heal(self):
        """End all faults, and give the cluster its time: drains, waits after failures."""
        cluster = self.cluster
        cluster.loss, cluster.latest, cluster.objects.broken = 0.0, 0.01, False
        for node in cluster.nodes.values():
            node.cut = node.frozen = False
            node.alive = True
            cluster.faults.pop((node.name, RIGHT * 8), None)
            for key in list(node.failed):
                if node.failed[key][0].files.sha256 != WRONG * 8:
                    del node.failed[key]
            node.work()
        for port in cluster.ports:
            port.cut = False
        await asyncio.sleep(300.0)

    def _check(self):
        acting = [
            port.controller
            for port in self.cluster.ports
            if port.controller is not None and not port.controller.superseded
        ]
        (controller,) = acting
        state, view = controller._state, controller.view()
        usable = [name for name in NODES if name not in state.drained]
        assert all(
            version.rollout is None or version.state == "PENDING" for version in self._settled(state, view)
        )
        for model, version, desired in state:
            running = [name for name in NODES if (model, version) in self.cluster.nodes[name].running]
            shown = next(each for each in view.versions if (each.model, each.version) == (model, version))
            if not usable or (not running and shown.state in ("PENDING", "FAILED")):
                assert shown.reason
                continue
            wanted = len(usable) if desired.placement.all_nodes else min(desired.replicas, len(usable))
            assert len(running) == wanted or shown.reason
            for name in running:
                node = self.cluster.nodes[name]
                assert node.running[model, version].files == desired.settings.files
                assert name in usable or shown.reason
                assert node.assignment.routing.replicas[model][version] == running
        for node in self.cluster.nodes.values():
            assert all(state.find(*key) is not None for key in node.running)
            held = sum(
                each.resources["CPU"] for seat, each in self.cluster.reserved.items() if seat[0] == node.name
            )
            assert held <= node.total["CPU"]
            assert node.assignment.routing.defaults == {
                model: found.default for model, found in state.models.items() if found.default
            }

    def _settled(self, state, view):
        states = {(each.model, each.version): each.state for each in view.versions}

        class Found:
            def __init__(self, key, rollout):
                self.rollout, self.state = rollout, states[key]

        return [Found((model, version), desired.rollout) for model, version, desired in state]


# The same few orders of faults in each run; `make long` tries other ones each time.
_MANY = settings.default.max_examples >= 100
Clusters.TestCase.settings = settings(
    max_examples=300 if _MANY else 15,
    derandomize=not _MANY,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),  # how long an example takes is for the machine to say
)
test_after_the_last_fault_a_cluster_serves_what_is_desired = Clusters.TestCase
