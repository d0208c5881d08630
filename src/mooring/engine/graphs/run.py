"""Graphs of models: one request in, one answer out. A chain is the graph with one path, a workflow any without a cycle.

┌─▶ b ─┐
──▶ a        ├─▶ d ──▶       a node is asked as soon as every node before it has answered,
└─▶ c ─┘                so b and c run at the same time
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from mooring.core.errors import (
    DeadlineExceeded,
    ModelFailed,
    ModelRefused,
    MooringError,
    NodeFailed,
    QueueFull,
    Unsupported,
    WorkerDied,
)
from mooring.core.requests import INSTANCES, InferenceRequest, InferenceResponse, Operation
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import Tensor, TensorSpec, release, shared
from mooring.engine.body_reader import ReadBody, is_undecoded
from mooring.engine.graphs.dataflow import Answers, are_large, borrowed, hand_over, joined, passed_on
from mooring.observability.logs import Throttle, get_logger
from mooring.repository.spec import ModelSpec, Node

log = get_logger(__name__)

Submit = Callable[[InferenceRequest, Done], Ticket]
Inputs = Callable[[str], Sequence[TensorSpec]]

# A second, of each workflow.
_LOGGED_FAILURES = 20


class Graph:
    """What follows on what. Of a ``workflow`` bodies go on as bytes, and any failure is that of a node.

    Its answers have ``version``; where that is empty, the version of the model that gave them.
    """

    def __init__(self, nodes: Sequence[Node], *, workflow: bool = False, version: str = "") -> None:
        self.workflow = workflow
        self.version = version
        self.failures = Throttle(_LOGGED_FAILURES)
        self.nodes = {node.name: node for node in nodes}
        self.children: dict[str, list[str]] = {node.name: [] for node in nodes}
        for node in nodes:
            for parent in node.parents:
                self.children[parent].append(node.name)
        self.starts = [node.name for node in nodes if not node.parents]
        self.leaves = [name for name, children in self.children.items() if not children]


def chain_of(models: Sequence[str]) -> Graph:
    """The graph in which these run one after the other."""
    return Graph(
        [
            Node(str(index), model, [str(index - 1)] if index else [])  # a model may come twice
            for index, model in enumerate(models)
        ]
    )


def graph_of(spec: ModelSpec) -> Graph | None:
    """The graph that a model stands for; None for one that answers by itself."""
    if spec.nodes:
        return Graph(spec.nodes, workflow=True, version=spec.version)
    if spec.stages:
        return chain_of(spec.stages)
    return chain_of([spec.name, *spec.following]) if spec.following else None


class GraphRun:
    """One request on its way through a graph; it stands among ``runs`` until it is answered or withdrawn.

    A body that nobody has read is first read with ``read``: what it asks for concerns the last node, not the first.
    The client's parameters reach every node, the outputs that it asks for only the last one, where there is one last.
    The first node that fails answers for all, and the others are withdrawn.
    """

    def __init__(
        self,
        graph: Graph,
        request: InferenceRequest,
        done: Done,
        submit: Submit,
        inputs: Inputs,
        runs: set["GraphRun"],
        read: ReadBody,
    ) -> None:
        self._graph = graph
        self._request = request
        self._done: Done | None = done
        self._submit = submit
        self._inputs = inputs
        self._runs = runs
        self._tickets: dict[str, Ticket] = {}
        # Inputs by node, one for each time that it may yet be asked.
        self._spares: dict[str, list[list[Tensor]]] = {}
        # Answers by node, for the nodes after it that still wait for others, and those of the leaves.
        self._answers: dict[str, dict[str, InferenceResponse]] = {}
        self._ended: dict[str, InferenceResponse] = {}
        # While the body is read; the inputs are this object's to release until then.
        self._unread = is_undecoded(request)
        self._reading: Ticket | None = None
        runs.add(self)
        if request.operation is Operation.EXPLAIN and len(graph.nodes) > 1:
            # What spoke for one model's answer is no input of the next.
            text = f"'{request.model}' is made of several models and has no explanation of its own; ask one of them"
            self._refuse(Unsupported(text))
        elif self._unread:
            self._reading = read(request, self._body_read)
        else:
            self._start()

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._done = None
        if self._unread and self._reading is not None:
            self._reading.cancel()
            release(self._request.inputs)
        self._give_up()

    def _body_read(self, error: MooringError | None) -> None:
        self._unread = False
        if error is None:
            self._start()
        else:
            self._refuse(error)

    def _refuse(self, error: MooringError) -> None:
        """Ask no node at all."""
        release(self._request.inputs)
        self._end(error)

    def _start(self) -> None:
        graph = self._graph
        copies = shared(self._request.inputs, len(graph.starts))
        for name, tensors in zip(graph.starts, copies, strict=True):
            self._spares[name] = shared(tensors, 1 + graph.nodes[name].retries)
        for name in graph.starts:
            if self._done is not None:  # a node that was refused has ended it all
                self._ask(name)

    def _ask(self, name: str) -> None:
        node, request = self._graph.nodes[name], self._request
        last = self._graph.leaves == [name]
        self._tickets.pop(name, None)
        ticket = self._submit(
            InferenceRequest(
                node.model,
                "",
                request.id,
                self._spares[name].pop(),
                form=request.form,
                operation=request.operation,
                parameters=request.parameters,
                outputs=request.outputs if last else None,
                deadline=self._deadline(node),
                headers=request.headers,
                path=request.path,
                priority=request.priority,
                json_outputs=request.json_outputs and last,
                null_for_nan=request.null_for_nan,
                layout=request.layout if last else 0,
            ),
            lambda outcome: self._answered(name, outcome),
        )
        # It may have been answered, and asked again, before it came back.
        self._tickets.setdefault(name, ticket)

    def _deadline(self, node: Node) -> float | None:
        deadline = self._request.deadline
        if not node.timeout:
            return deadline
        own = time.monotonic() + node.timeout
        return own if deadline is None else min(own, deadline)

    def _answered(self, name: str, outcome: Outcome) -> None:
        if self._done is None:
            _drop(outcome)
        elif isinstance(outcome, MooringError):
            self._failed(name, outcome)
        elif not outcome.final:
            self._piece(name, outcome)
        else:
            self._forget_spares(name)
            if self._graph.children[name]:
                self._pass_on(name, outcome)
            else:
                self._leave(name, outcome)

    def _failed(self, name: str, error: MooringError) -> None:
        node = self._graph.nodes[name]
        if not self._graph.workflow or isinstance(error, QueueFull) or self._out_of_time(error):
            self._end(error)
        elif self._spares[name] and _passing(error):
            self._log(node, error, "node is asked again")
            self._ask(name)
        else:
            self._log(node, error, "node failed")
            self._end(NodeFailed(f"Error executing {name}", model=self._request.model, detail=error.detail))

    def _out_of_time(self, error: MooringError) -> bool:
        """Whether it is the client's time that ran out, and not the node's own."""
        deadline = self._request.deadline
        return isinstance(error, DeadlineExceeded) and deadline is not None and time.monotonic() >= deadline

    def _log(self, node: Node, error: MooringError, event: str) -> None:
        """The reason that the wire does not show. Its traceback is in the log of the model's failure."""
        throttle = self._graph.failures
        if not throttle.admits(time.monotonic()):
            return
        log.error(
            event,
            workflow=self._request.model,
            node=node.name,
            request=self._request.id,
            kind=type(error).__name__,
            reason=error.message,
            left_out=throttle.left_out,
        )

    def _piece(self, name: str, piece: InferenceResponse) -> None:
        done, request = self._done, self._request
        assert done is not None
        if self._graph.leaves != [name]:
            release(piece.outputs)
            model = self._graph.nodes[name].model
            self._end(Unsupported(f"model '{model}' streams, and only the last one of '{request.model}' may"))
            return
        self._forget_spares(name)  # what has been said cannot be said again
        piece.model = request.model
        done(piece)

    def _pass_on(self, name: str, answer: InferenceResponse) -> None:
        children = self._graph.children[name]
        for child, outputs in zip(children, shared(answer.outputs, len(children)), strict=True):
            copy = InferenceResponse(outputs, head=answer.head)
            self._answers.setdefault(child, {})[name] = copy
        for child in children:
            node = self._graph.nodes[child]
            if self._done is not None and len(self._answers.get(child, ())) == len(node.parents):
                self._go_on(node)

    def _go_on(self, node: Node) -> None:
        answers = {parent: self._answers[node.name][parent] for parent in node.parents}
        form, typed = self._request.form, not self._graph.workflow
        wanted = self._inputs(node.model)

        def then(outcome: list[Tensor] | MooringError) -> None:
            if isinstance(outcome, MooringError):
                self._failed_between(node, outcome)
                return
            del self._answers[node.name]
            self._spares[node.name] = shared(outcome, 1 + node.retries)
            self._ask(node.name)

        def join(given: Answers) -> list[Tensor]:
            return passed_on(given, form, wanted, node.model, typed=typed)

        # Of other forms tensors are only named anew.
        self._join(answers, join, then, looks=form is INSTANCES)

    def _join(
        self,
        answers: Answers,
        join: Callable[[Answers], list[Tensor]],
        then: Callable[[list[Tensor] | MooringError], None],
        *,
        looks: bool,
    ) -> None:
        """Make tensors of the answers of nodes: at once, or where it looks at many elements of several in a thread."""
        if looks and len(answers) > 1 and are_large(answers):
            lent = borrowed(answers)
            task = asyncio.get_running_loop().run_in_executor(None, join, lent)
            task.add_done_callback(lambda done: self._joined(done, lent, answers, then))
            return
        outcome: list[Tensor] | MooringError
        try:
            outcome = join(answers)
        except MooringError as error:
            outcome = error
        then(outcome)

    def _joined(
        self,
        task: "asyncio.Future[list[Tensor]]",
        lent: Answers,
        answers: Answers,
        then: Callable[[list[Tensor] | MooringError], None],
    ) -> None:
        if self._done is None:  # nobody waits any more, and the answers have been given back
            return
        error = task.exception()
        if error is None:
            hand_over(task.result(), lent, answers)
            then(task.result())
        elif isinstance(error, MooringError):
            then(error)
        else:
            self._end(NodeFailed("the answers of the nodes cannot be joined", detail=repr(error)))

    def _failed_between(self, node: Node, error: MooringError) -> None:
        self._spares[node.name] = []
        self._failed(node.name, error)

    def _leave(self, name: str, answer: InferenceResponse) -> None:
        self._ended[name] = answer
        if len(self._ended) < len(self._graph.leaves):
            return
        if len(self._ended) == 1:
            self._finish(answer)
            return
        whole = InferenceResponse([])

        def join(answers: Answers) -> list[Tensor]:
            nonlocal whole
            whole = joined(answers, self._request)
            return whole.outputs

        def then(outcome: list[Tensor] | MooringError) -> None:
            if isinstance(outcome, MooringError):
                self._end(outcome)
            else:
                self._finish(whole)

        self._join({leaf: self._ended[leaf] for leaf in self._graph.leaves}, join, then, looks=True)

    def _finish(self, answer: InferenceResponse) -> None:
        request = self._request
        self._ended.clear()
        self._tickets.clear()
        answer.model = request.model
        answer.version = self._graph.version or answer.version
        answer.id = answer.id or request.id
        done, self._done = self._done, None
        self._runs.discard(self)
        assert done is not None
        done(answer)

    def _end(self, error: MooringError) -> None:
        done, self._done = self._done, None
        self._give_up()
        if done is not None:
            done(error)

    def _give_up(self) -> None:
        """Withdraw what runs and give back what is held."""
        self._runs.discard(self)
        for ticket in self._tickets.values():
            ticket.cancel()
        self._tickets.clear()
        for name in self._spares:
            self._forget_spares(name)
        held = [answer for answers in self._answers.values() for answer in answers.values()]
        for answer in (*held, *self._ended.values()):
            release(answer.outputs)
        self._answers.clear()
        self._ended.clear()

    def _forget_spares(self, name: str) -> None:
        for tensors in self._spares[name]:
            release(tensors)
        self._spares[name] = []


def _passing(error: MooringError) -> bool:
    """Whether asking again may help."""
    return isinstance(error, WorkerDied | DeadlineExceeded | ModelFailed) and not isinstance(
        error, ModelRefused
    )


def _drop(outcome: Outcome) -> None:
    if isinstance(outcome, InferenceResponse):
        release(outcome.outputs)
