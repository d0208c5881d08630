"""What the engine asks of the frontend processes, which the package ``frontends`` runs and knows."""

from collections.abc import Sequence
from typing import Protocol

from mooring.engine.admission import NO_LOAD, QueueLoad
from mooring.engine.registry import ModelVersion
from mooring.workers.local import SharingFrontend
from mooring.workers.pool import Sharing


class Frontends(Protocol):
    """The frontend processes beside this one, to the engine."""

    @property
    def processes(self) -> Sequence[SharingFrontend]:
        """The frontends that a worker gets a channel to when it is forked, in the order of their numbers."""

    def sharing(self, version: ModelVersion) -> Sharing | None:
        """The part that frontends have in the workers of a version; None where they have none."""

    def publish(self) -> None:
        """Tell every frontend the state of all versions, if it has changed."""

    async def retire(self, version: ModelVersion) -> None:
        """Return when no frontend has a request in the version, nor sends it another one."""

    def load(self, version: ModelVersion) -> QueueLoad:
        """The requests of a version in the frontends, by their last reports."""

    def check(self, now: float) -> None:
        """End frontends that are frozen. Called a few times a second."""


class SingleProcess(Frontends):
    """A server with one process that takes connections."""

    @property
    def processes(self) -> Sequence[SharingFrontend]:
        return ()

    def sharing(self, version: ModelVersion) -> Sharing | None:
        return None

    def publish(self) -> None:
        pass

    async def retire(self, version: ModelVersion) -> None:
        pass

    def load(self, version: ModelVersion) -> QueueLoad:
        return NO_LOAD

    def check(self, now: float) -> None:
        pass
