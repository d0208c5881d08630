"""Which node gets a request, again where that is lost, and what waits: with other nodes that answer when the test says so."""

import asyncio
import time

import pytest

from mooring.cluster import request_placement
from mooring.cluster.remote_requests import VersionFacts
from mooring.cluster.request_placement import RequestPlacement
from mooring.cluster.routing import ReplicaLoad, Route
from mooring.core.errors import (
    ClusterUnavailable,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    SequenceLost,
    WorkerDied,
)
from mooring.core.options import SequenceHeaders
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata
from mooring.observability.cluster_metrics import ClusterMetrics

KEY = "m", "1"
PLAIN = VersionFacts(ModelMetadata("m", ["1"]), queue_size=3)
STATEFUL = VersionFacts(ModelMetadata("m", ["1"]), queue_size=3, sequences=SequenceHeaders())


class Remote:
    """A node that keeps what it is sent."""

    def __init__(self, node):
        self.node = node
        self.session = self
        self.instance = 1
        self.sent = []
        self.load = ReplicaLoad(), 0, 0

    def load_of(self, _model, _version):
        return self.load

    def run(self, request, on_answer, on_lost, lane):
        self.sent.append(Sent(request, on_answer, on_lost, lane))
        return self.sent[-1]


class Sent:
    def __init__(self, request, on_answer, on_lost, lane):
        self.request, self.answer, self.lose, self.lane = request, on_answer, on_lost, lane
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


class Cluster:
    """A node with others around it, as a placement sees them."""

    def __init__(self):
        self.node = "here"
        self.route = Route(*KEY, ("b", "c"), here=False)
        self.facts = PLAIN
        self.load = self.refusal = None
        self.remotes = {name: Remote(name) for name in "bc"}
        self.avoided = set()
        self.engine = []
        self.heard = []
        self.metrics = ClusterMetrics()
        self.placement = RequestPlacement(self, self, self.metrics, queue_size=3)

    # What the placement asks of the cluster.

    def find_route(self, _key):
        return self.route

    def find_facts(self, _key):
        return self.facts

    def find_load(self, _key):
        return self.load

    def find_refusal(self, _key):
        return self.refusal

    def is_missing(self, key):
        return ModelNotFound(f"model '{key[0]}' is not loaded")

    def submit_here(self, request, done):
        self.engine.append(Sent(request, done, None, None))
        return self.engine[-1]

    def read_body(self, request, done):
        raise AssertionError("no body here")

    # What it asks of the nodes.

    def get(self, node):
        return self.remotes.get(node)

    reach = get

    def is_avoided(self, node):
        return node in self.avoided

    # What a test does.

    def submit(self, name="r", **more):
        request = InferenceRequest("m", "", name, [], **more)
        return self.placement.submit(KEY, request, self.heard.append)

    def sent(self, node):
        return [each.request.id for each in self.remotes[node].sent]

    def all_sent(self):
        return [each for node in "bc" for each in self.remotes[node].sent]


@pytest.fixture
async def cluster():
    cluster = Cluster()
    yield cluster
    cluster.placement.close()


def only(node):
    return Route(*KEY, (node,), here=False)


async def test_the_less_loaded_node_gets_it_with_its_version_named(cluster):
    cluster.remotes["b"].load = ReplicaLoad(5, 1, 1), 0, 0
    cluster.remotes["c"].load = ReplicaLoad(5, 1, 4), 0, 0
    cluster.submit()
    assert (cluster.sent("b"), cluster.sent("c")) == ([], ["r"])
    assert cluster.remotes["c"].sent[0].request.version == "1"
    answer = InferenceResponse([])
    cluster.remotes["c"].sent[0].answer(answer, unstarted=False)
    assert cluster.heard == [answer]


async def test_this_node_takes_it_where_it_has_no_more_to_do(cluster):
    cluster.load = ReplicaLoad(1, 1, 1)
    for node in "bc":
        cluster.remotes[node].load = ReplicaLoad(1, 1, 1), 0, 0
    cluster.submit()
    assert [each.request.id for each in cluster.engine] == ["r"]
    cluster.load = ReplicaLoad(2, 1, 1)
    cluster.submit("s")
    assert [each.request.id for each in cluster.all_sent()] == ["s"]
    cluster.load = ReplicaLoad(0, 0, 0)  # no worker is ready
    cluster.submit("t")
    assert len(cluster.all_sent()) == 2


async def test_a_full_queue_is_left_for_the_next_node_and_the_last_refusal_is_an_answer(cluster):
    cluster.submit()
    (first,) = cluster.all_sent()
    first.answer(QueueFull("first"), unstarted=True)
    second = next(each for each in cluster.all_sent() if each is not first)
    assert cluster.heard == []
    second.answer(QueueFull("second"), unstarted=True)
    (refusal,) = cluster.heard
    assert refusal.message == "first"
    assert len(cluster.all_sent()) == 2


async def test_an_error_of_the_model_is_nobody_elses_business(cluster):
    cluster.submit()
    (sent,) = cluster.all_sent()
    error = InvalidInput("x must have 3 columns")
    sent.answer(error, unstarted=True)
    assert cluster.heard == [error]
    assert len(cluster.all_sent()) == 1


async def test_a_request_of_a_lost_node_runs_once_more_and_no_oftener(cluster):
    cluster.submit()
    (first,) = cluster.all_sent()
    first.lose("silent", unstarted=False)
    second = next(each for each in cluster.all_sent() if each is not first)
    second.lose("silent", unstarted=False)
    (error,) = cluster.heard
    assert isinstance(error, WorkerDied)
    assert "was lost while it had the request: silent" in error.message
    assert cluster.metrics.repeated == 1
    second.answer(InferenceResponse([]), unstarted=False)  # too late
    assert len(cluster.heard) == 1


async def test_a_model_that_must_not_run_twice_runs_again_only_where_it_has_certainly_not_run(cluster):
    cluster.facts = VersionFacts(ModelMetadata("m", ["1"]), retry=False)
    cluster.submit("a")
    cluster.all_sent()[0].lose("gone", unstarted=False)
    assert isinstance(cluster.heard[0], WorkerDied)
    cluster.submit("b")
    before = cluster.all_sent()
    next(each for each in before if each.request.id == "b").lose("refused", unstarted=True)
    assert len(cluster.all_sent()) == len(before) + 1


async def test_a_stream_that_has_begun_is_not_begun_again(cluster):
    cluster.submit()
    (sent,) = cluster.all_sent()
    sent.answer(InferenceResponse([], final=False), unstarted=False)
    sent.lose("gone", unstarted=False)
    assert isinstance(cluster.heard[1], WorkerDied)
    assert len(cluster.all_sent()) == 1


async def test_what_no_node_can_take_waits_by_its_priority_within_the_bound_of_a_queue(cluster):
    cluster.route = Route(*KEY, (), here=False, starting=True)
    for name, priority in (("none", 0), ("second", 2), ("first", 1)):
        cluster.submit(name, priority=priority)
    assert cluster.placement.held() == {"m": {"1": 3}}
    cluster.submit("too many")
    assert isinstance(cluster.heard[0], QueueFull)
    cluster.route = only("b")
    cluster.placement.place_held()
    assert cluster.sent("b") == ["first", "second", "none"]
    assert cluster.placement.held() == {}


async def test_what_waits_has_its_deadline_and_can_be_withdrawn(cluster):
    cluster.route = Route(*KEY, (), here=False, starting=True)
    ticket = cluster.submit("gone")
    cluster.submit("late", deadline=time.monotonic() + 0.1)
    ticket.cancel()
    assert cluster.placement.held() == {"m": {"1": 1}}
    await asyncio.sleep(0.3)
    (error,) = cluster.heard
    assert isinstance(error, DeadlineExceeded)
    assert cluster.placement.held() == {}


async def test_a_request_at_another_node_has_its_deadline_here_too(cluster):
    cluster.submit(deadline=time.monotonic() + 0.1)
    await asyncio.sleep(0.3)
    assert isinstance(cluster.heard[0], DeadlineExceeded)
    assert cluster.all_sent()[0].cancelled


async def test_the_models_own_time_out_counts_from_the_beginning(cluster):
    cluster.facts = None  # nobody has told yet what the model is
    cluster.submit()
    assert cluster.placement.held() == {"m": {"1": 1}}
    cluster.facts = VersionFacts(ModelMetadata("m", ["1"]), client_timeout=5.0)
    cluster.placement.place_held()
    (sent,) = cluster.all_sent()
    assert sent.request.deadline == pytest.approx(time.monotonic() + 5, abs=0.5)


async def test_who_waits_for_lost_nodes_is_refused_in_the_end(cluster, monkeypatch):
    monkeypatch.setattr(request_placement, "_PATIENCE", 0.1)
    cluster.avoided = {"b", "c"}
    cluster.submit()
    assert cluster.heard == []
    await asyncio.sleep(0.3)
    assert isinstance(cluster.heard[0], ClusterUnavailable)
    cluster.submit("again")
    cluster.avoided = {"b"}
    await asyncio.sleep(0.1)
    assert cluster.sent("c") == ["again"]


async def test_a_version_that_is_gone_while_its_request_waits_is_missing(cluster):
    cluster.facts = None
    cluster.submit()
    cluster.route = None
    cluster.placement.place_held()
    assert isinstance(cluster.heard[0], ModelNotFound)


async def test_a_node_that_has_unloaded_it_sends_it_elsewhere(cluster):
    cluster.submit()
    (first,) = cluster.all_sent()
    first.answer(ModelNotReady("unloading"), unstarted=True)
    assert len(cluster.all_sent()) == 2
    assert cluster.heard == []


# Sequences


def step(cluster, name, **flags):
    return cluster.submit(name, parameters={"sequence_id": "s", **flags})


async def test_the_steps_of_a_sequence_stay_together_and_in_line(cluster):
    cluster.facts = STATEFUL
    step(cluster, "1", sequence_start=True)
    step(cluster, "2")
    (node,) = [node for node in "bc" if cluster.sent(node)]
    assert cluster.sent(node) == ["1", "2"]
    assert len({each.lane for each in cluster.all_sent()}) == 1
    cluster.remotes[node].load = ReplicaLoad(99, 1, 1), 0, 0
    step(cluster, "3")
    assert cluster.sent(node) == ["1", "2", "3"]


async def test_the_state_of_a_sequence_is_lost_with_its_node_until_it_begins_anew(cluster):
    cluster.facts = STATEFUL
    step(cluster, "1", sequence_start=True)
    (node,) = [node for node in "bc" if cluster.sent(node)]
    other = "b" if node == "c" else "c"
    cluster.remotes[node].sent[0].answer(InferenceResponse([]), unstarted=False)
    cluster.route = only(other)
    step(cluster, "2")
    step(cluster, "3")
    assert [type(each) for each in cluster.heard[1:]] == [SequenceLost, SequenceLost]
    step(cluster, "4", sequence_start=True)
    step(cluster, "5")
    assert cluster.sent(other) == ["4", "5"]


async def test_a_step_that_a_lost_node_may_have_run_is_not_run_again(cluster):
    cluster.facts = STATEFUL
    step(cluster, "1", sequence_start=True)
    cluster.all_sent()[0].lose("silent", unstarted=False)
    assert isinstance(cluster.heard[0], SequenceLost)
    assert len(cluster.all_sent()) == 1


async def test_a_server_that_was_started_again_has_no_sequence_any_more(cluster):
    cluster.facts = STATEFUL
    step(cluster, "1", sequence_start=True)
    (node,) = [node for node in "bc" if cluster.sent(node)]
    cluster.remotes[node].sent[0].answer(InferenceResponse([]), unstarted=False)
    cluster.remotes[node].instance = 2
    step(cluster, "2")
    assert isinstance(cluster.heard[1], SequenceLost)


async def test_steps_wait_for_a_node_that_is_not_reached_and_keep_their_order(cluster):
    cluster.facts = STATEFUL
    step(cluster, "1", sequence_start=True)
    (node,) = [node for node in "bc" if cluster.sent(node)]
    cluster.remotes[node].sent[0].answer(InferenceResponse([]), unstarted=False)
    cluster.avoided = {node}
    step(cluster, "2")
    step(cluster, "3")
    assert cluster.sent(node) == ["1"]
    cluster.avoided = set()
    step(cluster, "4")
    await asyncio.sleep(0.1)
    assert cluster.sent(node) == ["1", "2", "3", "4"]


async def test_a_sequence_that_began_when_there_were_other_replicas_is_found(cluster):
    cluster.facts = STATEFUL
    step(cluster, "2")  # of a sequence that another entry began
    (first,) = cluster.all_sent()
    unknown = InvalidInput("must specify the START flag")
    first.answer(unknown, unstarted=True)
    second = next(each for each in cluster.all_sent() if each is not first)
    second.answer(InferenceResponse([]), unstarted=False)
    assert len(cluster.heard) == 1
    before = len(cluster.all_sent())
    step(cluster, "3")  # and remembered
    assert len(cluster.all_sent()) == before + 1
    assert "3" in (cluster.sent("b")[-1], cluster.sent("c")[-1])


async def test_a_sequence_that_no_node_has_is_refused_as_the_first_one_did(cluster):
    cluster.facts = STATEFUL
    step(cluster, "2")
    unknown, answered = InvalidInput("must specify the START flag"), []
    while not cluster.heard:
        sent = next(each for each in cluster.all_sent() if each not in answered)
        answered.append(sent)
        sent.answer(unknown if len(answered) == 1 else InvalidInput("another text"), unstarted=True)
    assert cluster.heard == [unknown]
    assert len(answered) == 2
