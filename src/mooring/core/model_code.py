"""What the code of a model may import from ``mooring``: the class it may inherit from, how it is batched, its requests.

A worker makes the requests; the server never does. Importing this imports nothing else.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_BATCH = "__mooring_batch__"


class Model:
    """A model that keeps state. Inheriting from it is optional: any class with a method ``infer`` is a model.

    ``infer`` answers a request; its arguments are the inputs, by name. A method ``explain`` answers requests for
    explanations. Each worker process has one object of the class.
    """

    def load(self, context: Any) -> None:
        """Load what the model needs, once, before its first request.

        ``context`` has ``name``, ``version``, ``directory`` (the folder of the file), ``parameters`` (those of the
        configuration), ``threads`` and ``gpu`` (None for the CPU).
        """

    def close(self) -> None:
        """Let go of what the model holds, after its last request."""


class Batch(NamedTuple):
    """How many requests share a call of the function, and how many seconds the first of them waits for others."""

    max_size: int
    max_delay: float


def batch(*, max_size: int, max_delay: float = 0.0) -> Callable[[F], F]:
    """Have the server call a function, or the method ``infer`` of a class, for up to ``max_size`` requests at once.

    Every argument that is an input is then a list with an item for each request, and so is what the function returns,
    or each piece that it yields. ``max_delay`` is in seconds: so long a request waits for others while a worker is idle.
    Without it a batch is what has gathered while the model was busy. The model's configuration goes before both.
    """
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
        raise ValueError(f"max_size must be a whole number of at least 1, not {max_size!r}")
    if isinstance(max_delay, bool) or not isinstance(max_delay, int | float) or not 0 <= max_delay < 3600:
        raise ValueError(f"max_delay is in seconds, from 0 to 3600, and not {max_delay!r}")

    def mark(function: F) -> F:
        if isinstance(function, type):
            raise TypeError(f"put @mooring.batch on the method infer of class '{function.__name__}'")
        setattr(function, _BATCH, Batch(max_size, float(max_delay)))
        return function

    return mark


def batch_of(function: Callable[..., Any]) -> Batch | None:
    """What ``batch`` said of a function; None for one that is called for each request by itself."""
    found: Batch | None = getattr(function, _BATCH, None)
    return found


class Headers(Mapping[str, str]):
    """The headers of a request, or the metadata of a gRPC call. Names match in any case; a repeated one has all values."""

    __slots__ = ("_values",)

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, str] = {}
        for raw, value in pairs:
            name, text = raw.decode("latin-1").lower(), value.decode("latin-1")
            before = self._values.get(name)
            self._values[name] = text if before is None else f"{before}, {text}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"  # a model's own log: nothing of ours writes it


class Request:
    """The request that a function answers, for an argument of any name with the hint ``mooring.Request``.

    ``id`` is the request's id, as the log and the answer have it; ``model`` and ``version`` are those that it was sent to.
    ``parameters`` are its parameters over those of the model's configuration.
    """

    __slots__ = ("_cancelled", "_deadline", "_headers", "_raw", "id", "model", "parameters", "version")

    def __init__(
        self,
        id: str = "",  # noqa: A002 - as it is called everywhere
        *,
        model: str = "",
        version: str = "",
        parameters: Mapping[str, Any] | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
        deadline: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.id = id
        self.model = model
        self.version = version
        self.parameters: Mapping[str, Any] = parameters if parameters is not None else {}
        self._raw = headers
        self._headers: Headers | None = None
        self._deadline = deadline
        self._cancelled = cancelled

    @property
    def headers(self) -> Mapping[str, str]:
        """The client's headers, or the metadata of a gRPC call; ``request.headers["authorization"]`` in any case."""
        if self._headers is None:
            self._headers = Headers(self._raw)
        return self._headers

    @property
    def content_type(self) -> str:
        """The type of the body as the client sent it; empty where it sent none."""
        return self.headers.get("content-type", "")

    @property
    def remaining(self) -> float | None:
        """Seconds until the client stops waiting; None where it waits for as long as it takes, or it cannot be told."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more. A function that works for long asks now and then, and returns."""
        return self._cancelled()

    def __repr__(self) -> str:
        return f"<Request {self.id} to {self.model} {self.version}>".replace("  ", " ")
