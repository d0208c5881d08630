"""What a client knows of the inputs that models declare."""

import threading
from collections.abc import Sequence

from mooring.core.tensors import TensorSpec

_MOST = 256


class Declarations:
    """The inputs of models by name and version, as the server last described them; the oldest give way. Any thread may use it."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._specs: dict[tuple[str, str], Sequence[TensorSpec]] = {}
        self._lock = threading.Lock()

    def get(self, model: str, version: str) -> Sequence[TensorSpec] | None:
        """Return the inputs of a model, empty where it declares none; None where nothing is known."""
        return self._specs.get((model, version))

    def put(self, model: str, version: str, specs: Sequence[TensorSpec]) -> None:
        """Keep what a server says."""
        with self._lock:
            self._specs.pop((model, version), None)
            while len(self._specs) >= self._most:
                del self._specs[next(iter(self._specs))]
            self._specs[model, version] = specs

    def drop(self, model: str) -> None:
        """Forget every version of a model, which may have changed."""
        with self._lock:
            for key in [key for key in self._specs if key[0] == model]:
                del self._specs[key]
