"""The ``InferenceService`` of a node: its own engine first, and other nodes for what they have. Runs in the first process of a node server."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec import structs

from mooring.cluster.link import ClusterLink
from mooring.cluster.peers import Peers, Session
from mooring.cluster.records import Key, NodeAssignment, RoutingTable
from mooring.cluster.remote_requests import (
    AnswerQuestion,
    NodeRequests,
    QuestionAnswer,
    RemoteNodes,
    VersionFacts,
)
from mooring.cluster.request_placement import RequestPlacement
from mooring.cluster.routing import ReplicaLoad, Route, Routes
from mooring.cluster.version_facts import VersionDirectory, facts_of
from mooring.core.errors import (
    ClusterUnavailable,
    ModelNotFound,
    ModelNotReady,
    MooringError,
    VersionNotFound,
)
from mooring.core.requests import InferenceRequest
from mooring.core.service import Done, InferenceService, ModelMetadata, ModelState, Ticket
from mooring.engine.admission import refuse_request
from mooring.engine.body_reader import BodyRead
from mooring.engine.engine import Engine
from mooring.engine.registry import ModelVersion
from mooring.ipc.arena import Arena
from mooring.observability.cluster_metrics import ClusterMetrics

# Seconds in which another node answers what a client of a management protocol asks.
_PATIENCE = 10.0


class ClusterService(InferenceService):
    """Answers for every model of the cluster.

    How this works: assignments bring the routing table. ``submit`` finds the route of a request, which names its version.
    What this node's replica has room for goes to the engine as it is; any other request is placed
    (request_placement.py). What other nodes' versions are is asked when a table names them (version_facts.py). Before the first
    assignment, and for models that no table names, this is the engine.

    ``queue_size`` bounds the held requests of a version that no node has told of yet. ``answer_question`` answers what other nodes
    ask of versions here. ``is_settled`` tells whether this node has what it was first assigned, as far as it can be had.
    """

    def __init__(
        self,
        engine: Engine,
        link: ClusterLink,
        arena: Arena,
        metrics: ClusterMetrics,
        *,
        queue_size: int,
        answer_question: AnswerQuestion,
        is_settled: Callable[[], bool],
    ) -> None:
        self._is_settled = is_settled
        self.node = link.node
        self._engine = engine
        self._link = link
        self._routes = Routes(RoutingTable(), self.node)
        self._draining = False
        self._assigned = False  # whether this process has heard what the cluster has
        self._nodes = RemoteNodes(metrics)

        def serve(session: Session) -> NodeRequests:
            return NodeRequests(
                session, engine, metrics, self._find_load_here, self._find_facts_here, answer_question
            )

        self._peers = Peers(link.send, arena.allocate, serve)
        self._nodes.use(self._peers)
        self._placement = RequestPlacement(self, self._nodes, metrics, queue_size, self._on_tick)
        self._directory = VersionDirectory(self._nodes, self._placement.place_held)
        link.on_messages(self._peers.receive)
        link.on_unreachable(self._peers.on_unreachable)
        link.on_assignment(self._take_assignment)
        metrics.nodes = lambda: [name for name in self._routes.table.nodes if name != self.node]
        metrics.held = lambda: sum(sum(counts.values()) for counts in self.held().values())
        metrics.attached = lambda: link.attached
        metrics.replicas = self._list_replicas
        engine.entry = self

    def held(self) -> Mapping[str, Mapping[str, int]]:
        """How many requests wait here for a replica, by model and version."""
        return self._placement.held()

    def _list_replicas(self) -> Iterator[tuple[str, str, int, int]]:
        """Each version of the cluster, how many nodes have it ready and how many should."""
        table = self._routes.table
        for model, versions in table.wanted.items():
            for version, wanted in versions.items():
                yield model, version, len(table.replicas.get(model, {}).get(version, ())), wanted

    def close(self) -> None:
        """Give up what other nodes have of this one, and what this one has of them."""
        self._placement.close()
        self._peers.close()

    # InferenceService

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        route = self._routes.by_version.get((request.model, request.version))
        if route is None:
            return self._submit_unrouted(request, done)
        version = self._find_here(route)
        if version is not None and (not route.others or _has_room(version)):
            # A request that names no version counts as such, but only where the engine would choose the same one.
            if not request.version and self._engine.registry.models[route.model].default != route.version:
                request.version = route.version
            return self._engine.submit(request, done)
        if not route.others and not route.starting:
            if (
                self._find_version(route.model, route.version) is not None
            ):  # which says why it does not answer
                return self._engine.submit(request, done)
            return refuse_request(request, done, self._no_place_error(route))
        return self._placement.submit((route.model, route.version), request, done)

    def overload_error(self, model: str, version: str = "") -> MooringError | None:
        route = self._routes.by_version.get((model, version))
        return self._engine.overload_error(model, version) if route is None or not route.others else None

    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether the model, or this node can answer.

        A node can that was attached once and is not to be emptied, once it has what it was first assigned. A model that it should have
        and cannot answer with now must be on another node then. What only other nodes have is theirs: one that dies does not
        make all others unready.
        """
        if not model:
            return (
                self._link.attached_once
                and not self._draining
                and self._engine.readiness.is_open
                and self._is_settled()
                and all(
                    self._can_answer(route) for key, route in self._routes.by_version.items() if not key[1]
                )
            )
        route = self._find_route(model, version)
        if route is None:
            return self._engine.ready(model, version)
        if any(not self._nodes.is_avoided(node) for node in route.others):
            return True
        return self._find_here(route) is not None and self._engine.ready(model, route.version)

    def _can_answer(self, route: Route) -> bool:
        if not route.here or any(not self._nodes.is_avoided(node) for node in route.others):
            return True
        version = self._find_version(route.model, route.version)
        return version is not None and (version.suspended or self._engine.readiness.can_answer(version))

    async def ask_node(self, node: str, what: str, model: str, version: str) -> bytes:
        """Ask another node about a version that it has (``ModelQuestion``). Raises ``MooringError``."""
        found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def receive(answer: QuestionAnswer) -> None:
            if found.done():
                return
            if isinstance(answer.found, bytes):
                found.set_result(answer.found)
            else:
                found.set_exception(answer.found.error(model=model, version=version))

        def on_lost() -> None:
            if not found.done():
                found.set_exception(ClusterUnavailable(f"node '{node}' does not answer"))

        self._nodes.reach(node).ask(what, model, version, receive, on_lost)
        try:
            return await asyncio.wait_for(found, _PATIENCE)
        except TimeoutError:
            raise ClusterUnavailable(f"node '{node}' has not answered in {_PATIENCE:g} s") from None

    def healthy(self) -> bool:
        return self._engine.healthy()

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        route = self._find_route(model, version)
        if route is None or self._find_here(route) is not None:
            return self._engine.metadata(model, version if route is None else route.version)
        facts = self._directory.find((route.model, route.version))
        if facts is not None:
            return facts.metadata
        if not route.others and not route.starting:
            raise self._no_place_error(route)
        text = (
            f"model '{model}' version '{route.version}' is on other nodes, and none has told yet what it is"
        )
        raise ModelNotReady(text, model=model, version=route.version)

    def models(self) -> Sequence[ModelState]:
        defaults, here = self._routes.table.defaults, self._engine.models()
        states = [
            structs.replace(state, is_default=state.version == defaults[state.name])
            if state.name in defaults
            else state
            for state in here
        ]
        known = {(state.name, state.version) for state in here}
        states += [
            self._state_of(route, is_default=key[1] == defaults.get(key[0]))
            for key, route in self._routes.by_version.items()
            if key[1] and key not in known
        ]
        return sorted(states, key=lambda state: (state.name, state.version))

    def _state_of(self, route: Route, *, is_default: bool) -> ModelState:
        if route.others:
            state, reason = "READY", ""
        elif route.starting:
            state, reason = "LOADING", "no node has it ready yet"
        else:
            state, reason = "UNAVAILABLE", route.missing
        facts = self._directory.find((route.model, route.version))
        return ModelState(
            route.model,
            route.version,
            state,
            ready=bool(route.others),
            is_default=is_default,
            reason=reason,
            listed=facts is None or facts.listed,
            kind=facts.kind if facts is not None else "",
            platform=facts.metadata.platform if facts is not None else "",
        )

    # What placing a request needs to know

    def find_route(self, key: Key) -> Route | None:
        """The route of a version now."""
        return self._routes.by_version.get(key)

    def find_facts(self, key: Key) -> VersionFacts | None:
        """What a version is: as another node has told, or as this node knows."""
        return self._directory.find(key) or self._find_facts_here(*key)

    def find_load(self, key: Key) -> ReplicaLoad | None:
        """What the replica of this node has to do; None where it has none that takes requests."""
        route = self._routes.by_version.get(key)
        version = self._find_here(route) if route is not None else None
        if version is None:
            return None
        return self._find_load_here(*key) or ReplicaLoad()

    def find_refusal(self, key: Key) -> MooringError | None:
        """The error with which this node's replica would refuse a request now."""
        return self._engine.overload_error(*key) if self._find_version(*key) is not None else None

    def submit_here(self, request: InferenceRequest, done: Done) -> Ticket:
        """Have the engine of this node run a request, which is the engine's from then on."""
        return self._engine.submit(request, done)

    def read_body(self, request: InferenceRequest, done: BodyRead) -> Ticket:
        """Have a large body read by a codec process."""
        return self._engine.read_body(request, done)

    def is_missing(self, key: Key) -> MooringError:
        """The error for a version that the cluster does not have any more."""
        model, version = key
        if model in self._routes.models or model in self._engine.registry.models:
            return VersionNotFound(
                f"model '{model}' has no version '{version}'", model=model, version=version
            )
        return ModelNotFound(f"model '{model}' is not loaded", model=model)

    # This node

    def _take_assignment(self, assignment: NodeAssignment) -> None:
        self._draining, self._assigned = assignment.draining, True
        if assignment.routing != self._routes.table:
            self._routes = Routes(assignment.routing, self.node)
            self._directory.update(self._routes)
            self._placement.place_held()
        if self._directory.asking:
            self._placement.watch()

    def _on_tick(self) -> bool:
        """Ask once more what nobody has told; whether there is something like that."""
        if self._directory.asking:
            self._directory.ask()
        return self._directory.asking

    def _submit_unrouted(self, request: InferenceRequest, done: Done) -> Ticket:
        """Submit a request for what only this node knows, or nobody does."""
        if not self._assigned and request.model not in self._engine.registry.models:
            return refuse_request(request, done, _unknown_yet(request.model))
        if request.model in self._routes.models and request.model not in self._engine.registry.models:
            return refuse_request(request, done, self.is_missing((request.model, request.version)))
        return self._engine.submit(request, done)

    def _find_route(self, model: str, version: str) -> Route | None:
        """The route of a version, or None for what only this node knows. Raises ``VersionNotFound`` and ``ModelNotReady``."""
        route = self._routes.by_version.get((model, version))
        if not self._assigned and model not in self._engine.registry.models:
            raise _unknown_yet(model)
        if route is None and model in self._routes.models and model not in self._engine.registry.models:
            raise self.is_missing((model, version))
        return route

    def _no_place_error(self, route: Route) -> ModelNotReady:
        text = f"model '{route.model}' version '{route.version}' is on no node: {route.missing or 'it failed to load'}"
        return ModelNotReady(text, model=route.model, version=route.version)

    def _find_version(self, model: str, version: str) -> ModelVersion | None:
        entry = self._engine.registry.models.get(model)
        return entry.versions.get(version) if entry is not None else None

    def _find_here(self, route: Route) -> ModelVersion | None:
        """The version here, where it answers; while it leaves this node others get its new requests."""
        version = self._find_version(route.model, route.version)
        if version is None or not version.ready or (route.others and not route.here):
            return None
        return version

    def _find_load_here(self, model: str, version: str) -> ReplicaLoad | None:
        found = self._find_version(model, version)
        if found is None or found.scheduler is None or found.pool is None:
            return None
        load = found.scheduler.load
        return ReplicaLoad(load.waiting, load.running, found.pool.ready)

    def _find_facts_here(self, model: str, version: str) -> VersionFacts | None:
        found = self._find_version(model, version)
        return facts_of(found, self._engine) if found is not None and found.ready else None


def _unknown_yet(model: str) -> ModelNotReady:
    """The error for a model that a node which has just started may hear of from its cluster."""
    return ModelNotReady(
        f"this node has not heard from its cluster yet whether there is a model '{model}'", model=model
    )


def _has_room(version: ModelVersion) -> bool:
    """Whether the workers of a version will soon take one request more. A step of a sequence goes where its sequence is."""
    scheduler, pool = version.scheduler, version.pool
    if scheduler is None or pool is None:
        return True
    if version.spec.sequence.enabled or scheduler.refusal is not None or not pool.ready:
        return False
    return bool(pool.idle) or scheduler.waiting < pool.ready * scheduler.spec.batching.max_batch_size
