"""The texts with which a start ends because of its models: pure rules.

One that a target names ends the start as soon as it fails; with ``exit_on_error`` so does any other, once all were tried.
"""

from collections.abc import Sequence

from mooring.core.errors import ModelLoadFailed, MooringError, PackageMissing, WorkerDied
from mooring.core.service import ModelState

# Models that are listed one by one.
_MOST = 5


def start_failure(model: str, error: MooringError, models: Sequence[ModelState]) -> ModelLoadFailed:
    """Return the error for a model that a target names, with what had become of the other ``models`` of the start."""
    text = f"model '{model}' cannot be loaded: {error.reason}"
    others = [each for each in models if each.name != model and each.listed]
    if others:
        states = [f"'{each.name}' {_describe_state(each)}" for each in others[:_MOST]]
        if len(others) > _MOST:
            states.append(f"and {len(others) - _MOST} more")
        text += f" (of the others, {', '.join(states)}; --keep-going serves what can be loaded)"
    # Of a worker that died the log has the last lines already, and a package needs no traceback.
    told = isinstance(error, WorkerDied | PackageMissing)
    return ModelLoadFailed(text, model=model, version=error.version, detail="" if told else error.detail)


def _describe_state(model: ModelState) -> str:
    if model.ready:
        return "was ready"
    return "failed as well" if model.state in ("FAILED", "UNAVAILABLE") else "was being loaded"


def check_all_loaded(models: Sequence[ModelState]) -> None:
    """Raise ``ModelLoadFailed`` where a model cannot answer. The log has the reasons."""
    failed = [each.name for each in models if not each.ready]
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        raise ModelLoadFailed(f"not loaded: {names}; with exit_on_error false the others are served")
