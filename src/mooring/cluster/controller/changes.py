"""What clients and commands change, as new desired states: pure rules, with the refusals of a single server. Runs in the controller."""

import msgspec
from msgspec import structs

from mooring.cluster.controller.desired_state import (
    DesiredModel,
    DesiredState,
    DesiredVersion,
    Rollout,
    VersionSettings,
)
from mooring.cluster.controller.placement import Key
from mooring.cluster.controller.rollout import retire_version
from mooring.cluster.records import (
    Change,
    DrainNode,
    RegisterVersion,
    ScaleVersion,
    SetDefault,
    UnregisterVersion,
)
from mooring.core.errors import (
    InvalidInput,
    ModelExists,
    ModelNotFound,
    VersionIsDefault,
    VersionNotFound,
)
from mooring.core.options import Placement
from mooring.core.validation import explain_validation


def apply_change(state: DesiredState, change: Change) -> DesiredState:
    """The state that a change asks for. Raises a ``MooringError`` where it cannot be made."""
    match change:
        case RegisterVersion():
            return _register(state, change)
        case UnregisterVersion():
            return _unregister(state, change)
        case ScaleVersion():
            return _scale(state, change)
        case SetDefault():
            find_version(state, change.model, change.version)
            return state.with_default(change.model, change.version)
        case DrainNode():
            others = [name for name in state.drained if name != change.node]
            return structs.replace(state, drained=others if change.undo else sorted([*others, change.node]))


def find_version(state: DesiredState, model: str, version: str = "") -> tuple[Key, DesiredVersion]:
    """A version that is served, or the default one. Raises ``ModelNotFound`` or ``VersionNotFound``."""
    held = _find_model(state, model)
    name = version or held.default
    found = held.versions.get(name)
    if found is None or found.retiring:
        raise VersionNotFound(f"model '{model}' has no version '{name}'", model=model, version=name)
    return Key(model, name), found


def _find_model(state: DesiredState, model: str) -> DesiredModel:
    held = state.models.get(model, DesiredModel())
    if all(version.retiring for version in held.versions.values()):
        raise ModelNotFound(f"model '{model}' is not loaded", model=model)
    return held


def _register(state: DesiredState, change: RegisterVersion) -> DesiredState:
    key = Key(change.model, change.version)
    held = state.models.get(change.model, DesiredModel())
    settings = VersionSettings(
        files=change.files,
        options=change.options,
        config=change.config,
        placement=read_placement(change),
        scaling=change.scaling,
    )
    there = held.versions.get(change.version)
    previous = held.default if held.default != change.version and held.default in held.versions else ""
    rollout = Rollout(
        make_default=change.make_default,
        retire=previous if change.make_default and change.retire_previous else "",
    )
    replicas = max(settings.placement.min_replicas, 1)
    if there is None or there.retiring:
        version = DesiredVersion(settings=settings, replicas=replicas, rollout=rollout)
    elif not change.replace:
        raise ModelExists(
            f"model '{change.model}' has a version '{change.version}' already",
            model=change.model,
            version=change.version,
        )
    else:
        version = _replace(there, settings, rollout)
    state = state.with_version(*key, version)
    if change.make_default:
        state = _withdraw_defaults(state, key)
    # The first version of a model answers from the start, so that requests wait for it.
    return state if previous else state.with_default(*key)


def _withdraw_defaults(state: DesiredState, key: Key) -> DesiredState:
    """Have no other version of the model become the default: of several that were to be, the one that came last is."""
    for name, other in state.models[key.model].versions.items():
        if name != key.version and other.rollout is not None and other.rollout.make_default:
            rollout = structs.replace(other.rollout, make_default=False, retire="")
            state = state.with_version(key.model, name, structs.replace(other, rollout=rollout))
    return state


def _replace(there: DesiredVersion, settings: VersionSettings, rollout: Rollout) -> DesiredVersion:
    """The version with other settings. One that is being replaced already goes back, if at all, to what it was at first."""
    before = (
        there.rollout.before
        if there.rollout is not None and there.rollout.before is not None
        else there.settings
    )
    if there.rollout is not None and there.rollout.before is None and not there.rollout.undo:
        # It has never been ready: there is nothing to go back to.
        return structs.replace(there, settings=settings, rollout=rollout)
    if settings != there.settings:
        rollout = structs.replace(rollout, before=before)
    placement = settings.placement
    replicas = min(max(there.replicas, placement.min_replicas, 1), placement.max_replicas)
    return structs.replace(there, settings=settings, rollout=rollout, replicas=replicas)


def read_placement(change: RegisterVersion) -> Placement:
    """The placement of a registration. Raises ``InvalidInput``, which names the key."""
    try:
        placement = msgspec.convert(change.placement, Placement)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            explain_validation(error, Placement, name="placement"), model=change.model
        ) from error
    _check_range(placement.min_replicas, placement.max_replicas, change.model)
    return placement


def _check_range(least: int, most: int, model: str) -> None:
    if not 0 <= least <= most or most < 1:
        raise InvalidInput(
            f"model '{model}' cannot have from {least} to {most} replicas: the least is 0 or more, the most 1 or more and no less",
            model=model,
        )


def _unregister(state: DesiredState, change: UnregisterVersion) -> DesiredState:
    held = _find_model(state, change.model)
    if not change.version:
        for name in held.versions:
            state = retire_version(state, Key(change.model, name))
        return state
    key, _ = find_version(state, change.model, change.version)
    others = [
        name for name, version in held.versions.items() if name != change.version and not version.retiring
    ]
    if others and held.default == change.version:
        raise VersionIsDefault(
            f"version '{change.version}' is the default of model '{change.model}', which has others",
            model=change.model,
            version=change.version,
        )
    return retire_version(state, key)


def _scale(state: DesiredState, change: ScaleVersion) -> DesiredState:
    key, version = find_version(state, change.model, change.version)
    placement = version.placement
    least, most = change.min_replicas, change.max_replicas
    if least is not None or most is not None:
        # Who names one end of the range leaves the other where it is, unless it must make way.
        low = least if least is not None else min(placement.min_replicas, most or 0)
        high = most if most is not None else max(placement.max_replicas, low)
        _check_range(low, high, change.model)
        placement = structs.replace(placement, all_nodes=False, min_replicas=low, max_replicas=high)
    workers = version.min_workers if change.min_workers is None else change.min_workers
    most_workers = version.max_workers if change.max_workers is None else change.max_workers
    if workers is not None and most_workers is not None and workers > most_workers:
        raise InvalidInput(
            f"model '{change.model}' cannot have at least {workers} and at most {most_workers} workers",
            model=change.model,
        )
    return state.with_version(
        *key,
        structs.replace(
            version,
            settings=structs.replace(version.settings, placement=placement),
            replicas=min(max(version.replicas, placement.min_replicas), placement.max_replicas),
            min_workers=workers,
            max_workers=most_workers,
        ),
    )
