"""OpenAPI operations of TorchServe's endpoints; operation ids are TorchServe's where they are valid."""

from typing import Any

from mooring.protocols.endpoints import AlternativeCall, Body, CallForm, Operation, Query
from mooring.protocols.openapi import (
    ANY_INPUT,
    ANY_OUTPUT,
    BIG,
    MODEL_ERRORS,
    NUMBER,
    TEXT,
    object_schema,
)
from mooring.protocols.responses import JSON

ALIVE = Operation(
    id="alive",
    method="GET",
    description="Whether the server is there at all",
    answer=Body(JSON, object_schema(("status",), status=TEXT), "It is"),
)
PING = Operation(
    id="ping",
    method="GET",
    description="Whether the default version of every model has the workers it was given",
    answer=Body(JSON, object_schema(("status", "health"), status=TEXT, health=TEXT), "It has"),
    errors=(),  # 500 has the same body, and is no error of the server's
)


def _model_call(
    id_: str, description: str, *, deprecated: bool = False, put: bool = False, form: CallForm | None = None
) -> Operation:
    return Operation(
        id=id_, method="POST", description=description, body=ANY_INPUT, answer=ANY_OUTPUT, errors=MODEL_ERRORS,
        deprecated=deprecated, alternatives=(AlternativeCall(id=f"put_{id_}", method="PUT"),) if put else (), form=form,
    )  # fmt: skip


# With PUT, too: that is what curl -T sends.
PREDICT = _model_call(
    "predictions", "Predict with the default version of a model", put=True, form=CallForm.BODY
)
PREDICT_VERSION = _model_call(
    "version_predictions", "Predict with a version of a model", put=True, form=CallForm.BODY
)
EXPLAIN = _model_call("explanations", "Explain a prediction of the default version of a model")
EXPLAIN_VERSION = _model_call("version_explanations", "Explain a prediction of a version of a model")
INVOKE = Operation(
    id="invocations",
    method="POST",
    description="Predict with the only model there is, or with the one named",
    body=ANY_INPUT,
    answer=ANY_OUTPUT,
    errors=MODEL_ERRORS,
    query=(Query("model_name", TEXT, "Name of the model"),),
)
INVOKE_MODEL = _model_call("invoke", "Predict; query parameters are fields of the input too")
LEGACY = _model_call("predict", "Predict; query parameters are fields of the input too", deprecated=True)
LEGACY_VERSION = _model_call(
    "version_predict", "Predict; query parameters are fields of the input too", deprecated=True
)

_NAMED = object_schema(("modelName", "modelUrl"), modelName=TEXT, modelUrl=TEXT)
_DESCRIBED = {
    "type": "array",
    "items": object_schema(
        ("modelName", "modelVersion", "modelUrl", "minWorkers", "maxWorkers", "workers", "jobQueueStatus"),
        modelName=TEXT,
        modelVersion=TEXT,
        modelUrl=TEXT,
        runtime=TEXT,
        minWorkers=NUMBER,
        maxWorkers=NUMBER,
        batchSize=NUMBER,
        maxBatchDelay=NUMBER,
        responseTimeout=NUMBER,
        startupTimeout=NUMBER,
        loadedAtStartup={"type": "boolean"},
        workers={
            "type": "array",
            "items": object_schema(
                ("id", "startTime", "status"),
                id=TEXT,
                startTime=TEXT,
                status=TEXT,
                memoryUsage=BIG,
                pid=NUMBER,
            ),
        },
        jobQueueStatus=object_schema(
            ("remainingCapacity", "pendingRequests"), remainingCapacity=NUMBER, pendingRequests=NUMBER
        ),
        customizedMetadata={},
        state=TEXT,
        defaultVersion={"type": "boolean"},
        defaultVersionRule=TEXT,
        versionPolicy=TEXT,
        batching=object_schema(
            ("joined", "state", "reason"), joined={"type": "boolean"}, state=TEXT, reason=TEXT
        ),
        scaledToZero={"type": "boolean"},
        startSeconds={"type": "number"},
        reason=TEXT,
        detail=TEXT,
    ),
}


def _page_of(what: str) -> tuple[Query, ...]:
    return (
        Query("limit", {"type": "integer", "default": 100}, f"{what} in a page, at most 100"),
        Query("next_page_token", TEXT, "What the page before gave as nextPageToken"),
    )


LIST_MODELS = Operation(
    id="listModels",
    method="GET",
    description="The models there are, in pages",
    answer=Body(
        JSON,
        object_schema(("models",), nextPageToken=TEXT, models={"type": "array", "items": _NAMED}),
        "A page",
    ),
    query=_page_of("Models"),
)
_CUSTOMIZED = (
    Query(
        "customized",
        {"type": "boolean", "default": False},
        "Whether the model's own handler is asked for customizedMetadata, too",
    ),
)
DESCRIBE_MODEL = Operation(
    id="describeModel",
    method="GET",
    description="How the default version of a model does",
    answer=Body(JSON, _DESCRIBED, "A list of one"),
    query=_CUSTOMIZED,
    errors=(404, 500, 503),
)
DESCRIBE_VERSION = Operation(
    id="version_describeModel",
    method="GET",
    description='How a version of a model does, or with the version "all" each of them',
    answer=Body(JSON, _DESCRIBED, "The versions"),
    query=_CUSTOMIZED,
    errors=(404, 500, 503),
)
_SAID = object_schema(("status",), status=TEXT)
_WHOLE = {"type": "integer", "minimum": 0}
_TRUTH = {"type": "boolean"}


def _model_change(id_: str, method: str, description: str, **more: Any) -> Operation:
    """A call that changes a model, and says so in a line."""
    errors = more.pop("errors", (400, 403, 404, 500))
    answer = Body(JSON, _SAID, "It is done")
    return Operation(id=id_, method=method, description=description, answer=answer, errors=errors, **more)


REGISTER_MODEL = _model_change(
    "registerModel",
    "POST",
    "Add a model from the model store, or from a URL that the server allows",
    accepted="The model is added, and its workers are being started",
    query=(
        Query(
            "url", TEXT, "Name of an archive or folder of the model store, or where one is fetched; required"
        ),
        Query("model_name", TEXT, "What the model is to be called, in place of its archive's own name"),
        Query("handler", TEXT, "The handler to use in place of the archive's own"),
        Query(
            "runtime", {"type": "string", "enum": ["python", "python2", "python3"]}, "What runs the handler"
        ),
        Query("batch_size", _WHOLE, "Most requests in a batch"),
        Query("max_batch_delay", _WHOLE, "Milliseconds to wait for a batch to fill"),
        Query("initial_workers", _WHOLE, "Workers to start with; the model's own configuration wins"),
        Query("synchronous", _TRUTH | {"default": True}, "Whether to answer when the workers are there"),
        Query("response_timeout", _WHOLE, "Seconds the model may take to answer"),
        Query("startup_timeout", _WHOLE, "Seconds the model may take to load"),
    ),
    errors=(400, 403, 404, 405, 409, 500),
)
_SCALE = (
    Query("min_worker", {"type": "integer", "minimum": 0, "default": 1}, "Least number of workers"),
    Query("max_worker", _WHOLE, "Most workers; without it as many as the least"),
    Query("synchronous", _TRUTH | {"default": False}, "Whether to answer when it is so"),
)
SCALE_MODEL, SCALE_VERSION = (
    _model_change(
        id_,
        "PUT",
        f"Change how many workers {which} has; those too many finish what they do",
        query=_SCALE,
        accepted="The workers are being started or ended",
        errors=(400, 403, 404, 500, 501),
    )
    for id_, which in (
        ("setAutoScale", "the default version of a model"),
        ("version_setAutoScale", "a version"),
    )
)
UNREGISTER_MODEL, UNREGISTER_VERSION = (
    _model_change(id_, "DELETE", description, errors=(403, 404, 405, 500))
    for id_, description in (
        ("unregisterModel", "Take away the only version of a model"),
        ("version_unregisterModel", "Take away a version; the default one only as the last"),
    )
)
SET_DEFAULT = _model_change(
    "setDefault", "PUT", "Let a version answer where none is named", errors=(403, 404, 500)
)
_WORKFLOW = object_schema(("workflowName", "workflowUrl"), workflowName=TEXT, workflowUrl=TEXT)
REGISTER_WORKFLOW = _model_change(
    "registerWorkflow",
    "POST",
    "Add a workflow from the workflow store, or from a URL that the server allows, with models of its own",
    query=(
        Query(
            "url", TEXT, "Name of an archive (.war) of the workflow store, or where one is fetched; required"
        ),
        Query("workflow_name", TEXT, "What the workflow is to be called, in place of its archive's own name"),
        Query("response_timeout", _WHOLE, "Seconds that each of its models may take to answer"),
        Query("startup_timeout", _WHOLE, "Seconds that each of its models may take to load"),
    ),
    errors=(400, 403, 404, 409, 500),
)
LIST_WORKFLOWS = Operation(
    id="listWorkflows",
    method="GET",
    description="The workflows there are, in pages",
    answer=Body(
        JSON, object_schema(("workflows",), nextPageToken=TEXT, workflows={"type": "array", "items": _WORKFLOW}), "A page"
    ),
    query=_page_of("Workflows"),
)  # fmt: skip
DESCRIBE_WORKFLOW = Operation(
    id="describeWorkflow",
    method="GET",
    description="What a workflow is made of",
    answer=Body(
        JSON,
        {
            "type": "array",
            "items": object_schema(
                ("workflowName", "workflowUrl", "workflowDag"),
                workflowName=TEXT,
                workflowUrl=TEXT,
                minWorkers=NUMBER,
                maxWorkers=NUMBER,
                batchSize=NUMBER,
                maxBatchDelay=NUMBER,
                workflowDag=TEXT,
            ),
        },
        "A list of one",
    ),
    errors=(404, 500),
)
UNREGISTER_WORKFLOW = _model_change(
    "unregisterWorkflow",
    "DELETE",
    "Take a workflow away, and the models that are its own",
    errors=(403, 404, 500),
)
RUN_WORKFLOW = Operation(
    id="wfpredict",
    method="POST",
    description="Ask a workflow",
    body=ANY_INPUT,
    answer=Body(JSON, {}, "What its last node answers, or of several an object: node -> text"),
    errors=(400, 404, 413, 500, 503, 504),
)
METRICS = Operation(
    id="metrics",
    method="GET",
    description="What the server counts, for Prometheus",
    answer=Body("text/plain", TEXT, "Prometheus' text format 0.0.4"),
    query=(Query("name[]", {"type": "array", "items": TEXT}, "Names of the metrics wanted; all without it"),),
)
RENEW = Operation(
    id="token",
    method="GET",
    description="Put another token into the server's key file; the one before it is of no use from then on",
    answer=Body(JSON, {}, "It is done: the body is a line break"),
    query=(Query("type", {"type": "string", "enum": ["inference", "management"]}, "Which token; required"),),
    errors=(400, 500),
)
