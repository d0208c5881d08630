"""What is said of workflows: errors in TorchServe's words, graphs as Java prints maps, pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core import errors
from mooring.core.service import WorkflowDescription
from mooring.protocols.status import torchserve_workflow, torchserve_workflow_registration
from mooring.protocols.torchserve.paging import build_page, read_page_range
from mooring.protocols.torchserve.workflows import workflow_document


@pytest.mark.parametrize(
    ("error", "status", "kind", "message"),
    [
        (errors.ModelNotFound("x", model="w"), 404, "WorkflowNotFoundException", "Workflow not found: w"),
        (errors.NodeFailed("Error executing a"), 500, "InternalServerException", "Error executing a"),
        (errors.InvalidInput("bad form"), 400, "BadRequestException", "bad form"),
        (errors.DeadlineExceeded("too late"), 504, "RequestTimeoutException", "too late"),
    ],
)
def test_what_goes_wrong_with_a_workflow_has_torchserves_words(error, status, kind, message):
    refusal = torchserve_workflow(error, "w")
    assert (refusal.status, refusal.type, refusal.message) == (status, kind, message)


def test_a_full_queue_of_a_node_says_when_to_try_again():
    refusal = torchserve_workflow(errors.QueueFull("full"), "w")
    assert (refusal.status, refusal.head) == (503, b"retry-after: 1\r\n")


@pytest.mark.parametrize(
    ("error", "status", "kind", "message"),
    [
        (
            errors.ModelNotFound("x"), 404, "WorkflowNotFoundException",
            "Workflow not found in workflow store: u.war",
        ),
        (
            errors.ModelExists("x", model="w"), 409, "ConflictStatusException",
            "Workflow w is already registered.",
        ),
        (
            errors.ModelExists("x", model="w__m", version="1.0"), 409, "ConflictStatusException",
            "Model version 1.0 is already registered for model w__m",
        ),
        (
            errors.WorkersFailed("why", model="w"), 500, "InternalServerException",
            "Workflow w has failed to register. Failures: [why]",
        ),
        (errors.ModelLoadFailed("why"), 400, "InvalidWorkflowException", "why"),
        (
            errors.FetchFailed("why"), 400, "DownloadArchiveException",
            "Failed to download archive from: u.war",
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_with_a_registration_has_torchserves_words(error, status, kind, message):
    refusal = torchserve_workflow_registration(error, "u.war")
    assert (refusal.status, refusal.type, refusal.message) == (status, kind, message)


def test_a_graph_is_printed_as_java_prints_a_map():
    graph = {"pre": ["m1", "m2"], "m1": ["post"], "m2": []}
    told = workflow_document(WorkflowDescription("w", "w.war", 1, 2, 3, 0.05, graph))
    assert told["workflowDag"] == "{pre=[m1, m2], m1=[post], m2=[]}"
    assert list(told) == [
        "workflowName", "workflowUrl", "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "workflowDag",
    ]  # fmt: skip
    assert told["maxBatchDelay"] == 50


@given(st.integers(0, 30), st.integers(1, 7))
def test_pages_hold_every_name_once_and_in_order(count, limit):
    names = [str(number) for number in range(count)]
    seen, token = [], "0"
    while token is not None:
        found = build_page("all", names, limit, int(token), lambda name: {"name": name})
        seen += [each["name"] for each in found["all"]]
        token = found.get("nextPageToken")
    assert seen == names


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", (100, 0)),
        (b"limit=3&next_page_token=2", (3, 2)),
        (b"limit=-1&next_page_token=-1", (100, 0)),
        (b"limit=101&next_page_token=x", (100, 0)),
        (b"limit=0", (0, 0)),
    ],
)
def test_what_is_no_number_or_out_of_range_is_the_default(query, expected):
    assert read_page_range(query) == expected
