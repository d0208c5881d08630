"""What this node is to serve, and the work of making it so. Runs in the first process of a node server.

An assignment says all that a node serves. Each model has at most one task, which takes one step after the other: files come,
a version is loaded beside the old one, workers change, what is not assigned any more is unloaded once the rest is done. A newer assignment
needs no queue: the task looks at the latest one before each step.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from mooring.cluster.file_sources import NODE, FileSources
from mooring.cluster.model_files import OpenFiles
from mooring.cluster.records import (
    Key,
    NodeAssignment,
    ReplicaState,
    VersionAssignment,
    VersionStatus,
)
from mooring.core.errors import ModelNotFound, MooringError, Unsupported
from mooring.core.service import ModelState, Scaled, VersionLoad
from mooring.observability.logs import get_logger
from mooring.repository.spec import ModelSpec

log = get_logger(__name__)

ReadVersion = Callable[[VersionAssignment, Path], Sequence[ModelSpec]]
"""Reads what lies at a path as it is assigned, its stages first. May block. Raises ``MooringError``."""

# Seconds until a version that failed is tried again, where an assignment still asks for it: doubled with each failure.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0


class LocalModels(Protocol):
    """The models of this process, as ``engine.administration.Administration`` has them."""

    async def load_assigned(self, model: str, read: Callable[[], Sequence[ModelSpec]]) -> None:
        """Load a version, beside the one that answers now."""

    async def unload_assigned(self, model: str, version: str) -> None:
        """Unload a version once its last request is answered."""

    async def scale(
        self, model: str, version: str = "", *, least: int, most: int, wait: bool = True
    ) -> Scaled:
        """Change the number of workers."""

    def choose_default(self, model: str, version: str) -> None:
        """Have a version answer requests that name none."""

    def loads(self) -> Sequence[VersionLoad]:
        """What each version has to do now."""

    def states(self) -> Sequence[ModelState]:
        """The state of each version."""


class _Running(msgspec.Struct):
    """A version that runs, as it was assigned when it was loaded, and its files, which are in use."""

    assigned: VersionAssignment
    files: OpenFiles


class _Failure(msgspec.Struct):
    """Why a version could not be had as it is assigned, and when it may be tried again, on the clock of ``Assignments``."""

    assigned: VersionAssignment
    reason: str
    tries: int
    next_try: float


class Assignments:
    """Makes what this process serves match the latest assignment, and says how far that is.

    ``on_change`` is called after each step. A version that fails is tried again for as long as an assignment asks for it, after pauses
    that double with each failure, and at once when it is assigned in another way or another version of this node has become ready: a step of an
    ensemble may have been missing.
    """

    def __init__(
        self,
        models: LocalModels,
        sources: FileSources,
        read: ReadVersion,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._sources = sources
        self._read = read
        self._on_change = on_change
        self._clock = clock
        self._latest = NodeAssignment(0, 0)
        self._wanted: dict[Key, VersionAssignment] = {}
        self._keys: dict[str, dict[Key, None]] = {}  # by model: what is wanted of it or runs
        self._running: dict[Key, _Running] = {}
        self._failed: dict[Key, _Failure] = {}
        self._doing: dict[Key, ReplicaState] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by model
        self.was_settled = False  # once, since the start
        self._retries: dict[Key, asyncio.TimerHandle] = {}

    @property
    def latest(self) -> NodeAssignment:
        """The latest assignment; one of epoch 0 where there was none yet."""
        return self._latest

    @property
    def settled(self) -> bool:
        """Whether there was an assignment, and each version of it runs as it is assigned or has failed."""
        return bool(self._latest.epoch) and not self._tasks

    def find(self, model: str, version: str) -> VersionAssignment | None:
        """How a version was assigned that runs here; None where it does not."""
        running = self._running.get((model, version))
        return running.assigned if running is not None else None

    def take(self, assignment: NodeAssignment) -> None:
        """Serve this from now on."""
        self._latest = assignment
        self._wanted = {(each.model, each.version): each for each in assignment.versions}
        for key in [key for key in self._failed if key not in self._wanted]:
            del self._failed[key]
        self._keys = {}
        for key in (*self._wanted, *self._running):
            self._keys.setdefault(key[0], {})[key] = None
        for model in self._keys:
            if self._next_step(model) is not None:
                self._start(model)
            self._choose_default(model)
        self.was_settled = self.was_settled or self.settled
        self._on_change()

    async def close(self) -> None:
        """Leave everything as it is, and do no more."""
        for retry in self._retries.values():
            retry.cancel()
        self._retries = {}
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def describe(self) -> list[VersionStatus]:
        """How far each version is that is assigned or still runs, sorted by name and version."""
        loads = {(load.name, load.version): load for load in self._models.loads()}
        states = {(state.name, state.version): state for state in self._models.states()}
        keys = sorted({*self._wanted, *self._running, *self._doing})
        return [self._describe_version(key, loads.get(key), states.get(key)) for key in keys]

    def _describe_version(
        self, key: Key, load: VersionLoad | None, state: ModelState | None
    ) -> VersionStatus:
        wanted, running, failure = self._wanted.get(key), self._running.get(key), self._failed.get(key)
        doing, reason = self._doing.get(key), ""
        if running is None or wanted is None or doing is ReplicaState.UNLOADING:
            found = doing or (ReplicaState.FAILED if failure is not None else ReplicaState.LOADING)
            if wanted is None and running is not None:
                found = ReplicaState.UNLOADING
        elif state is not None and state.state == "FAILED":
            found, reason = ReplicaState.FAILED, state.reason
        elif state is not None and not state.ready and state.loading_since:
            found = ReplicaState.LOADING  # its workers have died, and start anew
        else:
            found = ReplicaState.READY
        status = VersionStatus(
            *key,
            found,
            reason=reason or (failure.reason if failure is not None else ""),
            behind=running is not None and wanted is not None and running.assigned != wanted,
        )
        return status if load is None else msgspec.structs.replace(status, **_figures_of(load))

    def _start(self, model: str) -> None:
        if model not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._work_on(model))
            self._tasks[model] = task

    async def _work_on(self, model: str) -> None:
        """Take one step after the other until nothing is left to do for a model now."""
        try:
            while (step := self._next_step(model)) is not None:
                key, assigned = step
                try:
                    await self._take_step(key, assigned)
                except MooringError as error:
                    self._note_failure(key, assigned, error.message)
                except (
                    Exception
                ) as error:  # the supervisor of all models of the node: one must not stop the others
                    log.exception("version not served as assigned", model=key[0], version=key[1])
                    self._note_failure(key, assigned, f"{type(error).__name__}: {error}")
                finally:
                    self._doing.pop(key, None)
                self._choose_default(model)
                self._on_change()
        finally:
            del self._tasks[model]
        self.was_settled = self.was_settled or self.settled
        self._on_change()

    def _next_step(self, model: str) -> tuple[Key, VersionAssignment | None] | None:
        """The next version to bring into line, with its assignment, None for one to unload; None where nothing is to do now."""
        keys = self._keys.get(model, {})
        for key in keys:
            assigned, running, failure = self._wanted.get(key), self._running.get(key), self._failed.get(key)
            if assigned is None or (running is not None and running.assigned == assigned):
                continue
            if failure is None or failure.assigned != assigned or self._clock() >= failure.next_try:
                return key, assigned
        for key in keys:
            if key in self._running and key not in self._wanted:
                return key, None
        return None

    async def _take_step(self, key: Key, assigned: VersionAssignment | None) -> None:
        running = self._running.get(key)
        if assigned is None:
            await self._unload(key)
        elif running is not None and _differs_in_workers_alone(running.assigned, assigned):
            await self._scale(key, running, assigned)
        else:
            await self._load(key, assigned)
        self._failed.pop(key, None)

    async def _unload(self, key: Key) -> None:
        self._doing[key] = ReplicaState.UNLOADING
        self._on_change()
        with suppress(ModelNotFound):  # a client of this process has unloaded it
            await self._models.unload_assigned(*key)
        self._running.pop(key).files.close()

    async def _scale(self, key: Key, running: _Running, assigned: VersionAssignment) -> None:
        least, most = assigned.min_workers, assigned.max_workers
        if (least, most) not in ((None, None), (running.assigned.min_workers, running.assigned.max_workers)):
            now = next((load for load in self._models.loads() if (load.name, load.version) == key), None)
            least = least if least is not None else min(now.wanted_workers if now else 1, most or 0)
            with suppress(Unsupported):  # a chain: its stages have the workers
                await self._models.scale(*key, least=least, most=max(most or least, least))
        running.assigned = assigned

    async def _load(self, key: Key, assigned: VersionAssignment) -> None:
        if key not in self._running:
            self._doing[key] = ReplicaState.FETCHING
            self._on_change()
        # Nodes that serve the version have its files, whatever has become of those that had them first.
        serving = self._latest.routing.replicas.get(key[0], {}).get(key[1], [])
        sources = dict.fromkeys([*assigned.files.sources, *(f"{NODE}{node}" for node in serving)])
        files = await self._sources.open_files(msgspec.structs.replace(assigned.files, sources=[*sources]))
        try:
            if key not in self._running:
                self._doing[key] = ReplicaState.LOADING
                self._on_change()
            await self._models.load_assigned(key[0], lambda: self._read(assigned, files.place))
        except BaseException:
            files.close()
            raise
        before = self._running.get(key)
        self._running[key] = _Running(assigned, files)
        self._keys.setdefault(key[0], {})[key] = None  # a newer assignment may not name it any more
        if before is not None:
            before.files.close()
        self._try_others_again(key)

    def _try_others_again(self, key: Key) -> None:
        """A version has become ready: what failed for want of it may be had now."""
        for failed_key, failure in self._failed.items():
            if failed_key[0] != key[0]:
                failure.next_try = min(failure.next_try, self._clock())
                self._start(failed_key[0])

    def _note_failure(self, key: Key, assigned: VersionAssignment | None, reason: str) -> None:
        if assigned is None:  # an unload: nothing runs on, whatever went wrong
            running = self._running.pop(key, None)
            if running is not None:
                running.files.close()
            return
        before = self._failed.get(key)
        tries = before.tries + 1 if before is not None and before.assigned == assigned else 1
        pause = min(_FIRST_PAUSE * 2 ** (tries - 1), _LONGEST_PAUSE)
        self._failed[key] = _Failure(assigned, reason, tries, self._clock() + pause)
        self._retries[key] = asyncio.get_running_loop().call_later(pause, self._try_again, key)
        log.error(
            "version not served as assigned", model=key[0], version=key[1], reason=reason, failures=tries
        )

    def _try_again(self, key: Key) -> None:
        self._retries.pop(key, None)
        failure = self._failed.get(key)
        if failure is not None:
            failure.next_try = min(failure.next_try, self._clock())  # the loop's clock may be a little ahead
            self._start(key[0])

    def _choose_default(self, model: str) -> None:
        """Have requests that name no version answered by the cluster's default one, where it runs here."""
        version = self._latest.routing.defaults.get(model)
        if version is not None and (model, version) in self._running:
            with suppress(ModelNotFound):  # it was unloaded meanwhile
                self._models.choose_default(model, version)


def _differs_in_workers_alone(one: VersionAssignment, other: VersionAssignment) -> bool:
    changes = {"min_workers": other.min_workers, "max_workers": other.max_workers, "draining": other.draining}
    sources = msgspec.structs.replace(one.files, sources=other.files.sources)
    return msgspec.structs.replace(one, files=sources, **changes) == other


def _figures_of(load: VersionLoad) -> dict[str, float]:
    """The numbers of a status. Without a target for its queue a version has as many workers as it ever will."""
    scaling = load.scaling
    return {
        "ready_workers": load.ready_workers,
        "wanted_workers": load.wanted_workers,
        "max_workers": load.wanted_workers if scaling is None else scaling.most_workers,
        "waiting": load.waiting,
        "oldest_wait": load.oldest_wait,
        "in_flight": load.in_flight,
        "queue_p95": 0.0 if scaling is None else scaling.queue_p95,
        "busy_workers": load.busy_workers,
        "requests": load.requests,
    }
