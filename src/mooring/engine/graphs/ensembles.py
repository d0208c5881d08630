"""The ensembles of an engine: each can answer as long as the models of its steps can, and fit."""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from mooring.core.errors import ModelLoadFailed
from mooring.core.tensors import TensorSpec
from mooring.engine.graphs.ensemble_plan import EnsemblePlan
from mooring.engine.lifecycle import State
from mooring.engine.registry import ModelVersion, Registry
from mooring.engine.response_cache import CachedAnswers
from mooring.repository.ensemble_rules import StepModel, find_model_fault
from mooring.repository.spec import EnsembleStep

_Stamp = tuple[object, ...]
"""Changes whenever what is known of the models of an ensemble changes."""


class _Step(NamedTuple):
    """A step as it is now: the version that its model answers with, or why there is none."""

    version: ModelVersion | None
    fault: str = ""


class Ensembles:
    """Keeps the states of all ensembles in step with those of their models. Call ``update`` a few times a second.

    An ensemble is LOADING while one of its models is loaded for the first time, FAILED where one is missing, cannot
    answer or does not fit, and READY else.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._stamps: dict[ModelVersion, _Stamp] = {}

    async def start(self, version: ModelVersion, answers: CachedAnswers | None = None) -> None:
        """Follow the models of an ensemble, and return when they are loaded or it is known why it cannot answer.

        It keeps ``answers`` until one of its models changes.
        """
        plan = version.graph
        assert isinstance(plan, EnsemblePlan)
        plan.answers = answers
        version.start_loading(None, None)
        self._stamps[version] = ()
        await asyncio.sleep(0)  # at the start its models are registered in this turn of the loop
        self.update()
        await version.wait_until_settled()

    def forget(self, version: ModelVersion) -> None:
        """Follow an ensemble no longer; nothing happens for any other version."""
        self._stamps.pop(version, None)
        if isinstance(version.graph, EnsemblePlan) and version.graph.answers is not None:
            version.graph.answers.forget_all()

    def update(self) -> None:
        """Look whether the models of any ensemble have changed."""
        for version in self._stamps:
            self._update_state(version)

    def can_answer(self, version: ModelVersion) -> bool:
        """Whether an ensemble and all models of its steps are ready now."""
        plan = version.graph
        assert isinstance(plan, EnsemblePlan)
        found = [self._find_step(step).version for step in plan.steps]
        return version.ready and all(
            each is not None and (self.can_answer(each) if each.spec.ensemble is not None else each.ready)
            for each in found
        )

    def _update_state(self, version: ModelVersion) -> None:
        plan = version.graph
        assert isinstance(plan, EnsemblePlan)
        steps = [self._find_step(step) for step in plan.steps]
        stamp = tuple(
            (step.version.number, step.version.state, step.version.suspended, step.version.metadata)
            if step.version is not None
            else step.fault
            for step in steps
        )
        if stamp == self._stamps[version]:
            return
        self._stamps[version] = stamp
        if plan.answers is not None:  # of other models
            plan.answers.forget_all()
        fault = self._find_cycle(version) or next(
            (
                f"step '{step.model}': {found.fault or _state_fault(found.version)}"
                for step, found in zip(plan.steps, steps, strict=True)
                if found.fault or _state_fault(found.version)
            ),
            "",
        )
        found = [each.version for each in steps if each.version is not None]
        if not fault and any(each.state is State.LOADING and not each.ever_loaded for each in found):
            version.wait_again()
            return
        if not fault:
            plan.models = [
                StepModel.of(each.spec, each.metadata.inputs, each.metadata.outputs) for each in found
            ]
            fault = find_model_fault(version.spec, plan.models)
        if fault:
            spec = version.spec
            version.fail(ModelLoadFailed(fault, model=spec.name, version=spec.version))
            return
        plan.labels = {name: _labels_of(plan, name, found) for name in plan.outputs}
        if plan.answers is not None:
            plan.answers.by_headers = self._reads_headers(version)
        version.set_decoupled(any(model.decoupled for model in plan.models))
        version.on_worker_event(version.metadata)

    def _reads_headers(self, version: ModelVersion) -> bool:
        """Whether the answer of any model of an ensemble may depend on a request's headers, which all of them get."""
        spec = version.spec
        if spec.ensemble is None:
            return bool(spec.stages) or spec.reads_headers(version.metadata.code)
        found = [self._find_step(step).version for step in spec.ensemble.steps]
        return any(self._reads_headers(each) for each in found if each is not None)

    def _find_step(self, step: EnsembleStep) -> _Step:
        model = self._registry.models.get(step.model)
        if model is None:
            return _Step(None, self._registry.not_loaded_error(step.model).message)
        version = model.versions.get(step.version or model.default)
        if version is None:
            known = ", ".join(model.versions)
            return _Step(
                None, f"model '{step.model}' has no version {step.version} that is loaded; there is {known}"
            )
        return _Step(version)

    def _find_cycle(self, version: ModelVersion) -> str:
        """Say how an ensemble leads back to itself; empty where it does not."""
        name, seen = version.spec.name, set[str]()

        def path_from(model: str) -> list[str]:
            if model == name:
                return [name]
            entry = self._registry.models.get(model)
            default = entry.versions.get(entry.default) if entry is not None else None
            if model in seen or default is None or default.spec.ensemble is None:
                return []
            seen.add(model)
            return next(([model, *path] for step in default.spec.stages if (path := path_from(step))), [])

        path = next((path for step in version.spec.stages if (path := path_from(step))), [])
        return f"the ensemble is a step of itself: {' -> '.join([name, *path])}" if path else ""


def _state_fault(version: ModelVersion | None) -> str:
    if version is None:
        return ""
    if version.state is State.FAILED:
        return version.not_ready_error().message
    return version.no_worker_error().message if version.suspended else ""


def _labels_of(plan: EnsemblePlan, output: str, models: list[ModelVersion]) -> Mapping[str, Any]:
    """The labels of an output: the ensemble's own, else those of the model that writes it."""
    own = plan.spec.labels_of(output)
    if own:
        return own
    index = plan.writers[output]
    name = next(name for name, tensor in plan.steps[index].outputs.items() if tensor == output)
    model = models[index]
    if isinstance(model.graph, EnsemblePlan):
        return model.graph.labels_of(name)
    declared = next((each for each in model.metadata.outputs if each.name == name), None)
    return model.spec.labels_of(name) or _column_labels(declared)


def _column_labels(declared: TensorSpec | None) -> Mapping[str, Any]:
    return {str(index): label for index, label in enumerate(declared.labels)} if declared is not None else {}
