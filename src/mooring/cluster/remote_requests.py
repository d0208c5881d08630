"""Requests between node servers: what both ends say, and the two ends. Runs in the first process of a node server.

``RemoteNode`` sends the requests of this node to another one, and ``NodeRequests`` runs those of another node here, through
the engine's own queues: batches, bounds, priorities, deadlines and retries are the engine's. A deadline travels as the seconds that are
left, and moments of timings are moved from one machine's clock to the other's. An answer travels whole: its texts are written
before it leaves, and its memory is given back when it has left.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any

import msgspec

from mooring.cluster.peers import Peers, Session
from mooring.cluster.routing import ReplicaLoad
from mooring.core.buffers import Buffer
from mooring.core.errors import (
    ErrorRecord,
    InvalidInput,
    ModelFailed,
    ModelNotFound,
    ModelNotReady,
    MooringError,
    QueueFull,
)
from mooring.core.options import SequenceHeaders
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import Done, InferenceService, ModelMetadata, Outcome, Ticket
from mooring.core.tensors import release
from mooring.core.timing import RequestTiming
from mooring.engine.admission import NO_OP_TICKET
from mooring.ipc.messages import NO_MEMORY, MessageDecoder
from mooring.observability.cluster_metrics import ClusterMetrics
from mooring.observability.logs import get_logger

log = get_logger(__name__)

# With these a request is refused before anything of it runs, where they come at once.
_REFUSALS = (ModelNotFound, ModelNotReady, QueueFull, InvalidInput)
# Bytes of the pieces of one streamed answer that wait because the other node takes them too slowly. A model may well be faster
# than the way for a while, and nothing slows it down, on one machine neither.
_MAX_UNSENT = 512 << 20


class Run(msgspec.Struct, array_like=True, tag="run"):
    """Run a request. ``seconds`` are left until its deadline; ``timed``: its client asks where the time goes."""

    key: int
    request: InferenceRequest
    seconds: float | None
    timed: bool


class Withdraw(msgspec.Struct, array_like=True, tag="withdraw"):
    """Nobody waits for a request any more."""

    key: int


class AskVersions(msgspec.Struct, array_like=True, tag="ask"):
    """Tell what these versions are."""

    key: int
    versions: list[tuple[str, str]]


class ModelQuestion(msgspec.Struct, array_like=True, tag="question"):
    """What a client of a management protocol wants to know of a version: ``what`` is description, config, usage or options."""

    key: int
    what: str
    model: str
    version: str


class Answer(msgspec.Struct, array_like=True, tag="answer"):
    """An answer, or a piece of one. ``load`` is what the replica has to do now, where it has a queue.

    ``spent`` is how long the request has been there. ``unstarted``: it was refused before anything of it ran, so that it may
    be asked elsewhere. ``arrived`` is when it came, on the clock of ``timing``. ``retry_after`` is that of a full queue.
    """

    key: int
    outcome: InferenceResponse | ErrorRecord
    load: ReplicaLoad | None = None
    spent: float = 0.0
    unstarted: bool = False
    timing: RequestTiming | None = None
    arrived: float = 0.0
    retry_after: float = 0.0


class VersionFacts(msgspec.Struct, array_like=True, frozen=True):
    """What a node that has a version tells of it. ``retry``: a request may run once more after its worker or node died.

    ``sequences`` are the headers that name a sequence, None for a model without.
    """

    metadata: ModelMetadata
    kind: str = ""
    listed: bool = True
    retry: bool = True
    sequences: SequenceHeaders | None = None
    client_timeout: float = 0.0
    queue_size: int = 0


class Versions(msgspec.Struct, array_like=True, tag="versions"):
    """What the versions are that were asked for, by model and version; those that are not ready here are left out."""

    key: int
    facts: list[tuple[str, str, VersionFacts]]


class QuestionAnswer(msgspec.Struct, array_like=True, tag="told"):
    """The answer to a ``ModelQuestion``, as MessagePack of what was asked for."""

    key: int
    found: bytes | ErrorRecord


AnswerQuestion = Callable[[ModelQuestion], Awaitable[bytes]]
"""Answers a question of another node. Raises ``MooringError``."""

ToNode = Run | Withdraw | AskVersions | ModelQuestion
ToEntry = Answer | Versions | QuestionAnswer


class Attempt:
    """A request that another node has: the ``Ticket`` of whoever sent it there."""

    __slots__ = ("_node", "_on_answer", "key", "lane", "on_lost", "request", "sent", "transfer")

    def __init__(
        self,
        node: "RemoteNode",
        key: int,
        request: InferenceRequest,
        on_answer: Callable[[Outcome, bool], None],
        on_lost: Callable[[str, bool], None],
        lane: Hashable,
    ) -> None:
        self._node = node
        self._on_answer = on_answer
        self.key = key
        self.request = request
        self.on_lost = on_lost
        self.lane = lane
        self.sent = time.monotonic()
        self.transfer = node.session.send(self._message(), lane)

    def cancel(self) -> None:
        """Withdraw it: neither function is called again, and the memory of the request is not read any more."""
        self._node.withdraw(self)

    def receive(self, answer: Answer) -> None:
        """Pass on an answer or a piece."""
        outcome, request = answer.outcome, self.request
        if answer.timing is not None and request.timing is not None:
            way = max(time.monotonic() - self.sent - answer.spent, 0.0)
            answer.timing.shift(self.sent + way / 2 - answer.arrived)
            request.timing.follow(answer.timing)
        if not isinstance(outcome, ErrorRecord):
            self._on_answer(outcome, False)
            return
        error = outcome.error(model=request.model, version=request.version)
        if isinstance(error, QueueFull):
            error.retry_after = answer.retry_after
        self._on_answer(error, answer.unstarted)

    def _message(self) -> Run:
        request = self.request
        seconds = None if request.deadline is None else max(request.deadline - self.sent, 0.0)
        timed = request.timing is not None
        plain = (
            msgspec.structs.replace(request, deadline=None, timing=None)
            if timed or seconds is not None
            else request
        )
        return Run(self.key, plain, seconds, timed)


class RemoteNode:
    """The session that this node has opened at another one, with what it awaits there."""

    def __init__(
        self, session: Session, metrics: ClusterMetrics, on_end: Callable[["RemoteNode"], None]
    ) -> None:
        self.session = session
        self._metrics = metrics
        self._on_end = on_end
        self._keys = 0
        self._attempts: dict[int, Attempt] = {}
        self._questions: dict[int, tuple[Callable[[Any], None], Callable[[], None]]] = {}
        self._decode = MessageDecoder(ToEntry).decode
        # By model and version: the last load, how many of mine it had in it, and how many of mine there are now.
        self._loads: dict[tuple[str, str], tuple[ReplicaLoad, int]] = {}
        self._mine: Counter[tuple[str, str]] = Counter()

    @property
    def busy(self) -> bool:
        """Whether answers are awaited."""
        return bool(self._attempts or self._questions)

    def load_of(self, model: str, version: str) -> tuple[ReplicaLoad, int, int]:
        """The last load of a replica, how many requests of this node it had in it, and how many there are now."""
        load, reported = self._loads.get((model, version), (ReplicaLoad(), 0))
        return load, reported, self._mine[model, version]

    def run(
        self,
        request: InferenceRequest,
        on_answer: Callable[[Outcome, bool], None],
        on_lost: Callable[[str, bool], None],
        lane: Hashable = None,
    ) -> Attempt:
        """Have a request of a named version run there, behind those of the same lane.

        ``on_answer`` gets each piece and the answer, with True for an error before anything ran. ``on_lost`` is called in its place where the
        node is lost: the reason, and True where nothing of it can have run. The request's memory is read until then.
        Raises ``OverflowError`` for one that is too large.
        """
        self._keys += 1
        attempt = Attempt(self, self._keys, request, on_answer, on_lost, lane)
        self._attempts[attempt.key] = attempt
        self._mine[request.model, request.version] += 1
        self._metrics.sent[self.session.node] += 1
        return attempt

    def ask_versions(
        self,
        versions: Sequence[tuple[str, str]],
        receive: Callable[[Versions], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Ask what versions are; ``on_lost`` is called where the node is lost."""
        self._keys += 1
        self._questions[self._keys] = receive, on_lost
        self.session.send(AskVersions(self._keys, list(versions)))

    def ask(
        self,
        what: str,
        model: str,
        version: str,
        receive: Callable[[QuestionAnswer], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Ask a ``ModelQuestion``; ``on_lost`` is called where the node is lost."""
        self._keys += 1
        self._questions[self._keys] = receive, on_lost
        self.session.send(ModelQuestion(self._keys, what, model, version))

    def withdraw(self, attempt: Attempt) -> None:
        """Nobody waits for a request any more."""
        if self._forget(attempt):
            self.session.drop(attempt.transfer, attempt.lane)
            if attempt.transfer.first_packet >= 0:
                self.session.send(Withdraw(attempt.key), attempt.lane)

    def receive(self, head: bytes | bytearray | memoryview, payloads: Sequence[Buffer | None]) -> None:
        message = self._decode(memoryview(head), payloads)
        if isinstance(message, Versions | QuestionAnswer):
            asked = self._questions.pop(message.key, None)
            if asked is not None:
                asked[0](message)
            return
        attempt = self._attempts.get(message.key)
        if attempt is None:  # it was withdrawn meanwhile
            _release_all(payloads)
            return
        final = isinstance(message.outcome, ErrorRecord) or message.outcome.final
        if payloads and None in payloads:
            _release_all(payloads)
            message.outcome = NO_MEMORY
            if not final:
                self.session.send(Withdraw(message.key), attempt.lane)
            final = True
        key = attempt.request.model, attempt.request.version
        if final:
            self._forget(attempt)
            self._metrics.ways.observe(max(time.monotonic() - attempt.sent - message.spent, 0.0))
        if message.load is not None:
            self._loads[key] = message.load, self._mine[key]
        attempt.receive(message)

    def on_lost(self, reason: str, refused_from: int | None) -> None:
        self._on_end(self)
        attempts, self._attempts = self._attempts, {}
        questions, self._questions = self._questions, {}
        for _, on_lost in questions.values():
            on_lost()
        for attempt in attempts.values():
            first = attempt.transfer.first_packet
            unstarted = first < 0 or (refused_from is not None and first >= refused_from)
            if not unstarted:
                self._metrics.lost[self.session.node] += 1
            attempt.on_lost(reason, unstarted)

    def _forget(self, attempt: Attempt) -> bool:
        if self._attempts.pop(attempt.key, None) is None:
            return False
        key = attempt.request.model, attempt.request.version
        self._mine[key] -= 1
        if not self._mine[key]:
            del self._mine[key]
        return True


class RemoteNodes:
    """The other nodes to which this one has sent something."""

    def __init__(self, metrics: ClusterMetrics) -> None:
        self._metrics = metrics
        self._nodes: dict[str, RemoteNode] = {}
        self._peers: Peers | None = None

    def use(self, peers: Peers) -> None:
        """Reach nodes through these sessions."""
        self._peers = peers

    def get(self, node: str) -> RemoteNode | None:
        """A node that a session is open to."""
        return self._nodes.get(node)

    def is_avoided(self, node: str) -> bool:
        """Whether a node was lost, and is to get no requests before it was heard of again. Tries now and then whether it is there."""
        assert self._peers is not None
        if not self._peers.is_avoided(node):
            return False
        if node not in self._nodes and self._peers.may_probe(node):
            self.reach(node)
        return True

    def reach(self, node: str) -> RemoteNode:
        """A node; a session to it is opened where there is none."""
        remote = self._nodes.get(node)
        if remote is None:
            assert self._peers is not None
            made: list[RemoteNode] = []

            def own(session: Session) -> RemoteNode:
                made.append(RemoteNode(session, self._metrics, self._forget))
                return made[0]

            self._peers.session_to(node, own)
            remote = self._nodes[node] = made[0]
        return remote

    def _forget(self, remote: RemoteNode) -> None:
        if self._nodes.get(remote.session.node) is remote:
            del self._nodes[remote.session.node]


class NodeRequests:
    """Runs what another node sends in one session, by the engine of this one.

    ``find_load`` tells what a replica has to do now, ``find_facts`` what a version is; both None for one that is not here.
    """

    def __init__(
        self,
        session: Session,
        service: InferenceService,
        metrics: ClusterMetrics,
        find_load: Callable[[str, str], ReplicaLoad | None],
        find_facts: Callable[[str, str], VersionFacts | None],
        answer_question: AnswerQuestion,
    ) -> None:
        self._answer_question = answer_question
        self._answering: set[asyncio.Task[None]] = set()
        self._session = session
        self._service = service
        self._metrics = metrics
        self._find_load = find_load
        self._find_facts = find_facts
        self._decode = MessageDecoder(ToNode).decode
        self._tickets: dict[int, Ticket] = {}
        self._unsent: Counter[int] = Counter()  # bytes of pieces, by key

    @property
    def busy(self) -> bool:
        """Whether requests of the other node are here."""
        return bool(self._tickets or self._answering)

    def receive(self, head: bytes | bytearray | memoryview, payloads: Sequence[Buffer | None]) -> None:
        message = self._decode(memoryview(head), payloads)
        if isinstance(message, Run):
            if payloads and None in payloads:
                _release_all(payloads)
                self._session.send(Answer(message.key, NO_MEMORY, unstarted=True), message.key)
            else:
                self._run(message)
        elif isinstance(message, Withdraw):
            self._withdraw(message.key)
        elif isinstance(message, ModelQuestion):
            task = asyncio.get_running_loop().create_task(self._tell(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            known = [(*each, self._find_facts(*each)) for each in message.versions]
            facts = [(model, version, found) for model, version, found in known if found is not None]
            self._session.send(Versions(message.key, facts))

    def on_lost(self, reason: str, refused_from: int | None) -> None:
        if self._tickets:
            log.info("requests of another node given up", node=self._session.node, reason=reason)
        for key in list(self._tickets):
            self._tickets.pop(key).cancel()

    async def _tell(self, question: ModelQuestion) -> None:
        found: bytes | ErrorRecord
        try:
            found = await self._answer_question(question)
        except MooringError as error:
            found = ErrorRecord.of(error)
        except Exception as error:  # the supervisor: whoever waits at the other node must not wait for ever
            log.exception(
                "question of another node not answered", node=self._session.node, what=question.what
            )
            found = ErrorRecord.of(ModelFailed(f"the question could not be answered: {error}"))
        self._session.send(QuestionAnswer(question.key, found))

    def _run(self, message: Run) -> None:
        request, now = message.request, time.monotonic()
        if message.seconds is not None:
            request.deadline = now + message.seconds
        if message.timed:
            request.timing = RequestTiming(now)
        self._metrics.ran[self._session.node] += 1
        key = message.key
        done = self._answer(key, request, now)
        # What is refused at once is answered before there is a ticket: it must not be kept then.
        self._tickets[key] = NO_OP_TICKET
        try:
            ticket = self._service.submit(request, done)
        except Exception as error:  # the supervisor: whoever waits at the other node must not wait for ever
            log.exception("request of another node not submitted", node=self._session.node)
            request.release()
            done(ModelFailed(f"the request could not be submitted: {error}"))
            return
        if key in self._tickets:
            self._tickets[key] = ticket

    def _answer(self, key: int, request: InferenceRequest, arrived: float) -> Done:
        model, version = request.model, request.version

        def done(outcome: Outcome) -> None:
            if key not in self._tickets:  # it was withdrawn meanwhile
                if isinstance(outcome, InferenceResponse):
                    release(outcome.outputs)
                return
            at_once = self._tickets[key] is NO_OP_TICKET
            load, spent = self._find_load(model, version), time.monotonic() - arrived
            if isinstance(outcome, MooringError):
                del self._tickets[key]
                answer = Answer(
                    key, ErrorRecord.of(outcome), load, spent, timing=request.timing, arrived=arrived
                )
                answer.unstarted = at_once and isinstance(outcome, _REFUSALS)
                answer.retry_after = outcome.retry_after if isinstance(outcome, QueueFull) else 0.0
                self._session.send(answer, key)
                return
            if outcome.final:
                del self._tickets[key]
            self._send_outputs(
                Answer(key, outcome, load, spent, timing=request.timing, arrived=arrived), outcome
            )

        return done

    def _send_outputs(self, answer: Answer, response: InferenceResponse) -> None:
        key, waiting = answer.key, Counter[int]()

        def end() -> None:
            release(response.outputs)
            self._unsent -= waiting

        try:
            transfer = self._session.send(answer, key, end)
        except (MemoryError, OverflowError):
            release(response.outputs)
            self._fail(key, NO_MEMORY)
            return
        if transfer.finished:
            return
        waiting[key] = transfer.size
        self._unsent[key] += transfer.size
        if self._unsent[key] > _MAX_UNSENT and not response.final:
            text = f"{self._unsent[key]} bytes of the answer wait for node '{self._session.node}', which takes them too slowly"
            self._session.drop_lane(key)
            self._fail(key, ErrorRecord("OutOfResources", text))

    def _fail(self, key: int, record: ErrorRecord) -> None:
        ticket = self._tickets.pop(key, None)
        if ticket is not None:
            ticket.cancel()
        self._session.send(Answer(key, record), key)

    def _withdraw(self, key: int) -> None:
        ticket = self._tickets.pop(key, None)
        if ticket is not None:
            ticket.cancel()
        self._session.drop_lane(key)


def _release_all(payloads: Sequence[Buffer | None]) -> None:
    for payload in payloads:
        if payload is not None:
            payload.release()
