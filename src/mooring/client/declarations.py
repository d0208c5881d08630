"""What a client knows of the inputs and outputs that models declare."""

import threading

from mooring.core.service import ModelMetadata

_MOST = 256


class Declarations:
    """The metadata of models by name and version, as the server last gave it; the oldest give way. Any thread may use it."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._known: dict[tuple[str, str], ModelMetadata] = {}
        self._lock = threading.Lock()

    def get(self, model: str, version: str) -> ModelMetadata | None:
        """Return the metadata of a model, None where nothing is known."""
        return self._known.get((model, version))

    def put(self, model: str, version: str, metadata: ModelMetadata) -> None:
        """Keep what a server says."""
        with self._lock:
            self._known.pop((model, version), None)
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[model, version] = metadata

    def drop(self, model: str) -> None:
        """Forget every version of a model, which may have changed."""
        with self._lock:
            for key in [key for key in self._known if key[0] == model]:
                del self._known[key]
