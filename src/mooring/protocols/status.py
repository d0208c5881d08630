"""What each protocol calls what went wrong: one table per protocol, and nobody else knows a status code of an error.

TorchServe's clients test for its statuses, types and texts, so they are kept to the letter, quirks included.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from mooring.core import errors
from mooring.core.errors import MooringError
from mooring.repository.fetch import is_remote, url_for_log
from mooring.web.http1_format import reason_of


class Refusal(msgspec.Struct, frozen=True):
    """A no, worded for the wire. ``head`` is further raw header lines; ``error`` is set where KServe reads it."""

    status: int
    type: str
    message: str
    error: str = ""
    head: bytes = b""

    def document_for(self, target: bytes) -> dict[str, object]:
        """The JSON body as the protocol of this target has it."""
        if not speaks_v2(target):
            return self.document()
        return {"error": self.error or _V2_TEXTS.get(self.type) or self.message}

    @property
    def reason(self) -> str:
        """The reason phrase of the status line."""
        return phrase(self.status)

    def document(self) -> dict[str, object]:
        """The JSON body, in TorchServe's order."""
        document: dict[str, object] = {"code": self.status, "type": self.type, "message": self.message}
        if self.error:
            document["error"] = self.error
        return document


class Target(msgspec.Struct, frozen=True):
    """What the URL named. An error's own version may be the one that a default was resolved to."""

    # No tuple: there is one for every request, and a struct is made in a third of the time.
    model: str = ""
    version: str = ""

    def __iter__(self) -> Iterator[str]:
        return iter((self.model, self.version))


class _Rule(NamedTuple):
    status: int
    type: str
    text: Callable[[MooringError, Target], str]
    keeps_code: bool = False  # the error's own code, where it has one, goes before ``status``
    explains: bool = False  # TorchServe's text does not say why: the error's own stands beside it


def _own(error: MooringError, _: Target) -> str:
    return error.message


def _no_worker(_: MooringError, asked: Target) -> str:
    # The unbalanced quote after the version is TorchServe's.
    who = f'"{asked.model}" Version {asked.version}"' if asked.version else f'"{asked.model}"'
    return (
        f"Model {who} has no worker to serve inference request. Please use scale workers API to add workers. "
        "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
    )


def _no_version(error: MooringError, asked: Target) -> str:
    return f"Model version: {asked.version or error.version} does not exist for model: {asked.model or error.model}"


def _exists(error: MooringError, asked: Target) -> str:
    return f"Model version {asked.version or error.version} is already registered for model {asked.model or error.model}"


def _no_workers(error: MooringError, asked: Target) -> str:
    return f"Failed to start workers for model {asked.model or error.model} version: {asked.version or error.version}"


_TORCHSERVE: Mapping[type[MooringError], _Rule] = {
    errors.InvalidInput: _Rule(400, "BadRequestException", _own),
    errors.InputTooLarge: _Rule(413, "RequestEntityTooLargeException", _own),
    errors.ModelNotFound: _Rule(
        404, "ModelNotFoundException", lambda _, asked: f"Model not found: {asked.model}"
    ),
    errors.VersionNotFound: _Rule(404, "ModelVersionNotFoundException", _no_version),
    errors.ModelNotReady: _Rule(503, "ServiceUnavailableException", _no_worker),
    errors.ModelExists: _Rule(409, "ConflictStatusException", _exists),
    errors.ModelLoadFailed: _Rule(500, "InternalServerException", _own),
    errors.VersionIsDefault: _Rule(
        403,
        "InvalidModelVersionException",
        lambda _, asked: f"Cannot remove default version for model {asked.model}",
    ),
    errors.WorkersFailed: _Rule(500, "InternalServerException", _no_workers),
    errors.QueueFull: _Rule(503, "ServiceUnavailableException", _no_worker),
    # TorchServe never answers a request whose time ran out; a proxy would say this.
    errors.SequencesFull: _Rule(503, "ServiceUnavailableException", _no_worker, explains=True),
    errors.BodyMemoryFull: _Rule(503, "ServiceUnavailableException", _own),
    errors.QueueTimeout: _Rule(503, "ServiceUnavailableException", _own),
    errors.SequenceLost: _Rule(503, "ServiceUnavailableException", _no_worker, explains=True),
    errors.DeadlineExceeded: _Rule(504, "RequestTimeoutException", _own),
    errors.RequestCancelled: _Rule(499, "RequestCancelledException", _own),
    errors.Unsupported: _Rule(501, "UnsupportedOperationException", _own),
    errors.ModelFailed: _Rule(503, "InternalServerException", lambda *_: "Prediction failed"),
    errors.ModelRefused: _Rule(500, "InternalServerException", _own, keeps_code=True),
    errors.OutOfResources: _Rule(507, "InternalServerException", lambda *_: "Out of resources"),
    # Its code says 500 where the answer was only too large: TorchServe kills the worker for that, and answers 500.
    errors.InvalidOutput: _Rule(503, "InternalServerException", _own, keeps_code=True),
    errors.WorkerDied: _Rule(500, "InternalServerException", lambda *_: "Worker died."),
    errors.NodeFailed: _Rule(500, "InternalServerException", _own),
    MooringError: _Rule(500, "InternalServerException", _own),
}


def _raised(error: MooringError, _: Target) -> str:
    kind, colon, text = error.message.partition(": ")
    return f"{kind} : {text}" if colon else error.message


# Where KServe's v1 server differs: the status, and what "error" says; in all else it is TorchServe's table.
_KSERVE_V1: Mapping[type[MooringError], tuple[int, Callable[[MooringError, Target], str]]] = {
    errors.ModelNotFound: (404, lambda _, asked: f"Model with name {asked.model} does not exist."),
    errors.ModelNotReady: (503, lambda _, asked: f"Model with name {asked.model} is not ready."),
    errors.SequencesFull: (503, _own),
    errors.QueueTimeout: (503, _own),
    errors.SequenceLost: (503, _own),
    errors.ModelFailed: (500, _raised),
    # Proxies ask again after a 503, and this would come out wrong again.
    errors.InvalidOutput: (500, _own),
}


def _in_model(error: MooringError, asked: Target) -> str:
    """What is wrong, and with whose request: a text from deep inside seldom names the model."""
    if not asked.model or f"'{asked.model}'" in error.message:
        return error.message
    return f"{error.message} (model '{asked.model}')"


def _no_such_model(error: MooringError, asked: Target) -> str:
    return error.message or f"model '{asked.model or error.model}' is not found"


def _no_such_version(error: MooringError, asked: Target) -> str:
    return f"model '{asked.model or error.model}' has no version '{asked.version or error.version}'"


# Every fault of the caller is a 4xx, though Triton has 500 for most of what it cannot read.
_KSERVE_V2: Mapping[type[MooringError], tuple[int, Callable[[MooringError, Target], str]]] = {
    errors.InvalidInput: (400, _in_model),
    errors.InputTooLarge: (413, _in_model),
    errors.ModelNotFound: (404, _no_such_model),
    errors.VersionNotFound: (404, _no_such_version),
    errors.ModelNotReady: (503, _in_model),
    errors.ModelExists: (409, _in_model),
    errors.ModelLoadFailed: (400, _in_model),
    errors.VersionIsDefault: (409, _in_model),
    errors.QueueFull: (503, _in_model),
    errors.BodyMemoryFull: (503, _own),
    errors.SequenceLost: (409, _in_model),
    errors.DeadlineExceeded: (504, _in_model),
    errors.RequestCancelled: (499, _in_model),
    errors.Unsupported: (501, _in_model),
    errors.ModelFailed: (500, _own),
    errors.OutOfResources: (507, _own),
    errors.WorkerDied: (500, _in_model),
    MooringError: (500, _own),
}


def _rule_of(error: MooringError) -> _Rule:
    # A kind of error that is not in the table is what it is a kind of.
    return next(_TORCHSERVE[kind] for kind in type(error).__mro__ if kind in _TORCHSERVE)


def torchserve(error: MooringError, asked: Target) -> Refusal:
    """An error as TorchServe words it."""
    rule = _rule_of(error)
    status = rule.status
    if rule.keeps_code and 400 <= error.code <= 999:
        # TorchServe turns the 413 of a handler into 507, and clients test for it.
        status = 507 if error.code == 413 else error.code
    why = error.message if rule.explains else ""
    return Refusal(status, rule.type, rule.text(error, asked), why, head=_head_of(error))


_SOON = b"retry-after: 1\r\n"


def _head_of(error: MooringError) -> bytes:
    """Further header lines: to whoever finds no room, when to come again, in whole seconds and within a minute."""
    if isinstance(error, errors.BodyMemoryFull):
        return _SOON
    if not isinstance(error, errors.QueueFull):
        return b""
    return b"retry-after: %d\r\n" % min(max(math.ceil(error.retry_after), 1), 60)


# Where TorchServe words an error of a registration in its own way: the status, the type and the text, given the URL.
_REGISTRATION: Mapping[type[MooringError], tuple[int, str, Callable[[MooringError, str], str]]] = {
    errors.ModelNotFound: (404, "ModelNotFoundException", lambda _, url: _not_there(url)),
    errors.SourceRefused: (404, "ModelNotFoundException", lambda _, url: _not_from(url)),
    errors.FetchFailed: (
        400,
        "DownloadArchiveException",
        lambda _, url: f"Failed to download archive from: {url}",
    ),
    errors.ModelLoadFailed: (400, "InvalidModelException", lambda error, _: error.message),
    errors.OutOfResources: (507, "InternalServerException", lambda error, _: error.message),
}


def _not_there(url: str) -> str:
    return f"Model not found at: {url}" if url else "empty url"


def _not_from(url: str) -> str:
    if "://" in url:
        return f"Given URL {url} does not match any allowed URL(s)"
    return f"Relative path is not allowed in url: {url}"


def torchserve_registration(error: MooringError, url: str) -> Refusal:
    """What went wrong with a registration, as TorchServe words it.

    What no longer exists cannot be described, so what kept the workers from starting is told here, in ``error``.
    """
    if isinstance(error, errors.WorkersFailed):
        refusal = torchserve(error, Target(error.model, error.version))
        return msgspec.structs.replace(refusal, error=error.message)
    kind = next((kind for kind in type(error).__mro__ if kind in _REGISTRATION), None)
    if kind is None:
        return torchserve(error, Target(error.model, error.version))
    status, name, text = _REGISTRATION[kind]
    said = text(error, url_for_log(url) if is_remote(url) else url)
    return Refusal(status, name, said, error=error.message if error.message != said else "")


def torchserve_workflow(error: MooringError, workflow: str) -> Refusal:
    """What went wrong with a workflow, by its name, or with asking one."""
    refusal = torchserve(error, Target(workflow))
    if type(error) is errors.ModelNotFound:
        return Refusal(404, "WorkflowNotFoundException", f"Workflow not found: {workflow}")
    return refusal


def torchserve_workflow_registration(error: MooringError, url: str) -> Refusal:
    """What went wrong with the registration of a workflow."""
    if isinstance(error, errors.WorkersFailed):
        # What no longer exists cannot be described: the reason is told here.
        text = f"Workflow {error.model} has failed to register. Failures: [{error.message}]"
        return Refusal(500, "InternalServerException", text)
    if isinstance(error, errors.ModelExists) and not error.version:
        return Refusal(409, "ConflictStatusException", f"Workflow {error.model} is already registered.")
    elsewhere = isinstance(error, errors.SourceRefused) and "://" not in url
    if type(error) is errors.ModelNotFound or elsewhere:
        text = (
            f"Workflow not found in workflow store: {url_for_log(url) if is_remote(url) else url}"
            if url
            else "empty url"
        )
        return Refusal(404, "WorkflowNotFoundException", text, error=error.message if url else "")
    refusal = torchserve_registration(error, url)
    if refusal.type == "InvalidModelException":
        return msgspec.structs.replace(refusal, type="InvalidWorkflowException")
    return refusal


def torchserve_default(error: MooringError, asked: Target) -> Refusal:
    """Why a version does not become the default; TorchServe words it otherwise than elsewhere."""
    refusal = torchserve(error, asked)
    if isinstance(error, errors.VersionNotFound):
        text = f"Model version {asked.version} does not exist for model {asked.model}"
        return msgspec.structs.replace(refusal, message=text)
    return refusal


def kserve_v1(error: MooringError, asked: Target) -> Refusal:
    """An error in both forms at once: what a TorchServe client reads, and KServe's ``error``."""
    refusal = torchserve(error, asked)
    status, text = _KSERVE_V1.get(type(error), (refusal.status, None))
    if error.code:  # chosen by the model, and in the refusal already
        status = refusal.status
    said = text(error, asked) if text is not None else refusal.message
    return msgspec.structs.replace(refusal, status=status, error=said)


def kserve_v2(error: MooringError, asked: Target) -> Refusal:
    """An error as the Open Inference Protocol words it: a status and one text."""
    status, text = next(_KSERVE_V2[kind] for kind in type(error).__mro__ if kind in _KSERVE_V2)
    rule = _rule_of(error)
    if isinstance(error, errors.ModelRefused) and 400 <= error.code <= 599:
        status = error.code
    return Refusal(status, rule.type, text(error, asked), head=_head_of(error))


# gRPC's names for the same. UNAVAILABLE invites to try again, so it is only what another try may mend.
_GRPC: Mapping[type[MooringError], str] = {
    errors.InvalidInput: "INVALID_ARGUMENT",
    errors.ModelNotFound: "NOT_FOUND",
    errors.ModelNotReady: "UNAVAILABLE",
    errors.ModelExists: "ALREADY_EXISTS",
    errors.ModelLoadFailed: "FAILED_PRECONDITION",
    errors.VersionIsDefault: "FAILED_PRECONDITION",
    errors.QueueFull: "RESOURCE_EXHAUSTED",
    errors.BodyMemoryFull: "RESOURCE_EXHAUSTED",
    errors.QueueTimeout: "UNAVAILABLE",  # as Triton
    errors.SequenceLost: "ABORTED",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
    errors.RequestCancelled: "CANCELLED",
    errors.Unsupported: "UNIMPLEMENTED",
    errors.OutOfResources: "RESOURCE_EXHAUSTED",
    MooringError: "INTERNAL",
}

# What a model refused with an HTTP status of its choice; other 4xx are the caller's fault, 5xx the model's.
_GRPC_CHOSEN: Mapping[int, str] = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)*\Z")


def grpc_v2(error: MooringError, asked: Target) -> tuple[str, str]:
    """An error as gRPC's status code, by name, and the text that the Open Inference Protocol has for it over HTTP."""
    code = next(_GRPC[kind] for kind in type(error).__mro__ if kind in _GRPC)
    if isinstance(error, errors.VersionNotFound) and asked.version and not _NUMBER.match(asked.version):
        code = "INVALID_ARGUMENT"  # as Triton: no version is called so
    if isinstance(error, errors.ModelRefused) and error.code >= 400:
        code = _GRPC_CHOSEN.get(error.code, "INVALID_ARGUMENT" if error.code < 500 else "INTERNAL")
    return code, kserve_v2(error, asked).message


# TorchServe's own table from HTTP to gRPC. What it has no line for is the caller's fault below 500, and else the server's.
_GRPC_OF_HTTP: Mapping[int, str] = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "PERMISSION_DENIED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_IN_ARCHIVES = {"ModelNotFoundException", "ModelVersionNotFoundException", "InvalidModelException"}


def java_class(refusal: Refusal) -> str:
    """The full name of the exception that TorchServe's clients know a refusal by."""
    if refusal.type in _IN_ARCHIVES:
        return f"org.pytorch.serve.archive.model.{refusal.type}"
    if refusal.type == "DownloadArchiveException":
        return f"org.pytorch.serve.archive.{refusal.type}"
    return f"org.pytorch.serve.http.{refusal.type}"


def grpc_torchserve(refusal: Refusal) -> tuple[str, str]:
    """A refusal in TorchServe's words as gRPC's status code, by name, and its details: the text, then the class."""
    code = _GRPC_OF_HTTP.get(refusal.status, "INVALID_ARGUMENT" if refusal.status < 500 else "INTERNAL")
    why = f"\n{refusal.error}" if refusal.error else ""
    return code, f"{refusal.message}\n{java_class(refusal)}{why}"


_V2_PATH = re.compile(rb"(?:https?://[^/?#]*)?/v2(?:[/?#]|$)")


def speaks_v2(target: bytes) -> bool:
    """Whether a request target is one of the Open Inference Protocol, mounted or not."""
    return _V2_PATH.match(target) is not None


def refusal_for_target(error: MooringError, asked: Target, target: bytes) -> Refusal:
    """An error in the words of the protocol that the target belongs to, where nothing more is known of it."""
    if speaks_v2(target):
        return kserve_v2(error, asked)
    return kserve_v1(error, asked) if target.startswith(b"/v1/") else torchserve(error, asked)


NOT_FOUND = Refusal(
    404, "ResourceNotFoundException", "Requested resource is not found, please refer to API document."
)
NOT_ALLOWED = Refusal(
    405, "MethodNotAllowedException", "Requested method is not allowed, please refer to API document."
)
# TorchServe's words, to whoever speaks plain HTTP to its https address.
HTTPS_ONLY = {"status": "This TorchServe instance only accepts HTTPS requests"}

_V2_TEXTS = {NOT_FOUND.type: "Not Found", NOT_ALLOWED.type: "Method Not Allowed"}
FORBIDDEN = Refusal(
    403,
    "ForbiddenException",
    "models may not be loaded and unloaded, nor settings changed, over this address; "
    "it can be reached from other machines, and no token guards it: the setting management_token_file "
    "(or MOORING_MANAGEMENT_TOKEN) lets those who have the token, insecure = true (--insecure) everybody",
)


def unauthorized(token: str, why: str, how: str) -> Refusal:
    """A call without the token that it needs. TorchServe says the first two sentences, with 400."""
    text = (
        "Token Authorization failed. Token either incorrect, expired, or not provided correctly: "
        f"{why}; this call needs the {token} token, sent as 'Authorization: Bearer TOKEN', and {how}"
    )
    return Refusal(401, "InvalidKeyException", text, head=b'www-authenticate: Bearer realm="mooring"\r\n')


def grpc_gate(refusal: Refusal, service: str) -> tuple[str, str]:
    """How a service words what its gate refuses: TorchServe's clients look for PERMISSION_DENIED, too."""
    if service.startswith("org.pytorch.serve."):
        return "PERMISSION_DENIED", grpc_torchserve(refusal)[1]
    return _GRPC_OF_HTTP[refusal.status], refusal.message


# What the front refuses by itself, before any protocol has seen the request.
_FRONT: Mapping[int, str] = {
    400: "BadRequestException",
    408: "RequestTimeoutException",
    413: "RequestEntityTooLargeException",
    414: "RequestUriTooLongException",
    417: "ExpectationFailedException",
    431: "RequestHeaderFieldsTooLargeException",
    501: "UnsupportedOperationException",
    503: "ServiceUnavailableException",
    505: "HttpVersionNotSupportedException",
}


def front(status: int, message: str) -> Refusal:
    """What HTTP itself refuses. TorchServe has one text for whatever is not HTTP."""
    kind = _FRONT.get(status, "InternalServerException" if status >= 500 else "BadRequestException")
    text = "Invalid HTTP message." if status == 400 else message
    return Refusal(status, kind, text, head=_SOON if status == 503 else b"")


def fault(error: Exception) -> Refusal:
    """A fault of our own: its class is said, its text is only in the log. For want of memory it is a model's 507."""
    if isinstance(error, MemoryError):
        return Refusal(507, "InternalServerException", "Out of resources")
    return Refusal(500, type(error).__name__, "Internal server error, see the server's log.")


def phrase(status: int) -> str:
    """The reason phrase of a status; TorchServe knows no 418, and names it by its class as all it does not know."""
    return "Client Error (418)" if status == 418 else reason_of(status)
