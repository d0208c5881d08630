"""The ``explain`` table of a model's configuration, checked when the model is loaded.

    method        one of ``METHODS``                    target    the class where a request names none
    output        which output is explained             inputs    which inputs are (the others are only passed on)
    layer         LayerIntegratedGradients: the name of the embedding
    baselines     what an input is compared with: a number, or a .npy file in the model's folder with a sample or a row
                  of samples, or a table of these by input

and the method's own arguments. An unknown key is an error, so that a typing error is noticed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mooring.core.errors import ModelLoadFailed
from mooring.core.paths import leads_out
from mooring.core.tensors import Array
from mooring.explain.methods import METHODS, Argument, Method

DEFAULT = "IntegratedGradients"

Target = int | str | list[Any] | None
"""A target as a caller or a configuration gives it: an index, a label, or a list of either; see ``targets.py``."""

Baseline = float | Array


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The configured explanations of a model. ``baselines`` and masks are by input; the key "" stands for all inputs.

    ``arguments`` are the method's own, with files already read.
    """

    method: str = DEFAULT
    target: Target = None
    output: str = ""
    inputs: Sequence[str] = ()
    layer: str = ""
    baselines: Mapping[str, Baseline] = {}
    arguments: Mapping[str, Any] = {}

    @property
    def traits(self) -> Method:
        """The method's entry in the table of methods."""
        return METHODS[self.method]


def settings_of(table: Mapping[str, Any], folder: Path) -> Settings:
    """Parse the ``explain`` table; files are relative to ``folder``.

    Raises ``ModelLoadFailed``, which names the key.
    """
    name = table.get("method", DEFAULT)
    if name not in METHODS:
        raise ModelLoadFailed(f"explain.method: there is no {name!r}; known are {', '.join(METHODS)}")
    method = METHODS[name]
    common = ["method", "target", "output", "inputs"]
    common += ["baselines"] * method.baselines + ["layer"] * (name == "LayerIntegratedGradients")
    for key in table:
        if key not in common and key not in method.arguments:
            known = ", ".join([*common, *method.arguments])
            raise ModelLoadFailed(f"explain.{key}: {name} has no such setting; known are {known}")
    for key in {"layer", "sliding_window_shapes"} & {*common, *method.arguments}:
        if key not in table:
            raise ModelLoadFailed(f"explain.{key}: {name} needs it")
    return Settings(
        method=name,
        target=_read_target(table.get("target")),
        output=_read_text(table, "output"),
        inputs=_read_names(table.get("inputs", [])),
        layer=_read_text(table, "layer"),
        baselines=_baselines_by_input(table.get("baselines", 0), "baselines", folder),
        arguments={
            key: _read_argument(key, argument, table[key], folder)
            for key, argument in method.arguments.items()
            if key in table
        },
    )


def _read_target(value: Any) -> Target:
    numbers = isinstance(value, list) and value and all(type(each) is int and each >= 0 for each in value)
    if value is None or numbers or isinstance(value, str) or (type(value) is int and value >= 0):
        return value  # type: ignore[no-any-return]
    raise ModelLoadFailed("explain.target: expected the index of a class, its label, or a list of indices")


def _read_text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise ModelLoadFailed(f"explain.{key}: expected a name")
    return value


def _read_names(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ModelLoadFailed("explain.inputs: expected a list of names")
    return value


def _read_argument(key: str, argument: Argument, value: Any, folder: Path) -> Any:
    values = value if argument.shaped and isinstance(value, dict) else {"": value}
    for each in values.values():
        if not argument.takes(each):
            raise ModelLoadFailed(f"explain.{key}: expected {argument.what}, got {each!r}")
    if key == "feature_mask":
        return {name: _read_mask(each, folder) for name, each in values.items()}
    return values if argument.shaped else value


def _read_mask(value: Any, folder: Path) -> Array:
    try:
        mask = _load_array(value, "feature_mask", folder) if isinstance(value, str) else np.asarray(value)
    except ValueError:
        raise ModelLoadFailed("explain.feature_mask: its lists are of different lengths") from None
    if mask.dtype.kind not in "iu":
        raise ModelLoadFailed(
            "explain.feature_mask: expected whole numbers, the same for what belongs together"
        )
    return mask


def _baselines_by_input(value: Any, key: str, folder: Path) -> dict[str, Baseline]:
    values = value if isinstance(value, dict) else {"": value}
    return {
        name: _read_baseline(each, f"{key}.{name}" if name else key, folder) for name, each in values.items()
    }


def _read_baseline(value: Any, key: str, folder: Path) -> Baseline:
    if isinstance(value, str):
        return _load_array(value, key, folder)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ModelLoadFailed(f"explain.{key}: expected a number or the name of a .npy file, got {value!r}")
    return value


def _load_array(name: str, key: str, folder: Path) -> Array:
    """Load an array of numbers from a .npy file in the version's folder, or in the folder above it."""
    for place in (folder, folder.parent):
        file = place / name
        if not leads_out(name) and file.is_file():
            break
    else:
        raise ModelLoadFailed(f"explain.{key}: there is no file {name!r} in {folder}")
    try:
        array: Array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelLoadFailed(f"explain.{key}: {file} is not a .npy file: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.size:
        raise ModelLoadFailed(f"explain.{key}: {file} holds no array of numbers")
    return array
