"""What v2's endpoints promise to a client generator."""

from typing import Any

from mooring.protocols.endpoints import AlternativeCall, Body, CallForm, Operation
from mooring.protocols.openapi import BIG, NUMBER, TEXT, object_schema
from mooring.protocols.responses import JSON

_FLAG: dict[str, Any] = {"type": "boolean"}
_ANYTHING: dict[str, Any] = {"type": "object", "additionalProperties": {}}
_TEXTS = {"type": "array", "items": TEXT}
_SHAPE = {"type": "array", "items": BIG}
_NOTHING = Body("text/plain", TEXT, "Done")
_MODEL = (404, 500, 503)
_INFER = (400, 404, 413, 415, 500, 501, 503, 504)


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


_SPEC = object_schema(("name", "datatype", "shape"), name=TEXT, datatype=TEXT, shape=_SHAPE)
_TENSOR = object_schema(
    ("name", "datatype", "shape"), name=TEXT, datatype=TEXT, shape=_SHAPE, parameters=_ANYTHING,
    data={"type": "array", "items": {}},
)  # fmt: skip
_REQUESTED = object_schema(("name",), name=TEXT, parameters=_ANYTHING)
_INFER_BODY = Body(
    JSON,
    object_schema(
        ("inputs",), id=TEXT, parameters=_ANYTHING, inputs=_list(_TENSOR), outputs=_list(_REQUESTED)
    ),
    "The inputs. Tensors with binary_data_size follow the JSON, whose length is then the header "
    "Inference-Header-Content-Length",
)
_INFER_ANSWER = Body(
    JSON,
    object_schema(
        ("model_name", "outputs"), id=TEXT, model_name=TEXT, model_version=TEXT, parameters=_ANYTHING,
        outputs=_list(_TENSOR),
    ),
    "The outputs; binary ones follow the JSON as in the request",
)  # fmt: skip


def _get(
    id_: str,
    description: str,
    answer: Body,
    errors: tuple[int, ...] = (500,),
    alternatives: tuple[AlternativeCall, ...] = (),
) -> Operation:
    return Operation(
        id=id_, method="GET", description=description, answer=answer, errors=errors, alternatives=alternatives
    )


def _post(
    id_: str,
    description: str,
    answer: Body,
    errors: tuple[int, ...],
    body: Body | None = None,
    form: CallForm | None = None,
) -> Operation:
    return Operation(
        id=id_, method="POST", description=description, body=body, answer=answer, errors=errors, form=form
    )


SERVER = _get(
    "serverMetadata",
    "What the server is, and which extensions of the protocol it has",
    Body(
        JSON,
        object_schema(("name", "version", "extensions"), name=TEXT, version=TEXT, extensions=_TEXTS),
        "It is",
    ),
    # As AMD's clients write it.
    alternatives=(AlternativeCall(id="serverMetadataWithSlash", method="GET", path="/v2/"),),
)
LIVE = _get(
    "serverLive", "Whether the server is there", Body(JSON, object_schema(("live",), live=_FLAG), "It is")
)
READY = _get(
    "serverReady",
    "Whether every model asked for can answer",
    Body(JSON, object_schema(("ready",), ready=_FLAG), "They can"),
    (500, 503),
)
MODELS = _get(
    "models",
    "The models that are ready",
    Body(JSON, object_schema(("models",), models=_TEXTS), "Their names"),
)
_METADATA = Body(
    JSON,
    object_schema(
        ("name", "versions", "platform", "inputs", "outputs"), name=TEXT, versions=_TEXTS, platform=TEXT,
        inputs=_list(_SPEC), outputs=_list(_SPEC),
    ),
    "Its name, versions, inputs and outputs",
)  # fmt: skip
MODEL = _get("modelMetadata", "What a model takes and gives", _METADATA, _MODEL)
MODEL_VERSION = _get("versionMetadata", "What a version of a model takes and gives", _METADATA, _MODEL)
_IS_READY = Body(JSON, object_schema(("name", "ready"), name=TEXT, ready=_FLAG), "It can")
MODEL_READY = _get("modelReady", "Whether a model can answer", _IS_READY, _MODEL)
MODEL_VERSION_READY = _get("versionReady", "Whether a version of a model can answer", _IS_READY, _MODEL)
INFER, INFER_VERSION = (
    _post(id_, f"Infer with {what} of a model", _INFER_ANSWER, _INFER, _INFER_BODY, CallForm.TENSORS)
    for id_, what in (("infer", "the default version"), ("versionInfer", "a version"))
)
EXPLAIN = _post("explain", "Explain the prediction of a model", _INFER_ANSWER, _INFER, _INFER_BODY)
EXPLAIN_VERSION = _post(
    "versionExplain", "Explain the prediction of a version of a model", _INFER_ANSWER, _INFER, _INFER_BODY
)

_GENERATED = Body(JSON, _ANYTHING, "model_name, model_version and every output by its name")
_EVENTS = Body("text/event-stream", TEXT, "An event for every response, each such an object as JSON")
_PROMPT = Body(JSON, _ANYTHING, "Inputs by name; other keys are parameters")
GENERATE = _post("generate", "Ask for one response, inputs by name", _GENERATED, _INFER, _PROMPT)
GENERATE_VERSION = _post(
    "versionGenerate", "Ask a version for one response, inputs by name", _GENERATED, _INFER, _PROMPT
)
GENERATE_STREAM = _post("generateStream", "Ask for a stream of responses", _EVENTS, _INFER, _PROMPT)
GENERATE_STREAM_VERSION = _post(
    "versionGenerateStream", "Ask a version for a stream of responses", _EVENTS, _INFER, _PROMPT
)

_CONFIG = Body(JSON, _ANYTHING, "The configuration, in Triton's terms")
CONFIG = _get("modelConfig", "What a model was loaded with", _CONFIG, (404, 500))
CONFIG_VERSION = _get("versionConfig", "What a version of a model was loaded with", _CONFIG, (404, 500))
_USAGE = Body(
    JSON, object_schema(("model_stats",), model_stats=_list(_ANYTHING)), "A record for every version"
)
ALL_STATISTICS = _get("statistics", "What every model has done", _USAGE)
STATISTICS = _get("modelStatistics", "What a model has done", _USAGE, (404, 500))
STATISTICS_VERSION = _get("versionStatistics", "What a version of a model has done", _USAGE, (404, 500))

_INDEX = Body(
    JSON,
    _list(object_schema(("name",), name=TEXT, version=TEXT, state=TEXT, reason=TEXT)),
    "Every version; models that were never loaded by their names alone",
)
_LOAD_BODY = Body(
    JSON, object_schema(parameters=_ANYTHING), "Nothing, or config and files in place of the stored ones"
)


def _id(name: str, prefix: str) -> str:
    words = [word for word in prefix.split("_") if word]
    return f"{name}{''.join(word.capitalize() for word in words)}"


def index(prefix: str) -> Operation:
    """The models there are, of the one repository or of the one named."""
    body = Body(
        JSON, object_schema(ready=_FLAG), "Whether only those that are ready are wanted", required=False
    )
    return _post(_id("repositoryIndex", prefix), "The models there are", _INDEX, (400, 500), body)


def load(prefix: str) -> Operation:
    """Load a model or a version of it."""
    answer = Body(JSON, object_schema(("name", "load"), name=TEXT, load=_FLAG), "It is loaded and ready")
    body = Body(_LOAD_BODY.content_type, _LOAD_BODY.schema, _LOAD_BODY.description, required=False)
    return _post(
        _id("repositoryLoad", prefix),
        "Load a model, anew if it is loaded",
        answer,
        (400, 403, 404, 500),
        body,
    )


def unload(prefix: str) -> Operation:
    """Unload a model or a version of it."""
    answer = Body(JSON, object_schema(("name", "unload"), name=TEXT, unload=_FLAG), "It is unloaded")
    body = Body(JSON, object_schema(parameters=_ANYTHING), "Nothing, or unload_dependents", required=False)
    return _post(_id("repositoryUnload", prefix), "Unload a model", answer, (400, 403, 404, 500), body)


_REGION = object_schema(
    ("name", "key", "offset", "byte_size"), name=TEXT, key=TEXT, offset=BIG, byte_size=BIG
)
_REGIONS = Body(JSON, _list(_REGION), "The regions")
REGIONS = _get("sharedMemoryStatus", "The regions of shared memory", _REGIONS, (500, 501))
REGION_STATUS = _get("sharedMemoryRegion", "A region of shared memory", _REGIONS, (404, 500, 501))
REGISTER = _post(
    "sharedMemoryRegister", "Take a region of shared memory into use", _NOTHING, (400, 500, 501),
    Body(JSON, object_schema(("key", "byte_size"), key=TEXT, offset=BIG, byte_size=BIG), "Where it lies"),
)  # fmt: skip
UNREGISTER = _post("sharedMemoryUnregister", "Forget a region of shared memory", _NOTHING, (500, 501))
UNREGISTER_ALL = _post("sharedMemoryUnregisterAll", "Forget every region", _NOTHING, (500, 501))
CUDA_REGIONS = _get("cudaSharedMemoryStatus", "No region: a GPU's memory is not shared", _REGIONS)
CUDA_REGION_STATUS = _get("cudaSharedMemoryRegion", "No region of a GPU's memory", _REGIONS, (404, 500))
CUDA_REGISTER = _post(
    "cudaSharedMemoryRegister", "Refused: a GPU's memory is not shared", _NOTHING, (400, 500)
)
CUDA_UNREGISTER = _post("cudaSharedMemoryUnregister", "Forget a region of a GPU's memory", _NOTHING, (500,))
CUDA_UNREGISTER_ALL = _post("cudaSharedMemoryUnregisterAll", "Forget all of them", _NOTHING, (500,))

_LOG = object_schema(
    log_file=TEXT,
    log_info=_FLAG,
    log_warning=_FLAG,
    log_error=_FLAG,
    log_verbose_level=NUMBER,
    log_format=TEXT,
)
LOG_SETTINGS = _get("logSettings", "How much is logged", Body(JSON, _LOG, "All settings"))
CHANGE_LOG = _post(
    "changeLogSettings", "Change how much is logged", Body(JSON, _LOG, "All settings"), (400, 403, 500),
    Body(JSON, _LOG, "What is to change", required=False),
)  # fmt: skip
_TRACE = Body(JSON, _ANYTHING, "All settings, each a string or a list of strings")
_NEW_TRACE = Body(JSON, _ANYTHING, "What is to change; null takes a setting back", required=False)
TRACE_SETTINGS = _get("traceSettings", "The trace settings", _TRACE)
CHANGE_TRACE = _post("changeTraceSettings", "Change the trace settings", _TRACE, (400, 403, 500), _NEW_TRACE)
MODEL_TRACE_SETTINGS = _get("modelTraceSettings", "The trace settings of a model", _TRACE, (404, 500))
CHANGE_MODEL_TRACE = _post(
    "changeModelTraceSettings", "Change the trace settings of a model", _TRACE, (400, 403, 404, 500), _NEW_TRACE
)  # fmt: skip
