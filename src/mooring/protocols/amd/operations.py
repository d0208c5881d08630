"""OpenAPI operations of AMD's endpoints."""

from typing import Any

from mooring.protocols.endpoints import Body, Operation
from mooring.protocols.openapi import NUMBER, TEXT, object_schema
from mooring.protocols.responses import JSON

_VALUE_SCHEMA: dict[str, Any] = {
    "oneOf": [TEXT, {"type": "boolean"}, NUMBER, {"type": "number", "format": "double"}]
}
_PARAMETERS = Body(
    JSON,
    {"type": "object", "additionalProperties": {}},
    "Parameters of the model, each a string, number or boolean",
)
_EMPTY = Body("text/plain", TEXT, "Done")

HARDWARE = Operation(
    id="hasHardware",
    method="POST",
    description="Whether the machine has so many devices of a name; of CPU, logical cores",
    body=Body(JSON, object_schema((), name=TEXT, num={"type": "integer", "minimum": 0}), "Name and number"),
    answer=Body("text/plain", TEXT, "It has"),
    errors=(400, 404, 500),
)


def _load_operation(id_: str, description: str) -> Operation:
    return Operation(
        id=id_,
        method="POST",
        description=description,
        body=_PARAMETERS,
        answer=_EMPTY,
        errors=(400, 404, 500),
    )


def _unload_operation(id_: str, description: str) -> Operation:
    return Operation(id=id_, method="POST", description=description, answer=_EMPTY, errors=(404, 500))


LOAD = _load_operation("modelLoad", "Load a model of the repository")
LOAD_VERSION = _load_operation("version_modelLoad", "Load a version of a model of the repository")
UNLOAD = _unload_operation("modelUnload", "Unload every version of a model")
UNLOAD_VERSION = _unload_operation("version_modelUnload", "Unload a version of a model")
LOAD_WORKER = Operation(
    id="workerLoad",
    method="POST",
    description="Load a model by the name of what runs it",
    body=_PARAMETERS,
    answer=Body("text/html", TEXT, "The name of the endpoint"),
    errors=(400, 500),
)
UNLOAD_WORKER = _unload_operation(
    "workerUnload", "Take an instance from an endpoint, and with the last one the endpoint"
)
