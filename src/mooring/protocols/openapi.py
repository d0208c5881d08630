"""The OpenAPI 3.0.1 document of the mounted endpoints.

It is valid without exceptions, so that client generators work with their defaults; an operation has one body argument
at most.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from mooring.protocols.access import Gate
from mooring.protocols.endpoints import Body, Endpoint, Operation
from mooring.protocols.responses import JSON, Responses, to_pretty_json
from mooring.tokens import Access, allowing
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_MAX_MODELS = 256
_PARAMETER = re.compile(r"{(\w+)}")

_MEANINGS: Mapping[int, str] = {
    400: "The request cannot be understood, or does not fit the model",
    401: "The token is missing, wrong or expired",
    403: "Models and settings may not be changed over this address",
    404: "No such model, or no such version of it",
    405: "The method is not allowed here",
    409: "There is one already",
    413: "The body is too large",
    415: "The body's Content-Encoding is unknown",
    500: "The server or the model's worker failed",
    501: "The model cannot do this",
    503: "The model cannot answer now, or its own code failed",
    504: "The time allowed for the request ran out",
    507: "Out of memory",
}
_PARAMETERS: Mapping[str, str] = {
    "model_name": "Name of the model",
    "workflow_name": "Name of the workflow",
    "region_name": "Name of the region of shared memory",
    "repository_name": "Name of the repository; there is one, whatever it is called",
    "worker_name": "Name of the worker to load, or of the endpoint to unload",
    "model_version": "Version of the model; without one, its default version is meant",
}
_ERROR = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "The HTTP status"},
        "type": {"type": "string", "description": "The kind of error"},
        "message": {"type": "string", "description": "What went wrong"},
        "requestId": {
            "type": "string",
            "description": "The request's id, as in the header x-request-id and in the log",
        },
        "error": {"type": "string", "description": "What went wrong, where KServe's clients look for it"},
    },
}

_OPEN_INFERENCE_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What went wrong"}},
}

BINARY = {"type": "string", "format": "binary"}
TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
BIG = {"type": "integer", "format": "int64"}


def object_schema(required: Iterable[str] = (), **properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with these properties."""
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required := list(required):
        schema["required"] = required
    return schema


# One media type, not */*: a generated client then has one bytes argument and a content type to send.
ANY_INPUT = Body("application/octet-stream", BINARY, "The input, in whatever form the model reads")
ANY_OUTPUT = Body("*/*", BINARY, "The output, in whatever form the model writes")
MODEL_ERRORS = (400, 404, 500, 503, 504, 507)
_OPENAPI = Body(
    JSON,
    object_schema(
        ("openapi", "info", "paths"), openapi=TEXT, info={"type": "object"}, paths={"type": "object"}
    ),
    "An OpenAPI 3.0.1 document",
)
_DESCRIBE = Operation(id="apiDescription", method="OPTIONS", description="This document", answer=_OPENAPI)
_DESCRIBE_OLD_PATH = Operation(
    id="olderApiDescription", method="GET", description="This document", answer=_OPENAPI, deprecated=True
)
_OPENAPI_FILE, _DATAPLANE_FILE = (
    Operation(
        id=id_,
        method="GET",
        description=f"This document, where clients of {client} look for it",
        answer=_OPENAPI,
    )
    for id_, client in (("openapiFile", "KServe"), ("dataplaneFile", "MLServer"))
)
_GET_OR_HEAD = frozenset({"GET", "HEAD"})


class ApiDescription:
    """The OpenAPI documents of one listener and of its models. ``add_endpoints`` is called before the first request.

    ``root`` is the prefix that clients behind a proxy put before every path.
    """

    def __init__(
        self,
        responses: Responses,
        version: str,
        title: str = "Mooring",
        *,
        gate: Gate | None = None,
        root: str = "",
    ) -> None:
        self._responses = responses
        self._gate = gate or Gate()
        self._root = root
        self._info = {
            "title": title,
            "description": "An inference server that speaks every serving protocol to every model",
            "license": {"name": "Apache-2.0"},
            "version": version,
        }
        self._operations: list[_MountedCall] = []
        self._document = b""
        self._models: dict[str, bytes] = {}

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints of the document."""
        return [
            Endpoint("/", self.send_document, Access.OPEN, _DESCRIBE, methods=frozenset({"OPTIONS"})),
            Endpoint("/api-description", self.send_document, Access.OPEN, _DESCRIBE_OLD_PATH),
            Endpoint("/openapi.json", self.send_document, Access.OPEN, _OPENAPI_FILE, methods=_GET_OR_HEAD),
            Endpoint(
                "/v2/docs/dataplane.json",
                self.send_document,
                Access.OPEN,
                _DATAPLANE_FILE,
                methods=_GET_OR_HEAD,
            ),
        ]

    def send_document(self, exchange: Exchange, match: Match) -> None:
        """Answer with the document."""
        self._responses.send_body(exchange, self.to_json(), JSON)

    def add_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Add the operations of these endpoints."""
        self._operations.extend(self._list_calls(endpoints))
        self._document = b""
        self._models.clear()

    def to_json(self) -> bytes:
        """Return the document of the listener as JSON."""
        self._document = self._document or to_pretty_json(
            _build_document(self._info, self._operations, self._root, self._gate.status)
        )
        return self._document

    def model_document(self, model: str) -> bytes:
        """Return the document of the calls to one model, with its name in the paths, as JSON."""
        document = self._models.get(model)
        if document is None:
            name = quote(model, safe="")
            operations = [
                (path.replace("{model_name}", name), operation, token)
                for path, operation, token in self._operations
                if "{model_name}" in path and not operation.deprecated
            ]
            info = self._info | {"title": f"RESTful API for: {model}"}
            document = to_pretty_json(_build_document(info, operations, self._root, self._gate.status))
            if len(self._models) < _MAX_MODELS:
                self._models[model] = document
        return document

    def _list_calls(self, endpoints: Iterable[Endpoint]) -> Iterator["_MountedCall"]:
        for endpoint in endpoints:
            if endpoint.operation is not None:
                operation = endpoint.operation
                token = endpoint.access if self._gate.needs_token(endpoint.access) else Access.OPEN
                yield endpoint.pattern, operation, token
                for alternative in operation.alternatives:
                    call = msgspec.structs.replace(operation, id=alternative.id, method=alternative.method)
                    yield alternative.path or endpoint.pattern, call, token


_MountedCall = tuple[str, Operation, Access]
"""A path, its operation, and the token that a call needs."""


def _build_document(
    info: Mapping[str, Any], operations: Iterable[_MountedCall], root: str, unauthorized: int
) -> dict[str, Any]:
    """Return the document; ``unauthorized`` is the status of a missing or wrong token."""
    paths: dict[str, Any] = {}
    schemes: dict[str, Any] = {}
    for path, operation, token in operations:
        call = paths.setdefault(path, {})[operation.method.lower()] = _describe_operation(
            path, operation, token, unauthorized
        )
        for name in (name for either in call.get("security", ()) for name in either):
            schemes[name] = {"type": "http", "scheme": "bearer", "description": f"The {name} token"}
    schemas = {"Error": _ERROR}
    if any(_is_v2(path) for path in paths):
        schemas["OpenInferenceError"] = _OPEN_INFERENCE_ERROR
    components = {"schemas": schemas} | ({"securitySchemes": schemes} if schemes else {})
    servers = {"servers": [{"url": root}, {"url": "/"}]} if root else {}
    return {"openapi": "3.0.1", "info": info, **servers, "paths": paths, "components": components}


def _is_v2(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def _describe_operation(path: str, operation: Operation, token: Access, unauthorized: int) -> dict[str, Any]:
    description: dict[str, Any] = {
        "description": operation.description,
        "operationId": operation.id,
        "parameters": [*_path_parameters(path), *_query_parameters(operation)],
    }
    if operation.body is not None:
        description["requestBody"] = {
            **_describe_content(operation.body),
            "required": operation.body.required,
        }
    error = "OpenInferenceError" if _is_v2(path) else "Error"
    description["responses"] = {"200": _describe_content(operation.answer)}
    if operation.accepted:
        answer = operation.answer
        description["responses"]["202"] = _describe_content(
            Body(answer.content_type, answer.schema, operation.accepted)
        )
    description["responses"] |= {
        str(status): _describe_content(
            Body(JSON, {"$ref": f"#/components/schemas/{error}"}, _MEANINGS[status])
        )
        for status in sorted({*operation.errors, *([] if token is Access.OPEN else [unauthorized])})
    }
    if token is not Access.OPEN:
        description["security"] = [{kind.value: []} for kind in allowing(token)]
    if operation.deprecated:
        description["deprecated"] = True
    return description


def _describe_content(body: Body) -> dict[str, Any]:
    return {"description": body.description, "content": {body.content_type: {"schema": body.schema}}}


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in _PARAMETER.findall(path):
        yield {"in": "path", "name": name, "description": _PARAMETERS[name], "required": True, "schema": TEXT}


def _query_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for query in operation.query:
        yield {
            "in": "query", "name": query.name, "description": query.description, "required": False,
            "schema": query.schema,
        }  # fmt: skip
