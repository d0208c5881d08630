"""Triton's ``reshape``: tensors have one shape for clients and another for the model."""

from collections.abc import Mapping, Sequence

from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.tensors import Array, TensorSpec

Shapes = Mapping[str, tuple[list[int], list[int]]]
"""The shape that a tensor has and the one that it is to get, by its name; -1 stands for any size, in order."""


class Reshaping:
    """Reshapes the tensors of one model; those without a ``reshape`` are left alone."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._to_model = {
            each.name: (each.shape, each.reshape) for each in inputs if each.reshape is not None
        }
        self._to_client = {
            each.name: (each.reshape, each.shape) for each in outputs if each.reshape is not None
        }
        self._for_attributions = {name: (after, before) for name, (before, after) in self._to_model.items()}

    def __bool__(self) -> bool:
        return bool(self._to_model or self._to_client)

    def reshape_inputs(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return the inputs in the model's shapes.

        Raises ``InvalidInput`` for one that does not have its declared shape.
        """
        return _reshape_arrays(arrays, self._to_model, "input", InvalidInput)

    def reshape_outputs(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return the model's outputs in the clients' shapes.

        Raises ``InvalidOutput`` for one that does not have the model's shape.
        """
        return _reshape_arrays(arrays, self._to_client, "output", InvalidOutput)

    def reshape_attributions(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return attributions in the clients' shapes of the inputs. Raises ``InvalidOutput``."""
        return _reshape_arrays(arrays, self._for_attributions, "attribution", InvalidOutput)


def _reshape_arrays(
    arrays: Mapping[str, Array],
    shapes: Shapes,
    kind: str,
    fault: type[InvalidInput | InvalidOutput],
) -> dict[str, Array]:
    reshaped = dict(arrays)
    for name, (before, after) in shapes.items():
        array = reshaped.get(name)
        if array is None:
            continue
        if array.ndim != len(before) or any(
            want not in (-1, size) for want, size in zip(before, array.shape, strict=True)
        ):
            raise fault(
                f"{kind} '{name}' has shape {list(array.shape)}, and {before} is to be reshaped to {after}"
            )
        sizes = iter([size for want, size in zip(before, array.shape, strict=True) if want == -1])
        reshaped[name] = array.reshape([next(sizes) if want == -1 else want for want in after])
    return reshaped
