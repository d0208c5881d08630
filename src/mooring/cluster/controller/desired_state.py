"""What a cluster is to serve: models, their versions, defaults and replicas, and the nodes that are drained. Runs in the controller.

It is written to a store at each change before anybody acts on it (state_store.py), and says nothing of what nodes do now.
Whoever changes it makes a new one.
"""

from collections.abc import Iterator

import msgspec
from msgspec import structs

from mooring.cluster.records import ModelFiles
from mooring.core.options import Placement
from mooring.core.tensors import Parameter

FORMAT = 1
"""The number of this format. A state with a higher one was written by a later Mooring, and is refused."""


class VersionSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that a registration says of a version; a registration in its place exchanges it whole."""

    files: ModelFiles
    options: dict[str, Parameter] = {}
    config: dict[str, object] = {}
    placement: Placement = Placement()
    scaling: dict[str, object] = {}


class Rollout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is still to happen with a version that has just been registered.

    Once it is READY on all its nodes it becomes the default if ``make_default`` says so, and ``retire`` is the version that is
    then served no more. ``before`` are the settings that it had: the nodes in ``upgraded`` have the new ones, and the others follow as long
    as all goes well. With ``undo`` all nodes go back to those before, or the version is taken away where there were none; ``undo`` says why.
    """

    make_default: bool = False
    retire: str = ""
    before: VersionSettings | None = None
    upgraded: list[str] = []
    undo: str = ""


class DesiredVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version. ``replicas`` is how many its requests need now, within what its placement allows.

    ``min_workers`` and ``max_workers`` are an operator's, None where nobody named them. A ``retiring`` version answers what it has
    and is then forgotten.
    """

    settings: VersionSettings
    replicas: int = 1
    min_workers: int | None = None
    max_workers: int | None = None
    rollout: Rollout | None = None
    retiring: bool = False

    @property
    def placement(self) -> Placement:
        """Where it goes and what it reserves."""
        return self.settings.placement


class DesiredModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The versions of a model, and which of them answers requests that name none; "" is none yet."""

    default: str = ""
    versions: dict[str, DesiredVersion] = {}


class DesiredState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. ``generation`` is that of the last assignments that followed from it."""

    generation: int = 0
    models: dict[str, DesiredModel] = {}
    drained: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, str, DesiredVersion]]:
        """Every version: the name of its model, its own, and what is wanted of it."""
        for model, held in self.models.items():
            for version, wanted in held.versions.items():
                yield model, version, wanted

    def find(self, model: str, version: str) -> DesiredVersion | None:
        """The version, None where there is no such one."""
        held = self.models.get(model)
        return None if held is None else held.versions.get(version)

    def with_version(self, model: str, version: str, wanted: DesiredVersion | None) -> "DesiredState":
        """The state with this version, or without it; a model without versions is forgotten."""
        held = self.models.get(model, DesiredModel())
        versions = {**held.versions}
        if wanted is None:
            versions.pop(version, None)
        else:
            versions[version] = wanted
        default = held.default if held.default in versions else ""
        return self._with_model(model, DesiredModel(default=default, versions=versions))

    def with_default(self, model: str, version: str) -> "DesiredState":
        """The state in which requests for the model that name no version go to this one."""
        return self._with_model(model, structs.replace(self.models[model], default=version))

    def _with_model(self, model: str, held: DesiredModel) -> "DesiredState":
        models = {**self.models, model: held}
        if not held.versions:
            del models[model]
        return structs.replace(self, models=models)
