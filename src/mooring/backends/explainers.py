"""Explanations for models of named arrays: the configuration, checked against the model itself."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mooring.core.errors import InvalidInput, ModelLoadFailed, PackageMissing, Unsupported
from mooring.core.missing_packages import missing_package
from mooring.core.options import BatchMode
from mooring.core.requests import Operation
from mooring.core.service import ModelMetadata
from mooring.core.tensors import Array, TensorSpec
from mooring.explain.settings import Settings, settings_of
from mooring.explain.targets import indices_of
from mooring.repository.spec import ModelSpec

if TYPE_CHECKING:
    from mooring.explain.attribution import Explainer, Network


class ArrayModel(Protocol):
    """A model that is called with arrays by name, as ``TensorBackend`` is."""

    def predict(self, arrays: dict[str, Array], parameters: dict[str, Any]) -> Any:
        """Call the model once and return what it returns."""

    def to_output_arrays(self, operation: Operation, returned: Any) -> Mapping[str, Array]:
        """Return the arrays by name in what a call returned."""


class BlackBoxModel:
    """A model that can only be called with arrays: it has no gradients, and no layers to hook."""

    differentiable = False

    def __init__(self, backend: ArrayModel, threads: int) -> None:
        """Raises ``ModelLoadFailed`` where torch is not installed."""
        try:
            import torch
        except ImportError as error:
            raise PackageMissing(missing_package("an explanation", "torch")) from error
        torch.set_num_threads(threads)
        self._torch = torch
        self._backend = backend
        self._types: dict[str, np.dtype[Any]] = {}

    def to_tensor(self, name: str, array: Array) -> Any:
        """Return an input as a tensor.

        Integers become int64, because torch lacks most unsigned types; ``compute_outputs`` undoes it.
        """
        if array.dtype == object:
            raise Unsupported(f"input '{name}' is text, which has no explanation here")
        self._types[name] = array.dtype
        whole = array.dtype.kind in ("b", "i", "u")
        return self._torch.from_numpy(array.astype(np.int64 if whole else array.dtype))

    def compute_outputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """One call of the model; outputs that are text are left out. Raises ``Unsupported`` for a stream."""
        arrays = {name: value.numpy().astype(self._types[name]) for name, value in values.items()}
        returned = self._backend.predict(arrays, {})
        if hasattr(returned, "__next__"):
            raise Unsupported("the model streams its answers, which have no explanation here")
        settled = self._backend.to_output_arrays(Operation.INFER, returned)
        return {
            name: self._torch.from_numpy(np.array(array))
            for name, array in settled.items()
            if array.dtype != object
        }

    def select_layer(self, layer: str) -> tuple[Any, Any]:
        """Raise ``ModelLoadFailed``: a black box has no layers."""
        raise ModelLoadFailed(f"explain.layer: nothing is known here of a layer '{layer}'")


def build_explainer(
    spec: ModelSpec, metadata: ModelMetadata, network: "Network", names: Sequence[str] = ()
) -> "Explainer":
    """Build the explainer of a model. ``names`` are the names of its inputs where it declares none.

    Raises ``ModelLoadFailed`` naming the key of its configuration that is wrong, ``Unsupported`` without Captum.
    """
    try:
        import captum.attr  # noqa: F401 - here, so that the first explanation need not wait for it

        from mooring.explain.attribution import Explainer
    except ImportError as error:
        # Nobody need have asked for them: then the model serves without.
        kind = PackageMissing if spec.explain else Unsupported
        raise kind(missing_package("an explanation", "captum")) from error
    location = Path(spec.location)
    settings = settings_of(spec.explain, location if location.is_dir() else location.parent)
    _check_names(settings, [each.name for each in metadata.inputs] or names, metadata.outputs)
    _check_target(settings, spec, metadata.outputs)
    names_of_outputs = [each.name for each in metadata.outputs]
    explained = settings.output or (names_of_outputs[0] if len(names_of_outputs) == 1 else "")
    return Explainer(settings, network, spec.labels_of(explained))


def _check_names(settings: Settings, inputs: Sequence[str], outputs: Sequence[TensorSpec]) -> None:
    named: dict[str, Iterable[str]] = {"inputs": settings.inputs, "baselines": settings.baselines}
    named |= {key: value for key, value in settings.arguments.items() if isinstance(value, Mapping)}
    for key, names in named.items():
        for name in names:
            if name and inputs and name not in inputs:
                raise ModelLoadFailed(
                    f"explain.{key}: there is no input '{name}'; the model takes {_quote_names(inputs)}"
                )
    results = [each.name for each in outputs]
    if settings.output and results and settings.output not in results:
        raise ModelLoadFailed(
            f"explain.output: there is no '{settings.output}'; the model gives {_quote_names(results)}"
        )


def _check_target(settings: Settings, spec: ModelSpec, outputs: Sequence[TensorSpec]) -> None:
    """Raise ``ModelLoadFailed`` for a configured target that the explained output cannot have, where its shape is known."""
    candidates = [each for each in outputs if each.name == settings.output or len(outputs) == 1]
    if settings.target is None or not candidates or not candidates[0].shape:
        return
    shape = candidates[0].shape if spec.batching.mode is BatchMode.STACK else candidates[0].shape[1:]
    if -1 not in shape:
        # Of no size: an output may be larger than the machine's memory once its numbers are there.
        scores = np.broadcast_to(np.float32(0), (1, *shape))
        try:
            indices_of(settings.target, scores, spec.labels_of(candidates[0].name), output=candidates[0].name)
        except InvalidInput as error:
            raise ModelLoadFailed(f"explain.target: {error.message}") from None


def _quote_names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
