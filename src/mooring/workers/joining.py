"""Whether requests for a model that is a file may share its calls: what its workers declare, and what a trial shows."""

from collections.abc import Iterable

from msgspec import structs

from mooring.core.service import Joining, JoiningState
from mooring.ipc.messages import EnableJoining
from mooring.observability.logs import get_logger
from mooring.repository.spec import ModelSpec
from mooring.workers.handle import OwnedWorker
from mooring.workers.spawner import Spawner

log = get_logger(__name__)


class JoiningTrial:
    """The joining of one pool, and its trial.

    How this works: each worker says with its model what the file declares, and a ``stamp`` of the file. Where only a
    trial can tell, the first requests that might share a call start one, in a process of its own. What it shows holds
    for every worker with the same stamp; a worker with another one brings its own answer.
    """

    def __init__(self, spec: ModelSpec, spawner: Spawner) -> None:
        self._spec = spec
        self._spawner = spawner
        # None until a worker has loaded the model.
        self.joining: Joining | None = None

    def learn(self, worker: OwnedWorker, declared: Joining | None) -> None:
        """Take what a worker that has just loaded the model declares, or tell it what a trial of the same file showed."""
        worker.stamp = declared.stamp if declared is not None else ""
        known = self.joining
        if known is None or (
            known.state in (JoiningState.SHOWN, JoiningState.APART) and known.stamp != worker.stamp
        ):
            self.joining = declared
        elif known.state is JoiningState.SHOWN:
            worker.send_message(EnableJoining())

    def begin(self) -> bool:
        """Whether a trial is due now that requests might have shared a call; ``run`` it then."""
        if self.joining is None or self.joining.state is not JoiningState.UNTRIED:
            return False
        self.joining = Joining(JoiningState.TRYING, "it is being tried", self.joining.stamp)
        return True

    async def run(self, workers: Iterable[OwnedWorker]) -> None:
        """Try it, and tell those of ``workers`` that have loaded the same file."""
        try:
            shown = await self._spawner.try_joining()
        except OSError as error:
            log.warning("joining not tried", model=self._spec.name, reason=str(error))
            self.joining = Joining(JoiningState.APART, f"it could not be tried: {error}")
            return
        tried = self.joining.stamp if self.joining is not None else ""
        self.joining = shown = structs.replace(shown, stamp=shown.stamp or tried)
        facts = {"model": self._spec.name, "version": self._spec.version, "reason": shown.reason}
        if not shown.joined:
            log.warning("requests are not joined", **facts)
            return
        log.info("requests are joined from now on", **facts)
        for worker in workers:
            if worker.loaded and worker.stamp == shown.stamp:
                worker.send_message(EnableJoining())
