"""Graphs of models: one request in, one answer out. A chain is the graph with one path, a workflow any without a cycle.

┌─▶ b ─┐
──▶ a        ├─▶ d ──▶       a node is asked as soon as every node before it has answered,
└─▶ c ─┘                so b and c run at the same time
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
from mooring.core.requests import (
    INSTANCES,
    InferenceRequest,
    InferenceResponse,
    JsonWriter,
    Operation,
    UndecodedBody,
)
from mooring.core.service import Done, Outcome, Ticket
from mooring.core.tensors import Tensor, TensorSpec, release, share_tensors
from mooring.core.timing import node_name
from mooring.engine.body_reader import ReadBody
from mooring.engine.graphs.base_run import BaseRun
from mooring.engine.graphs.dataflow import (
    Answers,
    are_large,
    inputs_for,
    lend_answers,
    merged_answer,
    take_over_memory,
)
from mooring.observability.logs import Throttle, get_logger
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec, Node

log = get_logger(__name__)

Submit = Callable[[InferenceRequest, Done], Ticket]
"""Sends a request to the model of a node."""
DeclaredInputs = Callable[[str], Sequence[TensorSpec]]
"""The inputs that a model declares, by its name; empty where it declares none."""

_MAX_LOGGED_FAILURES = 20  # a second, of each workflow


class Graph:
    """The nodes of a chain or a workflow, and which of them come after which.

    In a ``workflow`` bodies are passed on as bytes, and each failure is reported as that of a node. ``version`` is
    written into answers; where it is empty, they keep the version of the last model. ``titles`` are the names of the nodes
    for clients: a chain calls them by their models.
    """

    def __init__(self, nodes: Sequence[Node], *, workflow: bool = False, version: str = "") -> None:
        self.workflow = workflow
        self.version = version
        self.failures = Throttle(_MAX_LOGGED_FAILURES)
        self.nodes = {node.name: node for node in nodes}
        self.titles: dict[str, str] = {}
        for node in nodes:
            title = node.name if workflow else node_name(node.model, frozenset(self.titles.values()))
            self.titles[node.name] = title
        self.children: dict[str, list[str]] = {node.name: [] for node in nodes}
        for node in nodes:
            for parent in node.parents:
                self.children[parent].append(node.name)
        self.starts = [node.name for node in nodes if not node.parents]
        self.leaves = [name for name, children in self.children.items() if not children]


def chain_of(models: Sequence[str]) -> Graph:
    """The graph in which these models run one after the other."""
    return Graph(
        [
            Node(str(index), model, [str(index - 1)] if index else [])  # a model may come twice
            for index, model in enumerate(models)
        ]
    )


def graph_of(spec: ModelSpec) -> Graph | None:
    """The graph of a workflow, of a chain or of a model with followers; None for a model that answers alone."""
    if spec.nodes:
        return Graph(spec.nodes, workflow=True, version=spec.version)
    if spec.stages:
        return chain_of(spec.stages)
    return chain_of([spec.name, *spec.following]) if spec.following else None


def count_run(request: InferenceRequest, statistics: ModelStatistics, done: Done) -> Done:
    """Return a ``done`` that counts the request to a chain when it has its last answer."""
    began, defaulted = time.monotonic(), not request.version

    def count_and_pass(outcome: Outcome) -> None:
        if isinstance(outcome, MooringError):
            statistics.observe_run(time.monotonic() - began, False, defaulted)
        elif outcome.final:
            statistics.observe_run(time.monotonic() - began, True, defaulted)
        done(outcome)

    return count_and_pass


class NodeInputs(NamedTuple):
    """The inputs of a node: tensors, or the whole body of a KServe v1 request."""

    tensors: list[Tensor]
    body: UndecodedBody | None = None

    def shares(self, count: int) -> "list[NodeInputs]":
        """Split into shares for so many nodes or tries. Each share is released on its own; this object is used up."""
        bodies = [None] * count if self.body is None else self.body.shares(count)
        return [NodeInputs(*each) for each in zip(share_tensors(self.tensors, count), bodies, strict=True)]

    def release(self) -> None:
        """Release the memory: no node needs these inputs."""
        release(self.tensors)
        if self.body is not None:
            self.body.release()


class GraphRun(BaseRun):
    """One request on its way through a graph.

    How this works: the nodes that nothing comes before are asked at once, each with its own share of the inputs. The
    answer of a node goes to every node behind it; a node whose parents have all answered is asked next, with inputs made
    of their answers (dataflow.py). The answers of the last nodes are merged into one. The first failure ends the run:
    what still runs is withdrawn. Only a node of a workflow is asked again, so inputs are kept for as many tries.

    An undecoded body is first decoded with ``read_body``: the outputs that it asks for concern the last node, not the
    first. The client's parameters reach every node, the requested outputs only the last one, where there is one last.
    """

    def __init__(
        self,
        graph: Graph,
        request: InferenceRequest,
        done: Done,
        submit: Submit,
        inputs: DeclaredInputs,
        runs: set[Ticket],
        read_body: ReadBody,
    ) -> None:
        super().__init__(request, done, runs)
        self._graph = graph
        self._submit = submit
        self._declared_inputs = inputs
        # Inputs by node, one share for each time that it may yet be asked: the first time, and its retries.
        self._spare_inputs: dict[str, list[NodeInputs]] = {}
        # By child that still waits for other parents: the answers of its parents. And the answers of the leaves.
        self._answers: dict[str, dict[str, InferenceResponse]] = {}
        self._leaf_answers: dict[str, InferenceResponse] = {}
        # What the first model that names itself is called: AMD's chains answer by that name.
        self._code_name = ""
        if request.operation is Operation.EXPLAIN and len(graph.nodes) > 1:
            # An explanation is about one model's answer; it is no input of the next model.
            text = f"'{request.model}' is made of several models and has no explanation of its own; ask one of them"
            self._refuse_request(Unsupported(text))
        else:
            self._begin(read_body)

    def _start(self) -> None:
        graph = self._graph
        whole = NodeInputs(self._request.inputs, self._request.body)
        for name, inputs in zip(graph.starts, whole.shares(len(graph.starts)), strict=True):
            self._spare_inputs[name] = inputs.shares(1 + graph.nodes[name].retries)
        for name in graph.starts:
            if self._done is not None:  # a node whose request was refused has ended the run
                self._submit_node(name)

    def _submit_node(self, name: str) -> None:
        node, request = self._graph.nodes[name], self._request
        last = self._graph.leaves == [name]
        inputs = self._spare_inputs[name].pop()
        self._tickets.pop(name, None)
        timing = None if request.timing is None else request.timing.node(self._graph.titles[name])
        ticket = self._submit(
            InferenceRequest(
                model=node.model,
                version="",
                id=request.id,
                inputs=inputs.tensors,
                form=request.form,
                operation=request.operation,
                parameters=request.parameters,
                outputs=request.outputs if last else None,
                deadline=self._node_deadline(node),
                headers=request.headers,
                path=request.path,
                priority=request.priority,
                json_writer=request.json_writer if last else JsonWriter.NOBODY,
                null_for_nan=request.null_for_nan,
                layout=request.layout if last else 0,
                body=inputs.body,
                timing=timing,
            ),
            lambda outcome: self._on_outcome(name, outcome),
        )
        # The node may have answered, and have been asked again, before ``submit`` returned.
        self._tickets.setdefault(name, ticket)

    def _node_deadline(self, node: Node) -> float | None:
        deadline = self._request.deadline
        if not node.timeout:
            return deadline
        own = time.monotonic() + node.timeout
        return own if deadline is None else min(own, deadline)

    def _on_outcome(self, name: str, outcome: Outcome) -> None:
        if self._request.timing is not None:
            self._request.timing.node(self._graph.titles[name]).ended = time.monotonic()
        if self._done is None:
            _release_outcome(outcome)
        elif isinstance(outcome, MooringError):
            self._on_failure(name, outcome)
        elif not outcome.final:
            self._on_piece(name, outcome)
        else:
            self._release_spares(name)
            if self._graph.children[name]:
                self._hand_to_children(name, outcome)
            else:
                self._on_leaf_answer(name, outcome)

    def _on_failure(self, name: str, error: MooringError) -> None:
        node = self._graph.nodes[name]
        if not self._graph.workflow or isinstance(error, QueueFull) or self._client_timed_out(error):
            self._end_with_error(error)
        elif self._spare_inputs[name] and _may_retry(error):
            self._log_failure(node, error, "node is asked again")
            self._submit_node(name)
        else:
            self._log_failure(node, error, "node failed")
            self._end_with_error(
                NodeFailed(f"Error executing {name}", model=self._request.model, detail=error.detail)
            )

    def _client_timed_out(self, error: MooringError) -> bool:
        """Whether the deadline that passed is the client's, and not the node's own."""
        deadline = self._request.deadline
        return isinstance(error, DeadlineExceeded) and deadline is not None and time.monotonic() >= deadline

    def _log_failure(self, node: Node, error: MooringError, event: str) -> None:
        """Log the reason, which clients do not get. Its traceback is in the log of the model's failure."""
        throttle = self._graph.failures
        if not throttle.allow_line(time.monotonic()):
            return
        log.error(
            event,
            workflow=self._request.model,
            node=node.name,
            request=self._request.id,
            kind=type(error).__name__,
            reason=error.message,
            **throttle.take_left_out(),
        )

    def _on_piece(self, name: str, piece: InferenceResponse) -> None:
        done, request = self._done, self._request
        assert done is not None
        if self._graph.leaves != [name]:
            release(piece.outputs)
            model = self._graph.nodes[name].model
            self._end_with_error(
                Unsupported(f"model '{model}' streams, and only the last one of '{request.model}' may")
            )
            return
        self._release_spares(name)  # a part has reached the caller, so the node cannot be asked again
        piece.model = request.model
        done(piece)

    def _hand_to_children(self, name: str, answer: InferenceResponse) -> None:
        children = self._graph.children[name]
        if answer.model != self._graph.nodes[name].model:  # the name of the model's own code
            self._code_name = self._code_name or answer.model
        for child, outputs in zip(children, share_tensors(answer.outputs, len(children)), strict=True):
            copy = InferenceResponse(outputs, head=answer.head)
            self._answers.setdefault(child, {})[name] = copy
        for child in children:
            node = self._graph.nodes[child]
            if self._done is not None and len(self._answers.get(child, ())) == len(node.parents):
                self._prepare_node(node)

    def _prepare_node(self, node: Node) -> None:
        answers = {parent: self._answers[node.name][parent] for parent in node.parents}
        form, typed = self._request.form, not self._graph.workflow
        declared = self._declared_inputs(node.model)

        def on_tensors(outcome: list[Tensor] | MooringError) -> None:
            if isinstance(outcome, MooringError):
                self._on_combine_failure(node, outcome)
                return
            del self._answers[node.name]
            self._spare_inputs[node.name] = NodeInputs(outcome).shares(1 + node.retries)
            self._submit_node(node.name)

        def merge(parent_answers: Answers) -> list[Tensor]:
            return inputs_for(parent_answers, form, declared, node.model, typed=typed)

        # Tensors of other forms only get new names.
        self._combine_answers(answers, merge, on_tensors, reads_elements=form is INSTANCES)

    def _combine_answers(
        self,
        answers: Answers,
        merge: Callable[[Answers], list[Tensor]],
        on_tensors: Callable[[list[Tensor] | MooringError], None],
        *,
        reads_elements: bool,
    ) -> None:
        """Make tensors of the answers of nodes: in a thread where it reads many elements of several, else at once."""
        if reads_elements and len(answers) > 1 and are_large(answers):
            lent = lend_answers(answers)
            task = asyncio.get_running_loop().run_in_executor(None, merge, lent)
            task.add_done_callback(lambda task: self._on_combined(task, lent, answers, on_tensors))
            return
        outcome: list[Tensor] | MooringError
        try:
            outcome = merge(answers)
        except MooringError as error:
            outcome = error
        on_tensors(outcome)

    def _on_combined(
        self,
        task: "asyncio.Future[list[Tensor]]",
        lent: Answers,
        answers: Answers,
        on_tensors: Callable[[list[Tensor] | MooringError], None],
    ) -> None:
        if self._done is None:  # the run has ended, and the answers have been released
            return
        error = task.exception()
        if error is None:
            take_over_memory(task.result(), lent, answers)
            on_tensors(task.result())
        elif isinstance(error, MooringError):
            on_tensors(error)
        else:
            self._end_with_error(NodeFailed("the answers of the nodes cannot be joined", detail=repr(error)))

    def _on_combine_failure(self, node: Node, error: MooringError) -> None:
        self._spare_inputs[node.name] = []
        self._on_failure(node.name, error)

    def _on_leaf_answer(self, name: str, answer: InferenceResponse) -> None:
        self._leaf_answers[name] = answer
        if len(self._leaf_answers) < len(self._graph.leaves):
            return
        if len(self._leaf_answers) == 1:
            self._deliver_answer(answer)
            return
        whole = InferenceResponse([])

        def merge(answers: Answers) -> list[Tensor]:
            nonlocal whole
            whole = merged_answer(answers, self._request)
            return whole.tensors

        def on_tensors(outcome: list[Tensor] | MooringError) -> None:
            if isinstance(outcome, MooringError):
                self._end_with_error(outcome)
            else:
                self._deliver_answer(whole)

        self._combine_answers(
            {leaf: self._leaf_answers[leaf] for leaf in self._graph.leaves},
            merge,
            on_tensors,
            reads_elements=True,
        )

    def _deliver_answer(self, answer: InferenceResponse) -> None:
        self._leaf_answers.clear()  # the answer has their memory
        self._tickets.clear()
        super()._deliver_answer(answer)

    def _name_answer(self, answer: InferenceResponse) -> None:
        answer.model = self._code_name or self._request.model
        answer.version = self._graph.version or answer.version
        answer.id = answer.id or self._request.id

    def _release_all(self) -> None:
        super()._release_all()
        for name in self._spare_inputs:
            self._release_spares(name)
        held_answers = [answer for answers in self._answers.values() for answer in answers.values()]
        for answer in (*held_answers, *self._leaf_answers.values()):
            release(answer.outputs)
        self._answers.clear()
        self._leaf_answers.clear()

    def _release_spares(self, name: str) -> None:
        for inputs in self._spare_inputs[name]:
            inputs.release()
        self._spare_inputs[name] = []


def _may_retry(error: MooringError) -> bool:
    """Whether the same request to a node may succeed when it is sent again."""
    return isinstance(error, WorkerDied | DeadlineExceeded | ModelFailed) and not isinstance(
        error, ModelRefused
    )


def _release_outcome(outcome: Outcome) -> None:
    if isinstance(outcome, InferenceResponse):
        release(outcome.outputs)
