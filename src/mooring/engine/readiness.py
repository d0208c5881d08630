"""Whether the server can answer: the rules behind its probes, beside the states of single models."""

from mooring.engine.graphs.ensembles import Ensembles
from mooring.engine.registry import Model, ModelVersion, Registry


class Readiness:
    """What must be there before the server is ready, and whether it is.

    ``listening``: all addresses accept connections; ``stopping``: the server is about to stop; ``awaits_workflows``:
    workflows that the start names are still being registered. The probes depend on them, whatever the models' states are.
    ``expected`` are the names of models that must be there. With ``strict`` the server is not ready while one of those is
    missing or cannot answer; without it, it is ready once each has been tried.
    """

    def __init__(self, registry: Registry, ensembles: Ensembles, *, strict: bool) -> None:
        self.listening = True
        self.stopping = False
        self.awaits_workflows = False
        self.expected: set[str] = set()
        self._registry = registry
        self._ensembles = ensembles
        self._strict = strict

    @property
    def is_open(self) -> bool:
        """Whether all addresses accept connections, and the server is not about to stop."""
        return self.listening and not self.stopping

    def is_ready(self) -> bool:
        """Whether the server is ready, as KServe's and Triton's probes ask."""
        models = self._registry.models
        if not self.listening or self.stopping or self.awaits_workflows or not self.expected <= models.keys():
            return False
        expected = [models[name] for name in self.expected]
        if not self._strict:
            return all(version.is_settled for model in expected for version in model.versions.values())
        return not self._registry.lacks_expected and all(map(self._is_complete, expected))

    def is_healthy(self) -> bool:
        """Whether every default version has its workers, as TorchServe's ping asks."""
        models = self._registry.models
        return (
            self.listening
            and not self.stopping
            and not (self._strict and self._registry.lacks_expected)
            and self.expected <= models.keys()
            and all(model.find_version("").healthy for model in models.values())
        )

    def can_answer(self, version: ModelVersion) -> bool:
        """Whether a version is ready, and all models that answer with it."""
        if version.spec.ensemble is not None:
            return self._ensembles.can_answer(version)
        models = self._registry.models
        return version.ready and all(
            stage in models and models[stage].find_version("").ready
            for stage in (*version.spec.stages, *version.spec.following)
        )

    def _is_complete(self, model: Model) -> bool:
        """Whether the default version can answer, and each version that was configured at the start has loaded once."""
        default = model.find_version("")
        if not (default.suspended or self.can_answer(default)):
            return False
        return all(
            each.ever_loaded or each.suspended for each in model.versions.values() if each.loaded_at_startup
        )
