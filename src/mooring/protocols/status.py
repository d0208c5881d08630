"""The status, type and text of every error in each protocol: one table per protocol, and no other module maps errors.

TorchServe's clients test for its statuses, types and texts, so they are kept to the letter, quirks included.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from mooring.core import errors
from mooring.core.errors import MooringError
from mooring.protocols.tracebacks import find_own_line
from mooring.repository.fetch import is_remote, url_for_log
from mooring.web.http1_format import reason_of


class Refusal(msgspec.Struct, frozen=True):
    """An error response: the status, TorchServe's type and the text.

    ``head`` holds further raw header lines. ``error`` is the text for KServe's clients, where it differs. ``detail`` is
    what the text leaves out because it is TorchServe's to the letter; a gRPC status has both.
    """

    status: int
    type: str
    message: str
    error: str = ""
    head: bytes = b""
    detail: str = ""

    def document_for(self, target: bytes, request_id: str) -> dict[str, object]:
        """Return the JSON body in the form of the protocol that the request target belongs to.

        That of v2 and of the console has one key, and the request's id is in the header only.
        """
        if not (speaks_v2(target) or speaks_console(target)):
            return {**self.document(), "requestId": request_id}
        return {"error": self.error or _V2_TEXTS.get(self.type) or self.message}

    @property
    def reason(self) -> str:
        """The reason phrase of the status line."""
        return reason_phrase(self.status)

    def document(self) -> dict[str, object]:
        """Return the JSON body in TorchServe's form, its keys in TorchServe's order."""
        document: dict[str, object] = {"code": self.status, "type": self.type, "message": self.message}
        if self.error:
            document["error"] = self.error
        return document


class FaultWords(msgspec.Struct, frozen=True):
    """How TorchServe's API tells a fault of a model's own code: its ``status``, and whether its reason is ``shown``.

    The status 503 is TorchServe's own, and other statuses of models are as TorchServe has them then.
    """

    shown: bool = False
    status: int = 500


class Target(msgspec.Struct, frozen=True):
    """The model and the version that a call named. An error's own version may be the default that was resolved."""

    # A struct, not a NamedTuple: one is made for every request, in a third of the time.
    model: str = ""
    version: str = ""

    def __iter__(self) -> Iterator[str]:
        return iter((self.model, self.version))


class _Rule(NamedTuple):
    status: int
    type: str
    text: Callable[[MooringError, Target], str]
    keeps_code: bool = False  # the error's own code, if it has one, replaces ``status``
    adds_reason: bool = False  # TorchServe's text gives no reason: the error's own text is added as ``error``


def _error_text(error: MooringError, _: Target) -> str:
    return error.message


def _no_worker(_: MooringError, target: Target) -> str:
    # The unbalanced quote after the version is TorchServe's.
    who = f'"{target.model}" Version {target.version}"' if target.version else f'"{target.model}"'
    return (
        f"Model {who} has no worker to serve inference request. Please use scale workers API to add workers. "
        "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
    )


def _no_version(error: MooringError, target: Target) -> str:
    return f"Model version: {target.version or error.version} does not exist for model: {target.model or error.model}"


def _version_exists(error: MooringError, target: Target) -> str:
    return f"Model version {target.version or error.version} is already registered for model {target.model or error.model}"


def _workers_failed(error: MooringError, target: Target) -> str:
    return f"Failed to start workers for model {target.model or error.model} version: {target.version or error.version}"


_TORCHSERVE: Mapping[type[MooringError], _Rule] = {
    errors.InvalidInput: _Rule(400, "BadRequestException", _error_text),
    errors.InputTooLarge: _Rule(413, "RequestEntityTooLargeException", _error_text),
    errors.ModelNotFound: _Rule(
        404, "ModelNotFoundException", lambda _, target: f"Model not found: {target.model}"
    ),
    errors.VersionNotFound: _Rule(404, "ModelVersionNotFoundException", _no_version),
    errors.ModelNotReady: _Rule(503, "ServiceUnavailableException", _no_worker),
    errors.LoadingDisabled: _Rule(503, "ServiceUnavailableException", _error_text),
    errors.ModelExists: _Rule(409, "ConflictStatusException", _version_exists),
    errors.ModelLoadFailed: _Rule(500, "InternalServerException", _error_text),
    errors.VersionIsDefault: _Rule(
        403,
        "InvalidModelVersionException",
        lambda _, target: f"Cannot remove default version for model {target.model}",
    ),
    errors.WorkersFailed: _Rule(500, "InternalServerException", _workers_failed),
    errors.QueueFull: _Rule(503, "ServiceUnavailableException", _error_text),
    # TorchServe never answers a request that timed out; a proxy would answer 504.
    errors.SequencesFull: _Rule(503, "ServiceUnavailableException", _no_worker, adds_reason=True),
    errors.BodyMemoryFull: _Rule(503, "ServiceUnavailableException", _error_text),
    errors.QueueTimeout: _Rule(503, "ServiceUnavailableException", _error_text),
    errors.SequenceLost: _Rule(503, "ServiceUnavailableException", _no_worker, adds_reason=True),
    errors.DeadlineExceeded: _Rule(504, "RequestTimeoutException", _error_text),
    errors.RequestCancelled: _Rule(499, "RequestCancelledException", _error_text),
    errors.Unsupported: _Rule(501, "UnsupportedOperationException", _error_text),
    errors.ModelFailed: _Rule(500, "InternalServerException", lambda *_: "Prediction failed"),
    errors.ModelRefused: _Rule(500, "InternalServerException", _error_text, keeps_code=True),
    errors.OutOfResources: _Rule(507, "InternalServerException", lambda *_: "Out of resources"),
    # Its code says 500 where the answer was only too large: TorchServe kills the worker for that, and answers 500.
    errors.InvalidOutput: _Rule(500, "InternalServerException", _error_text, keeps_code=True),
    errors.ClusterUnavailable: _Rule(503, "ServiceUnavailableException", _error_text),
    errors.WorkerDied: _Rule(500, "InternalServerException", lambda *_: "Worker died."),
    errors.NodeFailed: _Rule(500, "InternalServerException", _error_text),
    MooringError: _Rule(500, "InternalServerException", _error_text),
}


HIDDEN = FaultWords()
"""Clients are told that a prediction failed, and nothing more."""

# What a model's own code has done wrong, and errors for which TorchServe has a text without a reason.
_FAULTS = frozenset((errors.ModelFailed, errors.InvalidOutput))
_HIDDEN = frozenset((errors.ModelFailed, errors.OutOfResources, errors.WorkerDied))


def _exception_text(error: MooringError, _: Target) -> str:
    kind, colon, text = error.message.partition(": ")
    return f"{kind} : {text}" if colon else error.message


# Where KServe v1 differs from TorchServe's table: the status and the text of "error".
_KSERVE_V1: Mapping[type[MooringError], tuple[int, Callable[[MooringError, Target], str]]] = {
    errors.ModelNotFound: (404, lambda _, target: f"Model with name {target.model} does not exist."),
    errors.ModelNotReady: (503, lambda _, target: f"Model with name {target.model} is not ready."),
    errors.SequencesFull: (503, _error_text),
    errors.QueueTimeout: (503, _error_text),
    errors.SequenceLost: (503, _error_text),
    errors.ModelFailed: (500, _exception_text),
    # Not 503: proxies retry after it, and another try would fail in the same way.
    errors.InvalidOutput: (500, _error_text),
}


def _name_model(error: MooringError, target: Target) -> str:
    """Return the error's text, with the model's name added where the text lacks it."""
    if not target.model or f"'{target.model}'" in error.message:
        return error.message
    return f"{error.message} (model '{target.model}')"


def _no_such_model(error: MooringError, target: Target) -> str:
    return error.message or f"model '{target.model or error.model}' is not found"


def _no_such_version(error: MooringError, target: Target) -> str:
    return f"model '{target.model or error.model}' has no version '{target.version or error.version}'"


# Every mistake of the client is a 4xx, although Triton answers most of them with 500.
_KSERVE_V2: Mapping[type[MooringError], tuple[int, Callable[[MooringError, Target], str]]] = {
    errors.InvalidInput: (400, _name_model),
    errors.InputTooLarge: (413, _name_model),
    errors.ModelNotFound: (404, _no_such_model),
    errors.VersionNotFound: (404, _no_such_version),
    errors.ModelNotReady: (503, _name_model),
    errors.LoadingDisabled: (503, _error_text),  # as Triton
    errors.ModelExists: (409, _name_model),
    errors.ModelLoadFailed: (400, _name_model),
    errors.VersionIsDefault: (409, _name_model),
    errors.QueueFull: (503, _name_model),
    errors.BodyMemoryFull: (503, _error_text),
    errors.SequenceLost: (409, _name_model),
    errors.DeadlineExceeded: (504, _name_model),
    errors.RequestCancelled: (499, _name_model),
    errors.Unsupported: (501, _name_model),
    errors.ModelFailed: (500, _error_text),
    errors.OutOfResources: (507, _error_text),
    errors.ClusterUnavailable: (503, _name_model),
    errors.WorkerDied: (500, _name_model),
    MooringError: (500, _error_text),
}


def _rule_of(error: MooringError) -> _Rule:
    # A class that is not in the table is mapped like its nearest base class.
    return next(_TORCHSERVE[kind] for kind in type(error).__mro__ if kind in _TORCHSERVE)


_WORKER_ENDED = re.compile(r"worker \S+ \(pid \d+\) (.+)")  # the first line of why a worker died
_LONGEST_REASON = 2000  # characters; libraries raise exceptions whose texts are whole pages


def _tell_fault(error: MooringError) -> str:
    """Return the reason of a fault of the model's code, and where in its own code it was raised."""
    if isinstance(error, errors.WorkerDied):
        how = _WORKER_ENDED.match(error.detail)
        return f"Worker died: it {how[1]}." if how else "Worker died."
    reason = error.message
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[:_LONGEST_REASON]}..."
    place = find_own_line(error.detail)
    return f"{reason} ({place})" if place else reason


def torchserve(error: MooringError, target: Target, faults: FaultWords = HIDDEN) -> Refusal:
    """Return an error as TorchServe answers it; ``faults`` says how those of a model's own code are told."""
    rule = _rule_of(error)
    status = rule.status
    if type(error) in _FAULTS:
        status = faults.status
    if faults.shown and type(error) in _HIDDEN:
        return Refusal(status, rule.type, _tell_fault(error))
    if rule.keeps_code and 400 <= error.code <= 999:
        # TorchServe turns the 413 of a handler into 507, and its clients test for it.
        status = 507 if error.code == 413 and faults.status == 503 else error.code
    why = error.message if rule.adds_reason else ""
    return Refusal(status, rule.type, rule.text(error, target), why, head=_retry_head(error))


_RETRY_SOON = b"retry-after: 1\r\n"


def retry_seconds(error: MooringError) -> int:
    """Return after how many seconds, from 1 to 60, a client may try again that met full queues or memory; else 0."""
    if isinstance(error, errors.BodyMemoryFull):
        return 1
    return min(max(math.ceil(error.retry_after), 1), 60) if isinstance(error, errors.QueueFull) else 0


def _retry_head(error: MooringError) -> bytes:
    """Return a Retry-After line, or b"" where the client is not told when to try again."""
    seconds = retry_seconds(error)
    return b"retry-after: %d\r\n" % seconds if seconds else b""


# Errors of registrations that TorchServe answers differently: the status, the type, and the text made from the URL.
_REGISTRATION: Mapping[type[MooringError], tuple[int, str, Callable[[MooringError, str], str]]] = {
    errors.ModelNotFound: (404, "ModelNotFoundException", lambda _, url: _not_found_at(url)),
    errors.SourceRefused: (404, "ModelNotFoundException", lambda _, url: _not_allowed_from(url)),
    errors.FetchFailed: (
        400,
        "DownloadArchiveException",
        lambda _, url: f"Failed to download archive from: {url}",
    ),
    errors.RequirementsFailed: (
        400,
        "ModelException",
        lambda error, _: f"Custom pip package installation failed for model {error.model}",
    ),
    errors.ModelLoadFailed: (400, "InvalidModelException", lambda error, _: error.message),
    errors.OutOfResources: (507, "InternalServerException", lambda error, _: error.message),
}


def _not_found_at(url: str) -> str:
    return f"Model not found at: {url}" if url else "empty url"


def _not_allowed_from(url: str) -> str:
    if "://" in url and ".." not in url:
        return f"Given URL {url} does not match any allowed URL(s)"
    return f"Relative path is not allowed in url: {url}"


def torchserve_registration(error: MooringError, url: str) -> Refusal:
    """Return an error of a registration as TorchServe answers it.

    A model whose workers failed to start cannot be described afterwards, so ``error`` gives the reason here.
    """
    if isinstance(error, errors.WorkersFailed):
        refusal = torchserve(error, Target(error.model, error.version))
        return msgspec.structs.replace(refusal, error=error.message)
    kind = next((kind for kind in type(error).__mro__ if kind in _REGISTRATION), None)
    if kind is None:
        return torchserve(error, Target(error.model, error.version))
    status, name, word = _REGISTRATION[kind]
    text = word(error, url_for_log(url) if is_remote(url) else url)
    return Refusal(status, name, text, error=error.message if error.message != text else "")


def torchserve_workflow(error: MooringError, workflow: str) -> Refusal:
    """Return an error of a call that names a workflow, as TorchServe answers it."""
    refusal = torchserve(error, Target(workflow))
    if type(error) is errors.ModelNotFound:
        return Refusal(404, "WorkflowNotFoundException", f"Workflow not found: {workflow}")
    return refusal


def torchserve_workflow_registration(error: MooringError, url: str) -> Refusal:
    """Return an error of a workflow's registration as TorchServe answers it."""
    if isinstance(error, errors.WorkersFailed):
        # The workflow no longer exists and cannot be described: this is the only place for the reason.
        text = f"Workflow {error.model} has failed to register. Failures: [{error.message}]"
        return Refusal(500, "InternalServerException", text)
    if isinstance(error, errors.ModelExists) and not error.version:
        return Refusal(409, "ConflictStatusException", f"Workflow {error.model} is already registered.")
    outside_store = isinstance(error, errors.SourceRefused) and "://" not in url
    if type(error) is errors.ModelNotFound or outside_store:
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


def torchserve_default(error: MooringError, target: Target) -> Refusal:
    """Return an error of set-default, for which TorchServe has a text of its own."""
    refusal = torchserve(error, target)
    if isinstance(error, errors.VersionNotFound):
        text = f"Model version {target.version} does not exist for model {target.model}"
        return msgspec.structs.replace(refusal, message=text)
    return refusal


def kserve_v1(error: MooringError, target: Target, faults: FaultWords = HIDDEN) -> Refusal:
    """Return an error in both forms at once: TorchServe's keys, and KServe v1's ``error``."""
    refusal = torchserve(error, target, faults)
    status, word = _KSERVE_V1.get(type(error), (refusal.status, None))
    if error.code:  # chosen by the model, and in the refusal already
        status = refusal.status
    text = word(error, target) if word is not None else refusal.message
    return msgspec.structs.replace(refusal, status=status, error=text)


def kserve_v2(error: MooringError, target: Target) -> Refusal:
    """Return an error as the Open Inference Protocol has it: a status and one text."""
    status, text = next(_KSERVE_V2[kind] for kind in type(error).__mro__ if kind in _KSERVE_V2)
    rule = _rule_of(error)
    if isinstance(error, errors.ModelRefused) and 400 <= error.code <= 599:
        status = error.code
    return Refusal(status, rule.type, text(error, target), head=_retry_head(error))


# gRPC status codes. Clients retry after UNAVAILABLE, so it stands only for errors that a retry may mend.
_GRPC: Mapping[type[MooringError], str] = {
    errors.InvalidInput: "INVALID_ARGUMENT",
    errors.ModelNotFound: "NOT_FOUND",
    errors.ModelNotReady: "UNAVAILABLE",
    errors.LoadingDisabled: "UNAVAILABLE",
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
    errors.ClusterUnavailable: "UNAVAILABLE",
    MooringError: "INTERNAL",
}

# Codes for HTTP statuses that a model chose; any other 4xx becomes INVALID_ARGUMENT, any other 5xx INTERNAL.
_GRPC_CHOSEN: Mapping[int, str] = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


_VERSION_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)*\Z")


def grpc_v2(error: MooringError, target: Target) -> tuple[str, str]:
    """Return the name of an error's gRPC status code, and the text that v2 has for it over HTTP."""
    code = next(_GRPC[kind] for kind in type(error).__mro__ if kind in _GRPC)
    if (
        isinstance(error, errors.VersionNotFound)
        and target.version
        and not _VERSION_NUMBER.match(target.version)
    ):
        code = "INVALID_ARGUMENT"  # as Triton answers a version that is no number
    if isinstance(error, errors.ModelRefused) and error.code >= 400:
        code = _GRPC_CHOSEN.get(error.code, "INVALID_ARGUMENT" if error.code < 500 else "INTERNAL")
    return code, kserve_v2(error, target).message


# TorchServe's own table from HTTP to gRPC. A status that is not listed is INVALID_ARGUMENT below 500, else INTERNAL.
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
_ARCHIVE_TYPES = {"ModelNotFoundException", "ModelVersionNotFoundException", "InvalidModelException"}


def java_class(refusal: Refusal) -> str:
    """Return the full name of TorchServe's Java exception for a refusal; its gRPC clients look for it."""
    if refusal.type in _ARCHIVE_TYPES:
        return f"org.pytorch.serve.archive.model.{refusal.type}"
    if refusal.type == "DownloadArchiveException":
        return f"org.pytorch.serve.archive.{refusal.type}"
    return f"org.pytorch.serve.http.{refusal.type}"


def grpc_torchserve(refusal: Refusal) -> tuple[str, str]:
    """Return the name of TorchServe's gRPC status code for a refusal, and its text with the exception's class."""
    code = _GRPC_OF_HTTP.get(refusal.status, "INVALID_ARGUMENT" if refusal.status < 500 else "INTERNAL")
    reason = f"\n{refusal.error}" if refusal.error else ""
    return code, f"{refusal.message}\n{java_class(refusal)}{reason}"


_CONSOLE_PATH = re.compile(rb"/console(?:/(?:api|static)/|/?(?:\?|$))")
_V2_PATH = re.compile(rb"(?:https?://[^/?#]*)?/v2(?:[/?#]|$)")


def speaks_v2(target: bytes) -> bool:
    """Return whether a request target belongs to the Open Inference Protocol, mounted or not."""
    return _V2_PATH.match(target) is not None


def speaks_console(target: bytes) -> bool:
    """Return whether a request target belongs to the console; a model of that name has other paths."""
    return _CONSOLE_PATH.match(target) is not None


def refusal_for_target(error: MooringError, target: Target, request_target: bytes) -> Refusal:
    """Return an error in the form of the protocol that the request target belongs to."""
    if speaks_v2(request_target) or speaks_console(request_target):
        return kserve_v2(error, target)
    return kserve_v1(error, target) if request_target.startswith(b"/v1/") else torchserve(error, target)


NOT_FOUND = Refusal(
    404, "ResourceNotFoundException", "Requested resource is not found, please refer to API document."
)
NOT_ALLOWED = Refusal(
    405, "MethodNotAllowedException", "Requested method is not allowed, please refer to API document."
)
# TorchServe's answer to plain HTTP on its https address.
HTTPS_ONLY = {"status": "This TorchServe instance only accepts HTTPS requests"}

_V2_TEXTS = {NOT_FOUND.type: "Not Found", NOT_ALLOWED.type: "Method Not Allowed"}
FORBIDDEN = Refusal(
    403,
    "ForbiddenException",
    "models may not be loaded or unloaded over this address, and settings may not be changed: other machines reach "
    "it, and no token guards it. Set management_token_file (or MOORING_MANAGEMENT_TOKEN) to allow it to those who "
    "have the token, or insecure = true (--insecure) to allow it to everybody",
)


def unauthorized_refusal(token: str, why: str, how: str, *, status: int = 401) -> Refusal:
    """Return the refusal of a call that lacks its token.

    With ``status`` 400 the body is TorchServe's, and the header alone says what is wrong.
    """
    reason = f"{why}; this call needs the {token} token, sent as 'Authorization: Bearer TOKEN', and {how}"
    if status == 400:
        renewing = token == "API"  # noqa: S105 - the name of a kind; TorchServe has another word at /token
        text = _NO_TOKEN_TEXT.replace("Authorization", "Authentication") if renewing else _NO_TOKEN_TEXT
        head = f'www-authenticate: Bearer realm="mooring", error="invalid_token", error_description="{reason}"\r\n'
        return Refusal(status, _NO_TOKEN, text, detail=reason, head=head.encode())
    text = f"{_NO_TOKEN_TEXT}: {reason}"
    return Refusal(status, _NO_TOKEN, text, head=b'www-authenticate: Bearer realm="mooring"\r\n')


_NO_TOKEN = "InvalidKeyException"  # noqa: S105 - TorchServe's name of the error
_NO_TOKEN_TEXT = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"  # noqa: S105


def grpc_gate(refusal: Refusal, service: str) -> tuple[str, str]:
    """Return the gRPC status and text of a refusal by the gate. TorchServe's clients expect PERMISSION_DENIED."""
    if refusal.detail:
        refusal = msgspec.structs.replace(refusal, message=f"{refusal.message}: {refusal.detail}")
    if service.startswith("org.pytorch.serve."):
        return "PERMISSION_DENIED", grpc_torchserve(refusal)[1]
    if refusal.type == _NO_TOKEN:
        return "UNAUTHENTICATED", refusal.message
    return _GRPC_OF_HTTP[refusal.status], refusal.message


# Types of the errors that the HTTP server answers by itself, before any endpoint has seen the request.
_TRANSPORT_TYPES: Mapping[int, str] = {
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


def transport_refusal(status: int, message: str) -> Refusal:
    """Return an error of the HTTP server itself. TorchServe has one text for all that is not valid HTTP."""
    kind = _TRANSPORT_TYPES.get(status, "InternalServerException" if status >= 500 else "BadRequestException")
    text = "Invalid HTTP message." if status == 400 else message
    return Refusal(status, kind, text, head=_RETRY_SOON if status == 503 else b"")


def fault_refusal(error: Exception) -> Refusal:
    """Return the answer to an exception in the server: 507 for lack of memory, else 500 with the class's name.

    The exception's text goes to the log only.
    """
    if isinstance(error, MemoryError):
        return Refusal(507, "InternalServerException", "Out of resources")
    return Refusal(500, type(error).__name__, "Internal server error, see the server's log.")


def reason_phrase(status: int) -> str:
    """Return the reason phrase of a status. For 418, which TorchServe does not know, it is TorchServe's fallback."""
    return "Client Error (418)" if status == 418 else reason_of(status)
