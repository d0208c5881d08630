"""The OpenAPI 3.0.1 document of the mounted endpoints.

It is valid without exceptions, so that client generators work with their defaults; an operation has one body argument
at most. Models of Python values describe their calls by their own schemas (``value_operations``).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from mooring.core.errors import MooringError
from mooring.core.service import InferenceService, ModelMetadata
from mooring.protocols.access import Gate
from mooring.protocols.endpoints import Body, Endpoint, Operation
from mooring.protocols.openapi_schemas import Components
from mooring.protocols.responses import JSON, Responses, to_pretty_json
from mooring.protocols.value_operations import describe_call, name_prefix
from mooring.tokens import Access, allowing
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_MAX_MODELS = 256
_SCHEMAS = ("Error", "OpenInferenceError")  # of every document
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
_SERVER_TIMING: Mapping[str, Any] = {
    "in": "header",
    "name": "server-timing",
    "description": "1 for the header Server-Timing in the answer, which says where the time went",
    "required": False,
    "schema": {"type": "string", "enum": ["1"]},
}


class ApiDescription:
    """The OpenAPI documents of one listener and of its models. ``add_endpoints`` is called before the first request.

    ``root`` is the prefix that clients behind a proxy put before every path. Where ``service`` is given the document of the
    listener has the calls to each model of Python values that is ready, unless a call to them needs a token: anybody may ask
    for the document.
    """

    def __init__(
        self,
        responses: Responses,
        version: str,
        title: str = "Mooring",
        *,
        gate: Gate | None = None,
        root: str = "",
        service: InferenceService | None = None,
    ) -> None:
        self._responses = responses
        self._service = service
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
        # What the documents that are kept were made of: loaded models, which are compared by identity.
        self._described: list[ModelMetadata] = []
        self._models: dict[str, tuple[ModelMetadata | None, bytes]] = {}

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
        models = self._value_models()
        if not self._document or [*map(id, models)] != [*map(id, self._described)]:
            components = Components(_SCHEMAS)
            calls = [*self._operations, *self._calls_of_models(models, components)]
            self._document = self._build(self._info, calls, components)
            self._described = models
        return self._document

    def _value_models(self) -> list[ModelMetadata]:
        """Return the models of Python values that are ready, in their default versions."""
        if self._service is None or self._gate.needs_token(Access.INFERENCE):
            return []
        found: list[ModelMetadata] = []
        for state in self._service.models():
            if state.ready and state.is_default and state.listed and len(found) < _MAX_MODELS:
                metadata = loaded_metadata(self._service, state.name)
                if metadata is not None and metadata.values is not None:
                    found.append(metadata)
        return found

    def _calls_of_models(
        self, models: Iterable[ModelMetadata], components: Components
    ) -> Iterator["_MountedCall"]:
        taken = {operation.id for _, operation, _ in self._operations}
        for model in models:
            prefix = name_prefix(model.name)
            for path, operation, token in self._operations:
                if operation.form is None or "{model_version}" in path or operation.method != "POST":
                    continue
                described = describe_call(operation, model, components, prefix=prefix)
                name = f"{operation.id}{prefix}"
                while name in taken:
                    name += "_"
                taken.add(name)
                yield (
                    _path_of(path, model.name),
                    msgspec.structs.replace(described, id=name),
                    token,
                )

    def model_document(self, model: str, metadata: ModelMetadata | None = None) -> bytes:
        """Return the document of the calls to one model, with its name in the paths, as JSON.

        ``metadata`` is that of the version which is asked for, None where it is not loaded.
        """
        kept = self._models.get(model)
        if kept is None or kept[0] is not metadata:
            components = Components(_SCHEMAS)
            values = metadata is not None and metadata.values is not None
            operations = [
                (
                    _path_of(path, model),
                    describe_call(operation, metadata, components)
                    if metadata is not None and values
                    else operation,
                    token,
                )
                for path, operation, token in self._operations
                if "{model_name}" in path and not operation.deprecated
            ]
            info = self._info | {"title": f"RESTful API for: {model}"}
            kept = metadata, self._build(info, operations, components)
            if model in self._models or len(self._models) < _MAX_MODELS:
                self._models[model] = kept
        return kept[1]

    def _build(self, info: Mapping[str, Any], calls: list["_MountedCall"], components: Components) -> bytes:
        return to_pretty_json(_build_document(info, calls, self._root, self._gate.status, components))

    def _list_calls(self, endpoints: Iterable[Endpoint]) -> Iterator["_MountedCall"]:
        for endpoint in endpoints:
            if endpoint.operation is not None:
                operation = msgspec.structs.replace(endpoint.operation, timed=endpoint.infers)
                token = endpoint.access if self._gate.needs_token(endpoint.access) else Access.OPEN
                yield endpoint.pattern, operation, token
                for alternative in operation.alternatives:
                    call = msgspec.structs.replace(operation, id=alternative.id, method=alternative.method)
                    yield alternative.path or endpoint.pattern, call, token


_MountedCall = tuple[str, Operation, Access]
"""A path, its operation, and the token that a call needs."""


def loaded_metadata(service: InferenceService, model: str, version: str = "") -> ModelMetadata | None:
    """Return the metadata of a loaded model; None where it is not loaded, or not there."""
    try:
        return service.metadata(model, version)
    except MooringError:
        return None


def _path_of(path: str, model: str) -> str:
    return path.replace("{model_name}", quote(model, safe=""))


def _build_document(
    info: Mapping[str, Any],
    operations: Sequence[_MountedCall],
    root: str,
    unauthorized: int,
    components: Components,
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
    schemas: dict[str, Any] = {"Error": _ERROR}
    if any(_is_v2(path) for path in paths):
        schemas["OpenInferenceError"] = _OPEN_INFERENCE_ERROR
    parameters = (
        {"parameters": {"serverTiming": _SERVER_TIMING}}
        if any(each.timed for _, each, _ in operations)
        else {}
    )
    parts = (
        {"schemas": schemas | components.schemas}
        | parameters
        | ({"securitySchemes": schemes} if schemes else {})
    )
    servers = {"servers": [{"url": root}, {"url": "/"}]} if root else {}
    return {"openapi": "3.0.1", "info": info, **servers, "paths": paths, "components": parts}


def _is_v2(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def _describe_operation(path: str, operation: Operation, token: Access, unauthorized: int) -> dict[str, Any]:
    description: dict[str, Any] = {
        "description": operation.description,
        "operationId": operation.id,
        "parameters": [*_path_parameters(path), *_query_parameters(operation), *_headers(operation)],
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
    kinds = {body.content_type: body.schema, **body.also}
    return {
        "description": body.description,
        "content": {kind: {"schema": schema} for kind, schema in kinds.items()},
    }


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in _PARAMETER.findall(path):
        yield {"in": "path", "name": name, "description": _PARAMETERS[name], "required": True, "schema": TEXT}


def _headers(operation: Operation) -> Iterator[dict[str, Any]]:
    if operation.timed:
        yield {"$ref": "#/components/parameters/serverTiming"}


def _query_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for query in operation.query:
        yield {
            "in": "query", "name": query.name, "description": query.description, "required": False,
            "schema": query.schema,
        }  # fmt: skip
