"""TorchServe's workflows: registering them on the management port, asking them on the inference port."""

from mooring.core.errors import InvalidInput, ModelNotFound, MooringError
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, ResponseHead
from mooring.core.service import Outcome, WorkflowDescription, WorkflowService
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.answers import Answer
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import JSON, Responses
from mooring.protocols.scheduling import read_deadline
from mooring.protocols.status import (
    Refusal,
    Target,
    torchserve_workflow,
    torchserve_workflow_registration,
)
from mooring.protocols.torchserve import operations as calls
from mooring.protocols.torchserve.forms import Inputs
from mooring.protocols.torchserve.paging import page, window
from mooring.protocols.torchserve.registration import workflow_of
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_READING = frozenset({"GET", "HEAD"})
_ADDING = frozenset({"POST"})
_REMOVING = frozenset({"DELETE"})
_COLLECTION = "/workflows"
_ONE = "/workflows/{workflow_name}"


class TorchServeWorkflows:
    """The endpoints of workflows on both ports."""

    def __init__(self, workflows: WorkflowService, responses: Responses) -> None:
        self._workflows = workflows
        self._responses = responses
        self._answer_tasks = AnswerTasks(responses)
        self._inputs = Inputs().of

    def management(self) -> list[Endpoint]:
        """What the management port has; other methods on these paths are not allowed."""
        return [
            Endpoint(_COLLECTION, self.list, Access.MANAGEMENT, calls.LIST_WORKFLOWS, methods=_READING),
            Endpoint(
                _COLLECTION,
                self.register,
                Access.MANAGEMENT,
                calls.REGISTER_WORKFLOW,
                methods=_ADDING,
                changes=True,
            ),
            Endpoint(_ONE, self.describe, Access.MANAGEMENT, calls.DESCRIBE_WORKFLOW, methods=_READING),
            Endpoint(
                _ONE,
                self.unregister,
                Access.MANAGEMENT,
                calls.UNREGISTER_WORKFLOW,
                methods=_REMOVING,
                changes=True,
            ),
        ]

    def inference(self) -> list[Endpoint]:
        """What the inference port has, with any method."""
        return [Endpoint("/wfpredict/{workflow_name}", self.predict, Access.INFERENCE, calls.RUN_WORKFLOW)]

    def predict(self, exchange: Exchange, match: Match) -> None:
        """Ask a workflow."""
        workflow = match.params["workflow_name"]
        request_id = self._responses.read_request_id(exchange)
        try:
            deadline = read_deadline(exchange)
            inputs = self._inputs(exchange)
        except InvalidInput as error:
            self._responses.send_refusal(
                exchange, torchserve_workflow(self._or_not_found(error, workflow), workflow)
            )
            return
        request = InferenceRequest(
            workflow,
            "",
            request_id,
            inputs,
            form=Form.BODY,
            deadline=deadline,
            headers=exchange.headers,
        )
        answer = WorkflowAnswer(self._responses, exchange, request_id, Target(workflow))
        exchange.on_abandoned = self._workflows.submit(request, answer.done).cancel

    def _or_not_found(self, error: InvalidInput, workflow: str) -> MooringError:
        try:
            self._workflows.describe(workflow)
        except ModelNotFound as missing:
            return missing
        return error

    def list(self, exchange: Exchange, match: Match) -> None:
        """A page of the workflows, by name."""
        known = {each.name: each.url for each in self._workflows.workflows()}
        limit, first = window(match.query)
        told = page(
            "workflows",
            list(known),
            limit,
            first,
            lambda name: {"workflowName": name, "workflowUrl": known[name]},
        )
        self._responses.send_json(exchange, told)

    def describe(self, exchange: Exchange, match: Match) -> None:
        """One workflow."""
        workflow = match.params["workflow_name"]
        try:
            description = self._workflows.describe(workflow)
        except ModelNotFound as error:
            self._responses.send_refusal(exchange, torchserve_workflow(error, workflow))
        else:
            self._responses.send_json(exchange, [described(description)])

    def register(self, exchange: Exchange, match: Match) -> None:
        """Add a workflow; answered when all its workers are there."""
        registration = workflow_of(exchange, match.query)

        async def register() -> None:
            name = await self._workflows.register(registration)
            self._say(exchange, f"Workflow {name} has been registered and scaled successfully.")

        def refuse(error: MooringError) -> None:
            self._responses.send_refusal(exchange, torchserve_workflow_registration(error, registration.url))

        self._answer_tasks.start(exchange, register(), refuse)

    def unregister(self, exchange: Exchange, match: Match) -> None:
        """Take a workflow away; answered when its last request is."""
        workflow = match.params["workflow_name"]

        async def unregister() -> None:
            await self._workflows.unregister(workflow)
            self._say(exchange, f'Workflow "{workflow}" unregistered')

        def refuse(error: MooringError) -> None:
            self._responses.send_refusal(exchange, torchserve_workflow(error, workflow))

        self._answer_tasks.start(exchange, unregister(), refuse)

    def _say(self, exchange: Exchange, status: str) -> None:
        self._responses.send_json(exchange, {"status": status})


class WorkflowAnswer(Answer, eq=False):
    """As TorchServe answers for a workflow: always as JSON, whatever a node set on its own answer."""

    def done(self, outcome: Outcome) -> None:
        """The service's word on the request; never raises."""
        if isinstance(outcome, InferenceResponse):
            outcome.head = ResponseHead(content_type=JSON)
        super().done(outcome)

    def _refusal_for(self, error: MooringError) -> Refusal:
        return torchserve_workflow(error, self._target.model)


def described(workflow: WorkflowDescription) -> dict[str, object]:
    """A workflow as TorchServe describes it, key by key in its order; its graph as Java prints a map."""
    graph = ", ".join(f"{node}=[{', '.join(after)}]" for node, after in workflow.graph.items())
    return {
        "workflowName": workflow.name,
        "workflowUrl": workflow.url,
        "minWorkers": workflow.min_workers,
        "maxWorkers": workflow.max_workers,
        "batchSize": workflow.batch_size,
        "maxBatchDelay": round(workflow.max_delay * 1000),
        "workflowDag": f"{{{graph}}}",
    }
