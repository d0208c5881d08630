"""Completing the configuration of a Triton Python model by its own code, before its workers start."""

import json
from pathlib import Path

from mooring.core.errors import ModelLoadFailed
from mooring.repository.platforms import completes_config
from mooring.repository.repository_model import apply_triton_config
from mooring.repository.spec import ModelSpec
from mooring.repository.triton_config import config_from_json
from mooring.workers.local import LocalWorkers
from mooring.workers.spawner import Spawner


def needs_completion(spec: ModelSpec) -> bool:
    """Whether the model's code may complete its configuration. Its file is read for that, and not run."""
    return spec.backend == "triton_python" and completes_config(Path(spec.location, spec.entry))


async def complete_spec(spec: ModelSpec, workers: LocalWorkers) -> ModelSpec:
    """Return the version with the configuration that its code has completed. Raises ``ModelLoadFailed``."""
    spawner = Spawner(spec, workers, threads=1)
    try:
        text = await spawner.complete_config()
    except OSError as error:
        raise ModelLoadFailed(f"no process could be started for auto_complete_config: {error}") from error
    finally:
        spawner.close()
    changes = json.loads(text)
    if not changes:
        return spec
    try:
        return apply_triton_config(spec, config_from_json(changes))
    except (ModelLoadFailed, ValueError) as error:
        path = Path(spec.location, spec.entry)
        raise ModelLoadFailed(f"{path}: auto_complete_config: {error}") from error
