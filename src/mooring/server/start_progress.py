"""How far each model of a start is: what is shown to the user meanwhile."""

import enum
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from mooring.core.service import ModelState
from mooring.engine.lifecycle import State
from mooring.engine.registry import Registry


class Step(enum.StrEnum):
    """How far one model is."""

    QUEUED = "queued"  # no process loads it yet
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class ModelProgress(msgspec.Struct, frozen=True):
    """How far one version is: the ``seconds`` that it has been loading or that it took, or the ``reason`` why it failed."""

    name: str
    version: str
    step: Step
    seconds: float = 0.0
    reason: str = ""


class ProgressView(Protocol):
    """Shows the progress of a start. Neither method may raise or wait."""

    def show(self, models: Sequence[ModelProgress]) -> None:
        """Show how far the models are now; called ten times a second."""

    def finish(self, models: Sequence[ModelProgress]) -> None:
        """Show it for the last time: all have been tried, or the start has been given up."""


def find_progress(registry: Registry, missing: Sequence[ModelState]) -> list[ModelProgress]:
    """Return how far the models are that are listed, with those that are ``missing`` first."""
    now = time.monotonic()
    lost = [ModelProgress(each.name, each.version, Step.FAILED, reason=each.reason) for each in missing]
    return [*lost, *_versions(registry, now)]


def _versions(registry: Registry, now: float) -> Iterator[ModelProgress]:
    for version in registry:
        spec = version.spec
        if spec.function or spec.chain:
            continue
        if version.ready:
            yield ModelProgress(spec.name, spec.version, Step.READY, version.load_seconds)
        elif version.error is not None and version.state is not State.UNLOADING:
            reason = "" if version.fails_start else version.error.reason  # which the end of the start gives
            yield ModelProgress(spec.name, spec.version, Step.FAILED, reason=reason)
        elif version.pool is not None and version.pool.loading_since is not None:
            seconds = now - version.pool.loading_since
            yield ModelProgress(spec.name, spec.version, Step.LOADING, seconds)
        else:
            yield ModelProgress(spec.name, spec.version, Step.QUEUED)
