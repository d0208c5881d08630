"""The way of a request that this node does not simply run: to which node it goes, again where that is lost, and when it waits.

Runs in the first process of a node server.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

from mooring.cluster.records import Key
from mooring.cluster.remote_requests import RemoteNodes, VersionFacts
from mooring.cluster.routing import ReplicaLoad, Route, draw_two, rank_for_sequence, relative_load
from mooring.cluster.sequence_nodes import Home, Sequence, SequenceNodes
from mooring.core.errors import (
    ClusterUnavailable,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    MooringError,
    OutOfResources,
    QueueFull,
    SequenceLost,
    WorkerDied,
)
from mooring.core.options import SequenceHeaders
from mooring.core.requests import TENSORS, InferenceRequest, Operation
from mooring.core.service import Done, Outcome, Ticket
from mooring.engine.admission import NO_OP_TICKET
from mooring.engine.body_reader import BodyRead, is_undecoded
from mooring.engine.steps import new_sequence_id, step_of
from mooring.observability.cluster_metrics import ClusterMetrics

_TICK = 0.05
# Seconds for which a request is held while every node that has its model is lost, and none is to come.
_PATIENCE = 10.0
# Nodes that a step of a sequence is tried on which this node does not know.
_TRIED = 3


class Cluster(Protocol):
    """What placing a request needs to know."""

    node: str

    def find_route(self, key: Key) -> Route | None:
        """The route of a version now."""

    def find_facts(self, key: Key) -> VersionFacts | None:
        """What a version is, as far as it is known here."""

    def find_load(self, key: Key) -> ReplicaLoad | None:
        """What the replica of this node has to do; None where it has none that takes requests."""

    def find_refusal(self, key: Key) -> MooringError | None:
        """The error with which this node's replica would refuse a request now."""

    def submit_here(self, request: InferenceRequest, done: Done) -> Ticket:
        """Have the engine of this node run a request, which is the engine's from then on."""

    def is_missing(self, key: Key) -> MooringError:
        """The error for a version that the cluster does not have any more."""

    def read_body(self, request: InferenceRequest, done: BodyRead) -> Ticket:
        """As ``BodyReader.read_body``."""


class ClusterRequest:
    """A request on its way through the cluster; the ``Ticket`` of its caller.

    ``node`` has it now, or is empty while it is held or its body is being read. Only while this node's engine has it, its memory is not
    this object's. ``refused`` are the nodes that would not take it, with what the first of them said.
    """

    __slots__ = (
        "_placement",
        "began",
        "done",
        "ends",
        "held_since",
        "key",
        "node",
        "read",
        "refusal",
        "refused",
        "repeated",
        "request",
        "sequence",
        "starts",
        "streamed",
        "ticket",
    )  # fmt: skip

    def __init__(
        self, placement: "RequestPlacement", key: Key, request: InferenceRequest, done: Done
    ) -> None:
        self._placement = placement
        self.key = key
        self.request = request
        self.done: Done | None = done
        self.began = self.held_since = time.monotonic()
        self.node = ""
        self.ticket: Ticket | None = None
        self.refused: set[str] = set()
        self.refusal: MooringError | None = None
        self.repeated = self.streamed = self.read = False
        # Of a model with sequences.
        self.sequence: Sequence | None = None
        self.starts = self.ends = False

    def cancel(self) -> None:
        """Withdraw the request, wherever it is."""
        self._placement.withdraw(self)


class RequestPlacement:
    """Places requests, and holds those that no node can take yet. ``queue_size`` bounds those of a version that nobody has told of."""

    def __init__(
        self,
        cluster: Cluster,
        nodes: RemoteNodes,
        metrics: ClusterMetrics,
        queue_size: int,
        on_tick: Callable[[], bool] = lambda: False,
    ) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._metrics = metrics
        self._queue_size = queue_size
        self._on_tick = on_tick
        self._open: set[ClusterRequest] = set()
        self._held: dict[Key, deque[ClusterRequest]] = {}
        self._sequences = SequenceNodes()
        self._ticking: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def submit(self, key: Key, request: InferenceRequest, done: Done) -> Ticket:
        """Place a request for this version; every refusal goes to ``done``."""
        request.version = key[1]
        each = ClusterRequest(self, key, request, done)
        self._open.add(each)
        self.watch()
        self._place(each)
        return each

    def withdraw(self, each: ClusterRequest) -> None:
        """Nobody waits for a request any more."""
        if each.done is None:
            return
        each.done = None
        self._end(each)

    def place_held(self) -> None:
        """Place what is held, as far as nodes can take it now. Call it when something has changed."""
        for key in list(self._held):
            waiting = self._held.pop(key, None)
            if waiting is None:
                continue
            facts = self._cluster.find_facts(key)
            if facts is None or facts.sequences is None:
                # As in a queue: the order of those with the same priority stays.
                ordered = sorted(waiting, key=lambda each: each.request.priority or math.inf)
            else:
                ordered = list(waiting)
            for each in ordered:
                if each.done is not None:
                    self._place(each)

    def held(self) -> Mapping[str, Mapping[str, int]]:
        """How many requests wait here for a replica, by model and version."""
        counts: dict[str, dict[str, int]] = {}
        for (model, version), waiting in self._held.items():
            counts.setdefault(model, {})[version] = len(waiting)
        return counts

    def watch(self) -> None:
        """Look at deadlines and at what is held, while there is any."""
        if self._ticking is None:
            self._ticking = self._loop.call_later(_TICK, self._tick)

    def close(self) -> None:
        """Give up all requests."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        for each in list(self._open):
            self.withdraw(each)

    # Where a request goes

    def _place(self, each: ClusterRequest) -> None:
        """Send a request to the node that should have it, hold it, or refuse it."""
        route = self._cluster.find_route(each.key)
        if route is None:
            self._finish(each, each.refusal or self._cluster.is_missing(each.key))
            return
        facts = self._cluster.find_facts(each.key)
        if facts is None:
            self._hold(each, route, None)
            return
        request = each.request
        if facts.client_timeout and request.deadline is None:
            request.deadline = each.began + facts.client_timeout
        if facts.sequences is not None and request.operation is not Operation.DESCRIBE:
            self._place_step(each, route, facts, facts.sequences)
            return
        node = self._choose_node(each, route)
        if node:
            self._send(each, node)
        elif refusal := each.refusal or self._cluster.find_refusal(each.key):
            self._finish(each, refusal)
        else:
            self._hold(each, route, facts)

    def _choose_node(self, each: ClusterRequest, route: Route) -> str:
        """The less loaded of two other nodes, or of them and this one; empty where no node can take it now."""
        others = self._reached(each, route)
        loads = {node: self._load_at(node, route) for node in draw_two(others)}
        load = self._cluster.find_load(each.key)
        if load is not None and self._cluster.find_refusal(each.key) is None:
            # First: where both have the same to do, it stays here.
            own = relative_load(load, 0, 0) if load.workers else math.inf
            loads = {self._cluster.node: own, **loads}
        return min(loads, key=loads.__getitem__, default="")

    def _reached(self, each: ClusterRequest, route: Route) -> list[str]:
        return [
            node for node in route.others if node not in each.refused and not self._nodes.is_avoided(node)
        ]

    def _load_at(self, node: str, route: Route) -> float:
        remote = self._nodes.get(node)
        return relative_load(*remote.load_of(route.model, route.version)) if remote is not None else 0.0

    def _send(self, each: ClusterRequest, node: str) -> None:
        each.node = node
        if node == self._cluster.node:
            each.ticket = NO_OP_TICKET  # while it is being submitted: it may be answered at once
            ticket = self._cluster.submit_here(
                each.request, lambda outcome: self._on_answer(each, node, outcome, unstarted=False)
            )
            if each.ticket is NO_OP_TICKET:
                each.ticket = ticket
            return
        try:
            each.ticket = self._nodes.reach(node).run(
                each.request,
                lambda outcome, unstarted: self._on_answer(each, node, outcome, unstarted=unstarted),
                lambda reason, unstarted: self._on_lost(each, node, reason, unstarted=unstarted),
                each.sequence,
            )
        except OverflowError as error:
            self._finish(each, OutOfResources(str(error)))

    # Sequences

    def _place_step(
        self, each: ClusterRequest, route: Route, facts: VersionFacts, names: SequenceHeaders
    ) -> None:
        """Place a step of a sequence: where its sequence is, or where all nodes would look for it."""
        if each.sequence is None:
            if is_undecoded(each.request) and not each.read:
                self._read_body(each)
                return
            try:
                self._name_step(each, names)
            except MooringError as error:
                self._finish(each, error)
                return
        sequence = each.sequence
        assert sequence is not None
        if self._has_held_steps(sequence, each.key):  # the steps before it come first
            self._hold(each, route, facts)
            return
        home = self._sequences.find(sequence)
        if home is not None:
            self._send_home(each, route, facts, home)
        elif self._sequences.is_lost(sequence) and not each.starts:
            self._finish(each, _sequence_lost(sequence))
        else:
            self._send_by_rank(each, route, facts, sequence)

    def _name_step(self, each: ClusterRequest, names: SequenceHeaders) -> None:
        """Read which sequence a request belongs to; one that its client has not named gets a name. Raises ``InvalidInput``."""
        request = each.request
        step = step_of(request, names)
        each.starts, each.ends = step.start, step.end
        name = str(step.id)
        if not step.id and request.form is not TENSORS:
            name = new_sequence_id()
            started = (names.start.encode(), b"true")
            request.headers = [*(request.headers or ()), (names.id.encode(), name.encode()), started]
            each.starts = True
        each.sequence = Sequence(*each.key, name)

    def _send_home(self, each: ClusterRequest, route: Route, facts: VersionFacts, home: Home) -> None:
        """Send a step to the node that has its sequence."""
        sequence, node = each.sequence, home.node
        assert sequence is not None
        if node == self._cluster.node:
            self._send(each, node)
            return
        gone = node not in route.others
        if not gone and not self._nodes.is_avoided(node):
            instance = self._nodes.reach(node).session.instance
            gone = (
                bool(instance and home.instance) and instance != home.instance
            )  # its server was started again
            if instance and not gone:
                self._send(each, node)
                return
        if each.starts:  # it begins anew, wherever that is
            self._sequences.forget(sequence)
            self._send_by_rank(each, route, facts, sequence)
        elif gone:
            self._sequences.lose(sequence)
            self._finish(each, _sequence_lost(sequence))
        else:  # the node is not reached now, or the session is being opened
            self._hold(each, route, facts)

    def _send_by_rank(
        self, each: ClusterRequest, route: Route, facts: VersionFacts, sequence: Sequence
    ) -> None:
        nodes = self._reached(each, route)
        if self._cluster.node not in each.refused and self._cluster.find_load(each.key) is not None:
            nodes.append(self._cluster.node)
        ranked = rank_for_sequence(*sequence, nodes)
        if ranked:
            if each.starts:
                self._sequences.remember(sequence, Home(ranked[0]))
            self._send(each, ranked[0])
        elif each.refusal is not None:
            self._finish(each, each.refusal)
        else:
            self._hold(each, route, facts)

    def _read_body(self, each: ClusterRequest) -> None:
        """Have a large body read: it says itself which sequence it belongs to."""
        each.ticket = NO_OP_TICKET

        def done(error: MooringError | None) -> None:
            each.ticket, each.read = None, True
            if each.done is None:
                return
            if error is not None:
                self._finish(each, error)
            else:
                self._place(each)

        ticket = self._cluster.read_body(each.request, done)
        if each.ticket is NO_OP_TICKET:
            each.ticket = ticket

    def _has_held_steps(self, sequence: Sequence, key: Key) -> bool:
        return any(held.sequence == sequence for held in self._held.get(key, ()))

    # What becomes of it

    def _on_answer(self, each: ClusterRequest, node: str, outcome: Outcome, *, unstarted: bool) -> None:
        if each.done is None:
            return
        if isinstance(outcome, MooringError):
            if unstarted and self._may_try_elsewhere(each, outcome):
                each.refused.add(node)
                each.refusal = each.refusal or outcome
                each.node, each.ticket = "", None
                self._place(each)
                return
            if each.sequence is not None and (each.starts or each.ends):
                self._sequences.forget(each.sequence)
            self._finish(each, each.refusal or outcome if unstarted else outcome)
        elif outcome.final:
            if each.sequence is not None:
                self._note_step(each, each.sequence)
            self._finish(each, outcome)
        else:
            each.streamed = True
            each.done(outcome)

    def _note_step(self, each: ClusterRequest, sequence: Sequence) -> None:
        if each.ends:
            self._sequences.forget(sequence)
            return
        remote = self._nodes.get(each.node)
        self._sequences.remember(
            sequence, Home(each.node, remote.session.instance if remote is not None else 0)
        )

    def _may_try_elsewhere(self, each: ClusterRequest, error: MooringError) -> bool:
        """Whether a request that a node has refused may be for another one."""
        if each.sequence is None:
            return isinstance(error, QueueFull | ModelNotReady | ModelNotFound)
        if isinstance(error, ModelNotReady | ModelNotFound):
            return self._sequences.find(each.sequence) is None
        # It was not begun there: with other replicas than now its place was another one.
        unknown = isinstance(error, InvalidInput) and not each.starts and len(each.refused) + 1 < _TRIED
        return unknown and self._sequences.find(each.sequence) is None

    def _on_lost(self, each: ClusterRequest, node: str, reason: str, *, unstarted: bool) -> None:
        """The node that had a request is lost. Send it once more where that can do no harm."""
        if each.done is None:
            return
        each.node, each.ticket, each.held_since = "", None, time.monotonic()
        facts = self._cluster.find_facts(each.key)
        if each.sequence is not None and not unstarted:
            self._sequences.lose(each.sequence)
            self._finish(each, _sequence_lost(each.sequence))
            return
        may_repeat = facts is not None and facts.retry and not each.repeated and not each.streamed
        if unstarted or may_repeat:
            each.repeated = each.repeated or not unstarted
            self._metrics.repeated += 1
            self._place(each)
            return
        model, version = each.key
        text = f"node '{node}' was lost while it had the request: {reason}"
        self._finish(each, WorkerDied(text, model=model, version=version))

    def _hold(self, each: ClusterRequest, route: Route, facts: VersionFacts | None) -> None:
        """Let a request wait for a node that can take it, within the bound of a queue."""
        waiting = self._held.setdefault(each.key, deque())
        bound = facts.queue_size if facts is not None and facts.queue_size else self._queue_size
        if len(waiting) >= bound:
            text = f"{len(waiting)} requests wait for a replica of model '{route.model}', as many as may; try again later"
            self._finish(each, QueueFull(text, model=route.model, version=route.version))
            return
        waiting.append(each)

    def _finish(self, each: ClusterRequest, outcome: Outcome) -> None:
        """Pass the outcome of a request to its caller; whoever gave it has nothing of the request any more."""
        each.ticket = None
        self._give_up(each, outcome)

    def _give_up(self, each: ClusterRequest, outcome: Outcome) -> None:
        """Pass an outcome to the caller, and withdraw the request from whoever has it."""
        done, each.done = each.done, None
        self._end(each)
        if done is not None:
            done(outcome)

    def _end(self, each: ClusterRequest) -> None:
        """Give back what a request has, wherever it is."""
        self._open.discard(each)
        waiting = self._held.get(each.key)
        if waiting is not None and each in waiting:
            waiting.remove(each)
            if not waiting:
                del self._held[each.key]
        ticket, each.ticket = each.ticket, None
        if ticket is not None:
            ticket.cancel()
        if each.node != self._cluster.node:
            each.request.release()

    def _tick(self) -> None:
        now = time.monotonic()
        for each in [each for each in self._open if each.request.expired(now)]:
            if each.node != self._cluster.node:  # the engine sees its own
                model, version = each.key
                text = f"model '{model}' did not answer in time"
                self._give_up(each, DeadlineExceeded(text, model=model, version=version))
        self._refuse_impatient(now)
        self.place_held()
        busy = self._on_tick()
        self._ticking = self._loop.call_later(_TICK, self._tick) if self._open or busy else None

    def _refuse_impatient(self, now: float) -> None:
        """Refuse what waits for nodes that are lost, or for a version that fits nowhere."""
        for key in list(self._held):
            route = self._cluster.find_route(key)
            if route is None or route.starting:
                continue
            model, version = key
            for each in [each for each in self._held.get(key, ()) if now - each.held_since > _PATIENCE]:
                text = f"no node that has model '{model}' version '{version}' is reached now"
                self._give_up(each, ClusterUnavailable(text, model=model, version=version))


def _sequence_lost(sequence: Sequence) -> SequenceLost:
    model, version, name = sequence
    return SequenceLost(
        f"the state of sequence '{name}' of model '{model}' is lost: the node that had it is gone; start the sequence anew",
        model=model,
        version=version,
    )
