"""What the server and its models do now: one document, of one reading of what is counted anyway."""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import psutil

from mooring.config.settings import Config
from mooring.core.service import (
    InferenceService,
    ModelAdministration,
    ModelState,
    ServerAdministration,
    VersionLoad,
    WorkflowService,
)
from mooring.core.turns import take_turns
from mooring.observability.metrics import Metrics
from mooring.observability.percentiles import find_percentiles, subtract_counts
from mooring.observability.statistics import DURATIONS, Counts

# Seconds that percentiles and means are of.
WINDOW = 10.0
# Seconds between two looks at what could be loaded: that reads folders.
_LIST_EVERY = 5.0
_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_NO_LOAD = VersionLoad("", "", 0, 0.0, 0, 0, 0, 0)

Key = tuple[str, str]
"""Name and version of a model."""


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while the server runs. ``started`` is in seconds since the epoch."""

    version: str
    started: float
    frontends: int


class Sample(msgspec.Struct, frozen=True):
    """The counters of one version at one reading, as far as the document needs them."""

    answered: int
    failed: int
    durations: list[int]
    queues: list[int]
    rows: int
    calls: int


NOTHING = Sample(0, 0, [0] * (len(DURATIONS) + 1), [0] * (len(DURATIONS) + 1), 0, 0)


class Reading(msgspec.Struct, frozen=True):
    """The counters of all versions at one time, in seconds on the monotonic clock."""

    time: float
    samples: dict[Key, Sample]


class LiveState:
    """Makes the document of ``/console/api/state``.

    How this works: nothing is counted for the console. A reading takes the sums of the existing histograms, and what happened
    since an older reading is their difference. ``_readings`` has those of the last ``WINDOW`` seconds; they are there only
    while somebody asks, and rates and percentiles are None until there are two. A version of which nothing was counted since
    the last reading keeps its sample. ``models.index`` reads folders, so it is asked now and then only, and again after
    ``forget_index``. ``find_addresses`` returns the addresses, which have no ports before they are bound.
    """

    def __init__(
        self,
        service: InferenceService,
        models: ModelAdministration,
        workflows: WorkflowService,
        server: ServerAdministration,
        metrics: Metrics,
        facts: ServerFacts,
        find_addresses: Callable[[], Mapping[str, str]],
    ) -> None:
        self._facts = facts
        self._find_addresses = find_addresses
        self._service = service
        self._models = models
        self._workflows = workflows
        self._server = server
        self._metrics = metrics
        self._readings: deque[Reading] = deque()
        self._process = psutil.Process()
        self._used = 0.0
        self._unloaded: Sequence[ModelState] = ()
        self._listed = -math.inf

    def forget_index(self) -> None:
        """Look at the next reading at what could be loaded: something was loaded or unloaded."""
        self._listed = -math.inf

    def read(self) -> dict[str, Any]:
        """Take a reading, and return the document."""
        document: dict[str, Any] = {}
        for _ in self._fill(document):
            pass
        return document

    async def read_in_turns(self) -> dict[str, Any]:
        """As ``read``, with turns of the event loop for everybody else: there may be a thousand versions."""
        document: dict[str, Any] = {}
        await take_turns(self._fill(document))
        return document

    def _fill(self, document: dict[str, Any]) -> Iterator[None]:
        """Take a reading for the document; yields where its caller may do other things."""
        now = time.monotonic()
        self._drop_old(now)
        states = [state for state in self._service.models() if state.listed]
        yield
        loads = {(load.name, load.version): load for load in self._models.loads()}
        yield
        last = self._readings[-1] if self._readings else None
        known = last.samples if last is not None else {}
        since = now - last.time if last is not None else 0.0
        samples: dict[Key, Sample] = {}
        models = []
        for state in states:
            key = _key_of(state)
            sample = samples[key] = self._take_sample(key, known.get(key))
            entry = _describe(state, loads.get(key, _NO_LOAD), sample, self._first_sample(key, sample))
            entry["rate"] = _rate(sample, known.get(key), since)
            entry["loaded_seconds"] = round(now - state.loading_since, 1) if state.loading_since else 0.0
            models.append(entry)
            yield
        self._readings.append(Reading(now, samples))
        models += self._list_unloaded(now, {state.name for state in states}, set(samples))
        yield
        models += self._list_workflows()
        models.sort(key=lambda each: each["name"])
        document |= {"server": self._describe_server(since), "models": models}

    def _take_sample(self, key: Key, known: Sample | None) -> Sample:
        counts: Counts = self._metrics.statistics_for(*key).counts
        failed, answered = counts.outcomes
        calls = sum(counts.inferences.counts)  # not of by_size, which may have a thousand entries
        if known is not None and (known.answered, known.failed, known.calls) == (answered, failed, calls):
            return known
        return Sample(
            answered, failed, counts.durations.counts[:], counts.queues.counts[:], counts.rows, calls
        )

    def _drop_old(self, now: float) -> None:
        """Keep of the readings only the newest one that is a whole window old, and those after it."""
        readings = self._readings
        while len(readings) > 1 and readings[1].time <= now - WINDOW:
            readings.popleft()
        # After a pause in which nobody asked, the last reading says nothing about the last seconds.
        while readings and readings[0].time < now - 1.5 * WINDOW:
            readings.popleft()

    def _first_sample(self, key: Key, sample: Sample) -> Sample:
        """Return the sample to compare with: the oldest there is, or this one itself."""
        return next((each.samples[key] for each in self._readings if key in each.samples), sample)

    def _list_unloaded(self, now: float, loaded: set[str], versions: set[Key]) -> list[dict[str, Any]]:
        if now - self._listed > _LIST_EVERY:
            self._listed = now
            self._unloaded = [state for state in self._models.index() if state.state == "UNAVAILABLE"]
        return [
            _describe(state, _NO_LOAD, NOTHING, NOTHING)
            for state in self._unloaded
            # Until the next look at the folders it may have been loaded.
            if (state.name not in loaded if not state.version else _key_of(state) not in versions)
        ]

    def _list_workflows(self) -> Iterable[dict[str, Any]]:
        for workflow in self._workflows.workflows():
            state = ModelState(workflow.name, "", "READY", ready=True, is_default=True, kind="workflow")
            yield _describe(state, _NO_LOAD, NOTHING, NOTHING)

    def _describe_server(self, seconds: float) -> dict[str, Any]:
        """Return what is known of the server; ``seconds`` have passed since the last reading, 0.0 without one."""
        used, before = time.process_time(), self._used
        self._used = used
        return {
            **msgspec.to_builtins(self._facts),
            "addresses": self._find_addresses(),
            "ready": self._service.ready(),
            "pid": os.getpid(),
            # Of this process alone: workers are asked for theirs on a model's own page.
            "cpu_percent": round(100 * (used - before) / seconds, 1) if seconds > 0 else 0.0,
            "memory_bytes": self._process.memory_info().rss,
            "log_level": self._server.log_level(),
        }


def addresses_of(config: Config) -> dict[str, str]:
    """Return the addresses at which a server listens, those that it serves, as this machine reaches them."""
    found = {"inference": str(config.inference_address.reachable)}
    if config.enable_management_api:
        found["management"] = str(config.management_address.reachable)
    if config.enable_metrics_api:
        found["metrics"] = str(config.metrics_address.reachable)
    grpc = config.grpc_address.reachable
    found["grpc"] = str(grpc).removeprefix("http://").removeprefix("https://")
    return found


def _key_of(state: ModelState) -> Key:
    return state.name, state.version


def _rate(sample: Sample, before: Sample | None, seconds: float) -> float:
    """Return the answers per second since the last reading; 0.0 without one."""
    return (
        round((sample.answered - before.answered) / seconds, 2) if before is not None and seconds > 0 else 0.0
    )


def _describe(state: ModelState, load: VersionLoad, sample: Sample, first: Sample) -> dict[str, Any]:
    """Return the entry of one version. ``first`` is its sample of some seconds ago, with which ``sample`` is compared."""
    calls = sample.calls - first.calls
    return {
        "name": state.name,
        "version": state.version,
        "state": state.state,
        "is_default": state.is_default,
        "reason": state.reason,
        "kind": state.kind,
        "platform": state.platform,
        "workers": {
            "ready": load.ready_workers,
            "wanted": load.wanted_workers,
            "starting": load.starting_workers,
        },
        "scaled_to_zero": state.ready and not load.wanted_workers and _has_workers(state),
        "waiting": load.waiting,
        "oldest_wait_ms": round(load.oldest_wait * 1000, 1),
        "in_flight": load.in_flight,
        "answered": sample.answered,
        "failed": sample.failed,
        "rate": 0.0,
        "latency_ms": _percentiles(sample.durations, first.durations),
        "queue_ms": _percentiles(sample.queues, first.queues),
        "batch_rows": round((sample.rows - first.rows) / calls, 2) if calls > 0 else None,
        "loaded_seconds": 0.0,
    }


def _has_workers(state: ModelState) -> bool:
    return state.kind not in ("", "chain", "ensemble", "workflow")


def _percentiles(now: Sequence[int], before: Sequence[int]) -> Mapping[str, float] | None:
    if now is before:  # of a version that has answered nothing since
        return None
    found = find_percentiles(DURATIONS, subtract_counts(now, before), list(_SHARES.values()))
    if found is None:
        return None
    return {name: round(value * 1000, 3) for name, value in zip(_SHARES, found, strict=True)}
