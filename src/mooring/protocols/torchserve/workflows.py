"""TorchServe's workflows: registration on the management port, predictions on the inference port."""

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
from mooring.protocols.torchserve.forms import InputReader
from mooring.protocols.torchserve.paging import build_page, read_page_range
from mooring.protocols.torchserve.registration import read_workflow_registration
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_PREDICTING = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_GET_OR_HEAD = frozenset({"GET", "HEAD"})
_POST = frozenset({"POST"})
_DELETE = frozenset({"DELETE"})
_COLLECTION = "/workflows"
_ONE = "/workflows/{workflow_name}"


class TorchServeWorkflows:
    """The endpoints of workflows on both ports."""

    def __init__(self, workflows: WorkflowService, responses: Responses) -> None:
        self._workflows = workflows
        self._responses = responses
        self._answer_tasks = AnswerTasks(responses)
        self._read_inputs = InputReader().read_inputs

    def management_endpoints(self) -> list[Endpoint]:
        """Return the endpoints of the management port; other methods on their paths are answered 405."""
        return [
            Endpoint(
                _COLLECTION,
                self.list_workflows,
                Access.MANAGEMENT,
                calls.LIST_WORKFLOWS,
                methods=_GET_OR_HEAD,
            ),
            Endpoint(
                _COLLECTION,
                self.register_workflow,
                Access.MANAGEMENT,
                calls.REGISTER_WORKFLOW,
                methods=_POST,
                changes=True,
            ),
            Endpoint(
                _ONE, self.describe_workflow, Access.MANAGEMENT, calls.DESCRIBE_WORKFLOW, methods=_GET_OR_HEAD
            ),
            Endpoint(
                _ONE,
                self.unregister_workflow,
                Access.MANAGEMENT,
                calls.UNREGISTER_WORKFLOW,
                methods=_DELETE,
                changes=True,
            ),
        ]

    def inference_endpoints(self) -> list[Endpoint]:
        """Return the endpoint of the inference port, for every method that sends or asks for something."""
        return [
            Endpoint(
                "/wfpredict/{workflow_name}",
                self.predict,
                Access.INFERENCE,
                calls.RUN_WORKFLOW,
                methods=_PREDICTING,
                infers=True,
            )
        ]

    def predict(self, exchange: Exchange, match: Match) -> None:
        """Answer with a workflow's prediction."""
        workflow = match.params["workflow_name"]
        request_id = self._responses.read_request_id(exchange)
        try:
            deadline = read_deadline(exchange)
            inputs = self._read_inputs(exchange)
        except InvalidInput as error:
            self._responses.send_refusal(
                exchange, torchserve_workflow(self._prefer_not_found(error, workflow), workflow)
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
            timing=exchange.timing,
        )
        answer = WorkflowAnswer(self._responses, exchange, request_id, Target(workflow))
        exchange.on_abandoned = self._workflows.submit(request, answer.done).cancel

    def _prefer_not_found(self, error: InvalidInput, workflow: str) -> MooringError:
        try:
            self._workflows.describe(workflow)
        except ModelNotFound as missing:
            return missing
        return error

    def list_workflows(self, exchange: Exchange, match: Match) -> None:
        """Answer with a page of the workflows, by name."""
        urls = {each.name: each.url for each in self._workflows.workflows()}
        limit, first = read_page_range(match.query)
        document = build_page(
            "workflows",
            list(urls),
            limit,
            first,
            lambda name: {"workflowName": name, "workflowUrl": urls[name]},
        )
        self._responses.send_json(exchange, document)

    def describe_workflow(self, exchange: Exchange, match: Match) -> None:
        """Answer with the description of one workflow."""
        workflow = match.params["workflow_name"]
        try:
            description = self._workflows.describe(workflow)
        except ModelNotFound as error:
            self._responses.send_refusal(exchange, torchserve_workflow(error, workflow))
        else:
            self._responses.send_json(exchange, [workflow_document(description)])

    def register_workflow(self, exchange: Exchange, match: Match) -> None:
        """Register a workflow and answer when all its workers are ready."""
        registration = read_workflow_registration(exchange, match.query)

        async def register() -> None:
            name = await self._workflows.register(registration)
            self._send_status(exchange, f"Workflow {name} has been registered and scaled successfully.")

        def refuse(error: MooringError) -> None:
            self._responses.send_refusal(exchange, torchserve_workflow_registration(error, registration.url))

        self._answer_tasks.start(exchange, register(), refuse)

    def unregister_workflow(self, exchange: Exchange, match: Match) -> None:
        """Unregister a workflow and answer after its last request is answered."""
        workflow = match.params["workflow_name"]

        async def unregister() -> None:
            await self._workflows.unregister(workflow)
            self._send_status(exchange, f'Workflow "{workflow}" unregistered')

        def refuse(error: MooringError) -> None:
            self._responses.send_refusal(exchange, torchserve_workflow(error, workflow))

        self._answer_tasks.start(exchange, unregister(), refuse)

    def _send_status(self, exchange: Exchange, status: str) -> None:
        self._responses.send_json(exchange, {"status": status})


class WorkflowAnswer(Answer, eq=False):
    """The answer of a workflow: as in TorchServe always JSON, whatever headers a node has set."""

    def done(self, outcome: Outcome) -> None:
        """Write an outcome of the request; never raises."""
        if isinstance(outcome, InferenceResponse):
            outcome.head = ResponseHead(content_type=JSON)
        super().done(outcome)

    def _refusal_for(self, error: MooringError) -> Refusal:
        return torchserve_workflow(error, self._target.model)


def workflow_document(workflow: WorkflowDescription) -> dict[str, object]:
    """Return a workflow's description with TorchServe's keys in their order; its graph as Java prints a map."""
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
