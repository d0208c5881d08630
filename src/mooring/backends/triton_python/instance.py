"""The arguments of a model's ``initialize``: its configuration, and the device of this instance."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mooring.core.service import LoadContext
from mooring.hardware import CPU, find_devices
from mooring.repository.spec import ModelSpec
from mooring.repository.triton_document import config_document, describe_config


def initialize_arguments(spec: ModelSpec, context: LoadContext) -> dict[str, str]:
    """Return the arguments of ``initialize``: texts by name."""
    folder = Path(spec.location)
    gpu = _gpu_of_instance(spec, context)
    return {
        "model_config": json.dumps(config_document(describe_config(spec))),
        "model_instance_kind": "CPU" if gpu is None else "GPU",
        "model_instance_device_id": str(gpu or 0),
        "model_instance_name": f"{spec.name}_0_{context.worker or 0}",
        "model_repository": str(folder.parent if folder.name.isdecimal() else folder),
        "model_version": spec.version,
        "model_name": spec.name,
    }


def _gpu_of_instance(spec: ModelSpec, context: LoadContext) -> int | None:
    """Return the GPU that the configuration gives an instance; None for the CPU. Workers take the GPUs of all groups in turn."""
    if context.gpu is not None:
        return context.gpu
    groups: Sequence[Mapping[str, Any]] = spec.triton.get("instance_group", ())
    on_gpus = [each for each in groups if each.get("kind") == "KIND_GPU" and not each.get("passive")]
    if not on_gpus:
        return None
    there = sum(count for name, count in find_devices().items() if name != CPU)
    gpus = [gpu for each in on_gpus for gpu in each.get("gpus") or range(there) if gpu < there]
    return gpus[context.place % len(gpus)] if gpus else None
