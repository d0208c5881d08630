"""Lets a Triton Python model complete its configuration by ``auto_complete_config``."""

import json
from pathlib import Path
from typing import Any

from mooring.backends.triton_python.backend import CLASS, import_model_class
from mooring.backends.triton_python.host import HOST
from mooring.backends.triton_python.model_config import ModelConfig
from mooring.backends.user_function import run_user_code
from mooring.core.errors import ModelLoadFailed
from mooring.repository.spec import ModelSpec
from mooring.repository.triton_document import config_document, describe_config

# What the code may say; it reads all other keys.
_KEYS = ("max_batch_size", "input", "output", "dynamic_batching", "model_transaction_policy")


def complete_config(spec: ModelSpec) -> dict[str, Any]:
    """Return the keys of the configuration, in Triton's form, that the model's code changes; empty where it changes none.

    Raises ``ModelLoadFailed`` with file, line and reason.
    """
    path = Path(spec.location, spec.entry)
    HOST.folder = spec.location
    kind = run_user_code(path, import_model_class, path)
    if not hasattr(kind, "auto_complete_config"):
        return {}
    before = config_document(describe_config(spec))
    completed = run_user_code(path, kind.auto_complete_config, ModelConfig(json.dumps(before)))
    if not isinstance(completed, ModelConfig):
        raise ModelLoadFailed(
            f"{path}: auto_complete_config of {CLASS} must return a pb_utils.ModelConfig, and returned a "
            f"{type(completed).__name__}"
        )
    after = completed.as_dict()
    changed = {key: after[key] for key in _KEYS if key in after and after[key] != before.get(key)}
    # Without it the shapes that were added would not say whether they have a batch dimension.
    return {"max_batch_size": after["max_batch_size"], **changed} if changed else {}
