"""What can go wrong, named by what happened; ``protocols/status.py`` says what each protocol calls it.

MooringError
├── InvalidInput              the request cannot be understood, or does not fit the model
│   └── InputTooLarge         it has more bytes than the server takes
├── ModelNotFound             no model of that name
│   └── VersionNotFound       the model is known, this version of it is not
├── ModelNotReady             known, but loading, unloading, failed or without a worker
├── LoadingDisabled           the server's settings allow no client to load or unload models
├── ModelExists               a version of that name is registered already
├── ModelLoadFailed           its files or its own code prevented the load
│   ├── SourceRefused         ... its source is not allowed
│   ├── FetchFailed           ... its archive could not be downloaded
│   ├── PackageMissing        ... a package that the model needs is not installed
│   ├── RequirementsFailed    ... pip could not install what it requires
│   └── WorkersFailed         ... no worker could load it, or too few
├── VersionIsDefault          the default version cannot be removed while there are others
├── QueueFull                 the model's queue is full
│   ├── SequencesFull         ... too many open sequences, or waiting steps of one
│   └── QueueTimeout          ... the request waited longer than the model's queue policy allows
├── BodyMemoryFull            request bodies take all the memory that they may use
├── SequenceLost              the worker that had the sequence's state is gone, and the state with it
├── DeadlineExceeded          the request's deadline passed before there was an answer
├── RequestCancelled          the client disconnected or cancelled the request
├── Unsupported               valid, but this model or server does not support it
├── ElsewhereOnly             valid, but only the first process can handle it: it is relayed there
├── ModelFailed               the model's own code raised an exception
│   ├── ModelRefused          ... on purpose, with a status and a text of its choice
│   │   └── Refused           ... as model code raises it; everywhere else it is a ModelRefused
│   ├── OutOfResources        ... out of memory on the machine or the accelerator, or a full disk
│   └── InvalidOutput         it returned an output that is not valid
├── WorkerDied                the process that ran the model ended or had to be ended
├── ClusterUnavailable        no node with the model, or not the cluster's controller, is reached now
├── NodeFailed                a node of a workflow failed
└── ServerUnreachable         raised by the client: no server reached, or a broken connection
"""

from typing import ClassVar

import msgspec


class MooringError(Exception):
    """Base class of all errors that a client may get.

    ``detail`` is for the log and for describe (a traceback, the last output of a process); no protocol
    puts it on the wire. ``code`` is only set where the model itself chose a status.
    """

    kinds: ClassVar[dict[str, type["MooringError"]]] = {}
    # Set by a client where no model has run for the call: the seconds after which it may be made again, 0 for any.
    repeat_after: float | None = None

    def __init__(
        self, message: str = "", *, model: str = "", version: str = "", detail: str = "", code: int = 0
    ) -> None:
        super().__init__(message)
        self.message = message
        self.model = model
        self.version = version
        self.detail = detail
        self.code = code

    @property
    def reason(self) -> str:
        """The text for operators, such as the index of models and the log."""
        return self.message

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Classes of a model's own code are unknown to other processes, where they are their nearest base class.
        if cls.__module__ == __name__ and cls.__name__ != "Refused":
            MooringError.kinds[cls.__name__] = cls


class InvalidInput(MooringError):
    """The request cannot be understood, or does not fit the model."""


class InputTooLarge(InvalidInput):
    """The request has more bytes than the server takes."""


class ModelNotFound(MooringError):
    """There is no model of that name."""


class VersionNotFound(ModelNotFound):
    """The model is known, this version of it is not."""


class ModelNotReady(MooringError):
    """The model is known, but it is loading, unloading, failed or without a worker."""


class LoadingDisabled(MooringError):
    """The server's settings allow no client to load or unload models."""


class ModelExists(MooringError):
    """A version of that name is registered already."""


class ModelLoadFailed(MooringError):
    """The model's files or its own code prevented the load."""


class SourceRefused(ModelLoadFailed):
    """The model's source is not allowed: it is outside the store and on no allow-list."""


class FetchFailed(ModelLoadFailed):
    """The model's archive could not be downloaded."""


class PackageMissing(ModelLoadFailed):
    """A package that the model needs is not installed. The message says it all, so the log goes without ``detail``."""


class RequirementsFailed(ModelLoadFailed):
    """The packages that the model requires could not be installed."""


class WorkersFailed(ModelLoadFailed):
    """No worker could load the model, or fewer than requested."""


class VersionIsDefault(MooringError):
    """The default version cannot be removed while there are others: requests without a version use it."""


class QueueFull(MooringError):
    """The model's queue is full."""

    # Estimated seconds until the requests that wait now are answered; 0 if it is unknown.
    retry_after = 0.0


class SequencesFull(QueueFull):
    """The model has its maximum of open sequences, or this sequence its maximum of waiting steps."""


class BodyMemoryFull(MooringError, MemoryError):
    """Request bodies take all the memory that they may use; a retry may succeed."""


class QueueTimeout(QueueFull):
    """The request waited for a worker longer than the model's queue policy allows."""


class SequenceLost(MooringError):
    """The worker that had the sequence's state is gone; only a step that starts the sequence again can be answered."""


class DeadlineExceeded(MooringError):
    """The request's deadline passed before there was an answer."""


class RequestCancelled(MooringError):
    """The client disconnected or cancelled the request."""


class Unsupported(MooringError):
    """The request is valid, but this model or server does not support it."""


class ElsewhereOnly(MooringError):
    """Only the server's first process can handle the request, which is relayed there. Clients never get this."""


class ModelFailed(MooringError):
    """The model's own code raised an exception."""


class ModelRefused(ModelFailed):
    """The model's own code refused, with a status (``code``) and a text of its choice."""


class Refused(ModelRefused):
    """Raised by a model's code to answer a request with an HTTP status from 400 to 599 and a text of its choice.

    Over gRPC it is the status that is nearest. Raises ``ValueError`` for another status.
    """

    def __init__(self, status: int, message: str) -> None:
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
            raise ValueError(f"mooring.Refused takes an HTTP status from 400 to 599, not {status!r}")
        super().__init__(str(message), code=int(status))


class OutOfResources(ModelFailed):
    """The machine or the accelerator ran out of memory, or a disk is full."""


class InvalidOutput(ModelFailed):
    """The model returned an output that is not valid."""


class WorkerDied(MooringError):
    """The process that ran the model ended or had to be ended."""

    # How it ended, as in "was killed by signal 11 (SIGSEGV)"; empty where that is not known.
    how = ""

    @property
    def reason(self) -> str:
        """The text for operators; clients get TorchServe's words."""
        return f"{self.message.removesuffix('.')}: it {self.how}" if self.how else self.message


class ClusterUnavailable(MooringError):
    """No node that has the model is reached now, or not the controller of the cluster; a retry may succeed."""


class NodeFailed(MooringError):
    """A node of a workflow failed; the reason is in the log."""


class ServerUnreachable(MooringError):
    """Raised by the client: no server was reached, or the connection broke."""


def _encodable(text: str) -> str:
    """Return a text as it is, but for surrogates, which UTF-8 does not have."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class ErrorRecord(msgspec.Struct, array_like=True, tag="error", frozen=True):
    """An error as it travels between processes."""

    kind: str
    message: str
    detail: str = ""
    code: int = 0

    @classmethod
    def of(cls, error: MooringError) -> "ErrorRecord":
        """Everything about ``error`` but the model's name, which the receiver knows."""
        kinds = MooringError.kinds
        kind = next((each for each in type(error).__mro__ if kinds.get(each.__name__) is each), ModelFailed)
        return cls(kind.__name__, _encodable(error.message), _encodable(error.detail), error.code)

    def error(self, *, model: str = "", version: str = "") -> MooringError:
        """The exception again; a kind this side does not know is a plain ``ModelFailed``."""
        kind = MooringError.kinds.get(self.kind, ModelFailed)
        return kind(self.message, model=model, version=version, detail=self.detail, code=self.code)
