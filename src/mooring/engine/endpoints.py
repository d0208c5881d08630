"""The names of endpoints that are loaded by the name of a worker, as AMD's server names them: pure rules.

The first endpoint of a worker is called like the worker, every other one ``worker-0``, ``worker-1`` ...; a number is
never used twice while any endpoint of that worker lives. Equal parameters are the same endpoint.
"""

from collections.abc import Mapping

from mooring.core.tensors import Parameter

_NOT_COMPARED = frozenset({"share", "worker"})


class WorkerEndpoints:
    """The endpoints of every worker, and how many instances each has."""

    def __init__(self) -> None:
        self._loaded: dict[str, dict[str, tuple[tuple[str, str, Parameter], ...]]] = {}
        self._next: dict[str, int] = {}
        self._instances: dict[str, int] = {}

    def find_endpoint(self, worker: str, parameters: Mapping[str, Parameter]) -> str | None:
        """The endpoint that is loaded with these parameters; None where there is none."""
        key = _comparison_key(parameters)
        for endpoint, loaded_key in self._loaded.get(worker, {}).items():
            if loaded_key == key:
                return endpoint
        return None

    def next_name(self, worker: str) -> str:
        """Return a name for one more endpoint. It is used up, even if the endpoint cannot be loaded."""
        number = self._next.get(worker)
        if number is None:
            self._next[worker] = 0
            return worker
        self._next[worker] = number + 1
        return f"{worker}-{number}"

    def add_endpoint(self, worker: str, endpoint: str, parameters: Mapping[str, Parameter]) -> None:
        """Note that an endpoint is loaded, with one instance."""
        self._loaded.setdefault(worker, {})[endpoint] = _comparison_key(parameters)
        self._instances[endpoint] = 1

    def add_instance(self, endpoint: str) -> int:
        """Count one more instance of an endpoint, and return how many it has now."""
        self._instances[endpoint] += 1
        return self._instances[endpoint]

    def release_instance(self, endpoint: str) -> int:
        """Count one instance less, and return how many are left. Raises ``KeyError`` for an endpoint that was not loaded so."""
        left = self._instances[endpoint] - 1
        if left:
            self._instances[endpoint] = left
        else:
            self.forget_endpoint(endpoint)
        return left

    def forget_endpoint(self, endpoint: str) -> None:
        """Forget an endpoint with all its instances; after the last one of a worker its names start anew."""
        self._instances.pop(endpoint, None)
        for worker in [worker for worker, endpoints in self._loaded.items() if endpoint in endpoints]:
            del self._loaded[worker][endpoint]
            self._reset_if_empty(worker)

    def note_load_failure(self, worker: str) -> None:
        """Note that an endpoint could not be loaded."""
        self._reset_if_empty(worker)

    def _reset_if_empty(self, worker: str) -> None:
        if not self._loaded.get(worker):
            self._loaded.pop(worker, None)
            self._next.pop(worker, None)


def _comparison_key(parameters: Mapping[str, Parameter]) -> tuple[tuple[str, str, Parameter], ...]:
    # AMD's parameters are bool, int, double or text; 100.0 is compared as the integer that it equals.
    items: list[tuple[str, str, Parameter]] = []
    for key, value in sorted(parameters.items()):
        if key not in _NOT_COMPARED:
            whole = int(value) if isinstance(value, float) and value.is_integer() else value
            items.append((key, type(whole).__name__, whole))
    return tuple(items)
