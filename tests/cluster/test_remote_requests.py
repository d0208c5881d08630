"""Requests between two nodes, without a socket: answers, pieces, memory, deadlines, and what is known of one whose node is lost."""

import time
from unittest.mock import Mock

import pytest
from test_peers import World

from mooring.cluster import remote_requests
from mooring.cluster.remote_requests import NodeRequests, RemoteNodes, VersionFacts
from mooring.cluster.routing import ReplicaLoad
from mooring.core.buffers import Buffer
from mooring.core.errors import ErrorRecord, InvalidInput, ModelNotReady, OutOfResources, QueueFull
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import ModelMetadata
from mooring.core.tensors import Tensor
from mooring.core.timing import RequestTiming
from mooring.ipc.framing import heap_buffer
from mooring.observability.cluster_metrics import ClusterMetrics

FACTS = VersionFacts(ModelMetadata("m", ["1"]), "tensors")


class Service:
    """An engine that answers when the test says so, or refuses at once."""

    def __init__(self):
        self.requests, self.dones, self.cancelled = [], [], []
        self.refusal = None

    def submit(self, request, done):
        self.requests.append(request)
        self.dones.append(done)
        if self.refusal is not None:
            done(self.refusal)
        return Ticket(self.cancelled, request)


class Ticket:
    def __init__(self, cancelled, request):
        self.cancelled, self.request = cancelled, request

    def cancel(self):
        self.cancelled.append(self.request.id)


class Pair(World):
    """Node ``a`` asks, node ``b`` runs."""

    def __init__(self):
        self.service = Service()
        self.load = ReplicaLoad(3, 1, 2)
        super().__init__()
        self.metrics = ClusterMetrics()
        self.remote = RemoteNodes(self.metrics)
        self.remote.use(self.nodes["a"])
        self.heard, self.losses = [], []

    def node(self, name):
        node = super().node(name)
        node._serve = lambda session: NodeRequests(
            session,
            self.service,
            ClusterMetrics(),
            lambda _model, _version: self.load,
            lambda model, _version: FACTS if model == "m" else None,
            Mock(),
        )
        return node

    def run(self, request=None, lane=None):
        request = request or InferenceRequest("m", "1", "r", [Tensor("x", "UINT8", [3], b"abc")])
        attempt = self.remote.reach("b").run(
            request,
            lambda outcome, unstarted: self.heard.append((outcome, unstarted)),
            lambda reason, unstarted: self.losses.append((reason, unstarted)),
            lane,
        )
        self.pass_time(0.05)
        return attempt


@pytest.fixture
def pair():
    pair = Pair()
    yield pair
    pair.loop.close()


def response(data=b"abc", *, final=True):
    return InferenceResponse([Tensor("y", "UINT8", [len(data)], data)], final=final)


def counted(size, released):
    """Memory that says when it is given back."""
    return Buffer(heap_buffer(size).view, None, lambda _slot: released.append(size))


def test_a_request_runs_there_and_its_answer_comes_back_with_the_load(pair):
    pair.run()
    (request,) = pair.service.requests
    assert (request.model, request.version, request.id, request.inputs[0].data) == ("m", "1", "r", b"abc")
    assert pair.remote.get("b").load_of("m", "1")[2] == 1
    pair.service.dones[0](response(b"back"))
    pair.pass_time(0.05)
    ((outcome, unstarted),) = pair.heard
    assert (outcome.outputs[0].data, unstarted) == (b"back", False)
    assert pair.remote.get("b").load_of("m", "1") == (ReplicaLoad(3, 1, 2), 0, 0)
    assert not pair.remote.get("b").busy
    assert pair.metrics.sent["b"] == sum(pair.metrics.ways.counts) == 1


def test_pieces_come_in_order_and_the_memory_of_each_is_given_back_once_it_has_left(pair):
    pair.run()
    released = []
    for number in range(5):
        pair.service.dones[0](response(counted(200_000 + number, released), final=False))
    pair.service.dones[0](response(b""))
    pair.pass_time(1)
    assert [len(outcome.outputs[0].data) for outcome, _ in pair.heard] == [*range(200_000, 200_005), 0]
    assert released == [*range(200_000, 200_005)]


def test_a_deadline_travels_as_the_seconds_that_are_left(pair):
    request = InferenceRequest("m", "1", "r", [], deadline=time.monotonic() + 7)
    pair.run(request)
    assert pair.service.requests[0].deadline == pytest.approx(request.deadline, abs=0.5)
    pair.run(InferenceRequest("m", "1", "r", []))
    assert pair.service.requests[1].deadline is None


def test_timings_are_moved_to_this_machines_clock(pair, monkeypatch):
    request = InferenceRequest("m", "1", "r", [], timing=RequestTiming())
    pair.run(request)
    there = pair.service.requests[0].timing
    assert there is not request.timing
    # What the other machine's clock says is as good as any number.
    began = there.began
    there.shift(5000)
    now = there.began
    there.note_call(1, now, now + 0.25, (now + 0.25, now + 0.75, 2, 1))
    monkeypatch.setattr(remote_requests.time, "monotonic", lambda: began + 1.0)
    real = remote_requests.Answer

    def far(*values, **more):
        answer = real(*values, **more)
        answer.arrived += 5000
        return answer

    monkeypatch.setattr(remote_requests, "Answer", far)
    pair.service.dones[0](response())
    monkeypatch.undo()
    pair.pass_time(0.05)
    parts = request.timing.measure(time.monotonic() + 10)
    assert (parts.queue, parts.model, parts.rows) == (pytest.approx(0.25), pytest.approx(0.5), 2)
    (call,) = request.timing.calls.values()
    assert abs(call.arrived - request.timing.began) < 2


@pytest.mark.parametrize(
    ("error", "unstarted"),
    [(QueueFull("full"), True), (ModelNotReady("loading"), True), (InvalidInput("no"), True), (OutOfResources("x"), False)],
)  # fmt: skip
def test_only_what_was_refused_at_once_may_be_asked_elsewhere(pair, error, unstarted):
    pair.service.refusal = error
    if isinstance(error, QueueFull):
        error.retry_after = 3.5
    pair.run()
    ((found, may_go_elsewhere),) = pair.heard
    assert (type(found), found.message, may_go_elsewhere) == (type(error), error.message, unstarted)
    if isinstance(error, QueueFull):
        assert found.retry_after == 3.5
    assert found.model == "m"
    pair.service.refusal = None
    pair.run()
    pair.service.dones[1](error)  # later: it may have run
    pair.pass_time(0.05)
    assert pair.heard[1][1] is False


def test_a_withdrawn_request_is_cancelled_there_and_nothing_of_it_comes_back(pair):
    attempt = pair.run()
    attempt.cancel()
    pair.pass_time(0.05)
    assert pair.service.cancelled == ["r"]
    released = []
    pair.service.dones[0](response(counted(200_000, released)))
    pair.pass_time(0.5)
    assert pair.heard == []
    assert released == [200_000]
    assert not pair.remote.get("b").busy


def test_a_large_request_that_is_withdrawn_on_its_way_is_read_no_more(pair):
    large = InferenceRequest("m", "1", "r", [Tensor("x", "UINT8", [30_000_000], heap_buffer(30_000_000))])
    attempt = pair.remote.reach("b").run(large, lambda *_: None, lambda *_: None)
    pair.pass_time(0.003)
    attempt.cancel()
    assert attempt.transfer.finished
    pair.pass_time(1)
    assert pair.service.requests == []


def test_there_is_no_memory_for_a_request_or_for_its_answer(pair):
    def refuse(_size):
        raise MemoryError

    pair.nodes["b"].allocate = refuse
    pair.run(InferenceRequest("m", "1", "r", [Tensor("x", "UINT8", [200_000], heap_buffer(200_000))]))
    pair.pass_time(0.2)
    assert isinstance(pair.heard[0][0], OutOfResources)
    pair.run()
    pair.nodes["a"].allocate = refuse
    pair.service.dones[0](response(heap_buffer(200_000), final=False))
    pair.pass_time(0.2)
    assert isinstance(pair.heard[1][0], OutOfResources)
    assert pair.service.cancelled == ["r"]


def test_a_model_that_fills_a_slow_way_is_ended_before_it_fills_the_memory(pair, monkeypatch):
    monkeypatch.setattr(remote_requests, "_MAX_UNSENT", 10 << 20)
    pair.run()
    pair.delay = lambda message: None if len(message) > 10_000 else 0.001  # nothing large arrives
    released = []
    for _ in range(20):
        pair.service.dones[0](response(counted(1 << 20, released), final=False))
    assert pair.service.cancelled == ["r"]
    assert len(released) >= 11, "the memory of what waited is kept"


def test_of_a_lost_node_it_is_known_what_has_certainly_not_run(pair):
    pair.run()
    session = pair.remote.get("b").session
    pair.nodes["a"].on_unreachable("b", "cut")
    assert pair.losses == [("cut", False)]
    assert pair.metrics.lost["b"] == 1
    assert pair.remote.get("b") is None
    pair.run()
    pair.remote.get("b").session.lose("refused", 0)
    assert pair.losses[1] == ("refused", True)
    assert session.lost


def test_an_engine_that_raises_is_answered_and_ends_nothing_else(pair):
    pair.service.submit = lambda _request, _done: 1 / 0
    pair.run()
    assert "division by zero" in pair.heard[0][0].message
    pair.service.submit = Service.submit.__get__(pair.service)
    pair.run()
    pair.service.dones[0](response())
    pair.pass_time(0.05)
    assert isinstance(pair.heard[1][0], InferenceResponse)


def test_a_node_tells_what_its_versions_are(pair):
    told = []
    pair.remote.reach("b").ask_versions([("m", "1"), ("other", "1")], told.append, lambda: None)
    pair.pass_time(0.05)
    assert told[0].facts == [("m", "1", FACTS)]
    lost = []
    pair.silent.add("b")
    pair.remote.reach("b").ask_versions([("m", "1")], told.append, lambda: lost.append(1))
    pair.pass_time(2)
    assert lost == [1]


def test_errors_keep_their_kind_on_the_way(pair):
    pair.run()
    pair.service.dones[0](InvalidInput("instance 3: wrong"))
    pair.pass_time(0.05)
    found, _ = pair.heard[0]
    assert ErrorRecord.of(found) == ErrorRecord("InvalidInput", "instance 3: wrong")
