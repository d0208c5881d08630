"""What can go wrong, named by what happened; ``protocols/status.py`` says what each protocol calls it.

MooringError
├── InvalidInput              the request cannot be understood, or does not fit the model
│   └── InputTooLarge         it has more bytes than the server takes
├── ModelNotFound             no model of that name
│   └── VersionNotFound       the model is known, this version of it is not
├── ModelNotReady             known, but loading, unloading, failed or without a worker
├── ModelExists               a version of that name is registered already
├── ModelLoadFailed           its files or its own code kept it from loading
│   ├── SourceRefused         ... it lies where models may not come from
│   ├── FetchFailed           ... it could not be fetched from where it lies
│   └── WorkersFailed         ... no worker came up with it
├── VersionIsDefault          the default version cannot go while there are others
├── QueueFull                 as many requests wait as the model allows
│   ├── SequencesFull         ... or as many sequences are open, or steps of one wait
│   └── QueueTimeout          ... or it has waited longer than the model's queue policy allows
├── BodyMemoryFull            request bodies take as much memory as they may
├── SequenceLost              the worker that had the sequence's state is gone, and the state with it
├── DeadlineExceeded          the caller's time ran out before there was an answer
├── RequestCancelled          the caller went away or withdrew the request
├── Unsupported               understood, but this model or server cannot do it
├── ElsewhereOnly             understood, but only the server's first process can do it: it is asked then
├── ModelFailed               the model's own code raised
│   ├── ModelRefused          ... on purpose, with a status and a text of its choice
│   ├── OutOfResources        ... for want of memory on the machine or the accelerator
│   └── InvalidOutput         it answered with something that is no answer
├── WorkerDied                the process that ran the model ended or had to be ended
├── NodeFailed                a node of a workflow gave no answer, for whatever reason
└── ServerUnreachable         a client's own: there was no server to ask, or it broke off
"""

from typing import ClassVar

import msgspec


class MooringError(Exception):
    """Anything the server says no to.

    ``detail`` is for the log and for describe (a traceback, the last output of a process); no protocol
    puts it on the wire. ``code`` is only set where the model itself chose a status.
    """

    kinds: ClassVar[dict[str, type["MooringError"]]] = {}

    def __init__(
        self, message: str = "", *, model: str = "", version: str = "", detail: str = "", code: int = 0
    ) -> None:
        super().__init__(message)
        self.message = message
        self.model = model
        self.version = version
        self.detail = detail
        self.code = code

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        MooringError.kinds[cls.__name__] = cls


class InvalidInput(MooringError):
    """The request cannot be understood, or does not fit the model."""


class InputTooLarge(InvalidInput):
    """The request has more bytes than the server takes."""


class ModelNotFound(MooringError):
    """No model of that name."""


class VersionNotFound(ModelNotFound):
    """The model is known, this version of it is not."""


class ModelNotReady(MooringError):
    """Known, but loading, unloading, failed or without a worker."""


class ModelExists(MooringError):
    """A version of that name is registered already."""


class ModelLoadFailed(MooringError):
    """Its files or its own code kept it from loading."""


class SourceRefused(ModelLoadFailed):
    """It lies where models may not come from: outside the store, and on no allow-list."""


class FetchFailed(ModelLoadFailed):
    """It could not be fetched from where it lies."""


class WorkersFailed(ModelLoadFailed):
    """No worker came up with it, or not as many as were asked for."""


class VersionIsDefault(MooringError):
    """The default version cannot go while there are others: requests that name none would go elsewhere."""


class QueueFull(MooringError):
    """As many requests wait as the model allows."""

    # In how many seconds those that wait now will have been answered, as far as that can be told; 0 if it cannot.
    retry_after = 0.0


class SequencesFull(QueueFull):
    """As many sequences are open as the model allows, or as many steps of this one wait."""


class BodyMemoryFull(MooringError, MemoryError):
    """Request bodies take as much memory as they may: this one may find room later."""


class QueueTimeout(QueueFull):
    """It has waited for a worker longer than the model's queue policy allows."""


class SequenceLost(MooringError):
    """The worker that had the sequence's state is gone; only a step that starts it anew can be answered."""


class DeadlineExceeded(MooringError):
    """The caller's time ran out before there was an answer."""


class RequestCancelled(MooringError):
    """The caller went away or withdrew the request."""


class Unsupported(MooringError):
    """Understood, but this model or server cannot do it."""


class ElsewhereOnly(MooringError):
    """Only the server's first process can do it. Never a client's answer: the request is relayed there."""


class ModelFailed(MooringError):
    """The model's own code raised."""


class ModelRefused(ModelFailed):
    """The model's own code refused, with a status (``code``) and a text of its choice."""


class OutOfResources(ModelFailed):
    """Memory ran out on the machine or the accelerator, or room on a disk."""


class InvalidOutput(ModelFailed):
    """The model answered with something that is no answer."""


class WorkerDied(MooringError):
    """The process that ran the model ended or had to be ended."""


class NodeFailed(MooringError):
    """A node of a workflow gave no answer, for whatever reason; the log has it."""


class ServerUnreachable(MooringError):
    """A client's own: there was no server to ask, or it broke off."""


class ErrorRecord(msgspec.Struct, array_like=True, tag="error", frozen=True):
    """An error as it travels between processes."""

    kind: str
    message: str
    detail: str = ""
    code: int = 0

    @classmethod
    def of(cls, error: MooringError) -> "ErrorRecord":
        """Everything about ``error`` but the model's name, which the receiver knows."""
        return cls(type(error).__name__, error.message, error.detail, error.code)

    def error(self, *, model: str = "", version: str = "") -> MooringError:
        """The exception again; a kind this side does not know is a plain ``ModelFailed``."""
        kind = MooringError.kinds.get(self.kind, ModelFailed)
        return kind(self.message, model=model, version=version, detail=self.detail, code=self.code)
