"""Explanations of a handler's rows: their targets, and the ``explain`` table of model-config.yaml."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mooring.backends.programs import flatten_outputs
from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.tensors import Array
from mooring.explain.attribution import Explainer
from mooring.explain.settings import settings_of
from mooring.explain.targets import indices_of

_DATA = "data"


def input_of(row: Any) -> Any:
    """Return the input in a row: its ``data`` or ``body``, also where a JSON body wraps it once more."""
    if not isinstance(row, dict):
        return row
    value = row.get("data") or row.get("body")
    if isinstance(value, dict) and not value.keys().isdisjoint(("data", "body")):
        return value.get("data") or value.get("body")
    return value


def target_of(row: Any, mapping: Mapping[str, Any] | None) -> Any:
    """Return the target in a row, from a form field or from JSON; None where there is none.

    Text is the index or the label of a class. Raises ``InvalidInput`` for other text in a field of the row; in a JSON
    body, which TorchServe does not look into, it may be meant for the handler and is left as it is.
    """
    if not isinstance(row, dict):
        return None
    target, body = row.get("target"), row.get("data") or row.get("body")
    inner: dict[str, Any] = body if target is None and isinstance(body, dict) else {}
    if inner:
        target = inner.get("target")
    if isinstance(target, bytes | bytearray):
        target = target.decode(errors="replace")
    if not isinstance(target, str):
        return target
    try:
        return _parse_target(target.strip(), mapping or {})
    except InvalidInput:
        if not inner:
            raise
        return target


def _parse_target(text: str, mapping: Mapping[str, Any]) -> Any:
    if not text:
        return None
    if text.isdecimal() and len(text) < 10:
        return int(text)
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            raise InvalidInput(f"target {text[:60]!r} is not a JSON list") from None
    for index, label in mapping.items():
        if label == text and index.isdecimal():
            return int(index)
    labels = ", ".join(repr(label) for label in list(mapping.values())[:10])
    raise InvalidInput(
        f"target {text[:60]!r} is not a class: send its index{f' or its label, such as {labels}' * bool(labels)}"
    )


def check_target(model: Any, inputs: tuple[Any, ...], target: Any, mapping: Mapping[str, Any] | None) -> Any:
    """Return the target as Captum takes it.

    Raises ``InvalidInput`` where the model's output for ``inputs`` does not have it.
    """
    with torch.no_grad():
        scores = model(*inputs)
    if torch.is_tensor(scores) and scores.ndim:
        indices = indices_of(target, scores.float().cpu().numpy(), mapping or {}, default=0)
        # Of one dimension as one number, which is what handlers hand to Captum.
        return indices[0] if len(indices[0]) > 1 else indices[0][0] if indices[0] else None
    return target or 0


class HandlerNetwork:
    """A handler's model of one input as an ``explain.attribution.Network``."""

    def __init__(self, model: Any, device: Any) -> None:
        self._model = model
        self._device = device
        self.differentiable = isinstance(model, torch.nn.Module)

    def to_tensor(self, name: str, array: Array) -> torch.Tensor:
        return torch.as_tensor(array).to(self._device)

    def compute_outputs(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Call the model once and return the tensors and arrays among its outputs."""
        outputs = flatten_outputs(self._model(values[_DATA]))
        return {name: torch.as_tensor(value) for name, value in outputs.items() if _is_array(value)}

    def select_layer(self, layer: str) -> tuple[torch.nn.Module, torch.nn.Module | None]:
        """Return the module and its layer.

        Raises ``ModelLoadFailed`` where there is no such layer, or none can be hooked.
        """
        if isinstance(self._model, torch.jit.ScriptModule):
            raise ModelLoadFailed("explain.method: TorchScript does not let its layers be watched")
        try:
            return self._model, self._model.get_submodule(layer) if layer else None
        except AttributeError:
            raise ModelLoadFailed(f"explain.layer: there is no '{layer}' in the model") from None


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)


class ConfiguredInsights:
    """Explains a handler's model as configured. Raises ``ModelLoadFailed`` for a configuration that cannot work."""

    def __init__(self, table: Mapping[str, Any], folder: Path, network: HandlerNetwork, mapping: Any) -> None:
        self._explainer = Explainer(settings_of(table, folder), network, mapping or {})

    def attribute(self, prepared: torch.Tensor, target: Any) -> Array:
        """Return the attribution of every element of ``prepared``, which has the batch in its first dimension."""
        rows = len(prepared)
        return self._explainer.attribute({_DATA: prepared.cpu().numpy()}, [(target, rows)], rows)[_DATA]
