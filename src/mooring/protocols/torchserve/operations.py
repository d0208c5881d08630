"""What TorchServe's endpoints promise to a client generator; operation ids as TorchServe has them where they are valid."""

from mooring.protocols.endpoints import Body, Operation, Query
from mooring.protocols.openapi import (
    ANY_INPUT,
    ANY_OUTPUT,
    BIG,
    MODEL_ERRORS,
    NUMBER,
    TEXT,
    record,
)
from mooring.protocols.responses import JSON

ALIVE = Operation(
    id="alive",
    method="GET",
    description="Whether the server is there at all",
    answer=Body(JSON, record(("status",), status=TEXT), "It is"),
)
PING = Operation(
    id="ping",
    method="GET",
    description="Whether the default version of every model has the workers it was given",
    answer=Body(JSON, record(("status", "health"), status=TEXT, health=TEXT), "It has"),
    errors=(),  # 500 has the same body, and is no error of the server's
)


def _model_call(id_: str, description: str, *, deprecated: bool = False) -> Operation:
    return Operation(
        id=id_, method="POST", description=description, body=ANY_INPUT, answer=ANY_OUTPUT, errors=MODEL_ERRORS,
        deprecated=deprecated,
    )  # fmt: skip


PREDICT = _model_call("predictions", "Predict with the default version of a model")
PREDICT_VERSION = _model_call("version_predictions", "Predict with a version of a model")
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

_NAMED = record(("modelName", "modelUrl"), modelName=TEXT, modelUrl=TEXT)
_DESCRIBED = {
    "type": "array",
    "items": record(
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
            "items": record(
                ("id", "startTime", "status"),
                id=TEXT,
                startTime=TEXT,
                status=TEXT,
                memoryUsage=BIG,
                pid=NUMBER,
            ),
        },
        jobQueueStatus=record(
            ("remainingCapacity", "pendingRequests"), remainingCapacity=NUMBER, pendingRequests=NUMBER
        ),
        state=TEXT,
        reason=TEXT,
        detail=TEXT,
    ),
}
LIST_MODELS = Operation(
    id="listModels",
    method="GET",
    description="The models there are, in pages",
    answer=Body(
        JSON, record(("models",), nextPageToken=TEXT, models={"type": "array", "items": _NAMED}), "A page"
    ),
    query=(
        Query("limit", {"type": "integer", "default": 100}, "Models in a page, at most 100"),
        Query("next_page_token", TEXT, "What the page before gave as nextPageToken"),
    ),
)
DESCRIBE_MODEL = Operation(
    id="describeModel",
    method="GET",
    description="How the default version of a model does",
    answer=Body(JSON, _DESCRIBED, "A list of one"),
    errors=(404, 500),
)
DESCRIBE_VERSION = Operation(
    id="version_describeModel",
    method="GET",
    description='How a version of a model does, or with the version "all" each of them',
    answer=Body(JSON, _DESCRIBED, "The versions"),
    errors=(404, 500),
)
METRICS = Operation(
    id="metrics",
    method="GET",
    description="What the server counts, for Prometheus",
    answer=Body("text/plain", TEXT, "Prometheus' text format 0.0.4"),
    query=(Query("name[]", {"type": "array", "items": TEXT}, "Names of the metrics wanted; all without it"),),
)
