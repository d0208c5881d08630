"""Tensors in the shape that clients see, and in the one that the model itself takes or gives (Triton's ``reshape``)."""

from collections.abc import Mapping, Sequence

from mooring.core.errors import InvalidInput, InvalidOutput
from mooring.core.tensors import Array, TensorSpec

Shapes = Mapping[str, tuple[list[int], list[int]]]
"""The shape that a tensor has and the one that it is to get, by its name; -1 stands for any size, in order."""


class Reshaping:
    """What is done to the tensors of one model; those that have no other shape are left alone."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._to_model = {
            each.name: (each.shape, each.reshape) for each in inputs if each.reshape is not None
        }
        self._to_client = {
            each.name: (each.reshape, each.shape) for each in outputs if each.reshape is not None
        }
        self._explained = {name: (after, before) for name, (before, after) in self._to_model.items()}

    def __bool__(self) -> bool:
        return bool(self._to_model or self._to_client)

    def inputs(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays as the model takes them. Raises ``InvalidInput`` for one that does not have its shape."""
        return _reshaped(arrays, self._to_model, "input", InvalidInput)

    def outputs(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What the model gave, as clients see it. Raises ``InvalidOutput`` for what does not have its shape."""
        return _reshaped(arrays, self._to_client, "output", InvalidOutput)

    def attributions(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What explains the inputs, in the shapes of the inputs. Raises ``InvalidOutput``."""
        return _reshaped(arrays, self._explained, "attribution", InvalidOutput)


def _reshaped(
    arrays: Mapping[str, Array],
    shapes: Shapes,
    kind: str,
    fault: type[InvalidInput | InvalidOutput],
) -> dict[str, Array]:
    found = dict(arrays)
    for name, (before, after) in shapes.items():
        array = found.get(name)
        if array is None:
            continue
        if array.ndim != len(before) or any(
            want not in (-1, size) for want, size in zip(before, array.shape, strict=True)
        ):
            raise fault(
                f"{kind} '{name}' has shape {list(array.shape)}, and {before} is to be reshaped to {after}"
            )
        sizes = iter([size for want, size in zip(before, array.shape, strict=True) if want == -1])
        found[name] = array.reshape([next(sizes) if want == -1 else want for want in after])
    return found
