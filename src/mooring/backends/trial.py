"""Try with made-up rows whether the rows of a model file depend on each other: requests are joined only if they do not.

Rows alone and joined must give the same answers, within the precision of the tensors' types. A model that cannot be
tried counts as dependent (docs/decisions/0034-when-requests-are-joined.md).
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from mooring.backends.samples import Arrays
from mooring.backends.signature_check import DeclaredBackend, ResolvedSignature
from mooring.core.errors import MooringError, OutOfResources
from mooring.core.options import BatchMode
from mooring.core.requests import INFER
from mooring.core.service import Joining, JoiningState
from mooring.core.tensors import NUMPY_TYPES, Array, TensorSpec

# Part of what a kept result goes by: another number, and every file is tried anew.
VERSION = 1

# How many rows the two requests have that are joined.
_PAIRS = ((1, 1), (1, 2), (3, 5))
# What open dimensions beside the batch are tried as, in turn: a text or a small picture, then larger pictures.
_SIZES = (8, 32, 224)
_MAX_ROW_BYTES = 64 << 20
_SEED = 34
# By datatype: the share of an element, and a tenth of that of the row's largest, by which an answer may differ.
_TOLERANCES = {"FP64": 1e-6, "FP32": 1e-4, "FP16": 5e-3, "BF16": 3e-2}
# Integers of more bits are indices mostly: made-up ones mean nothing, or groups that do not meet.
_SMALL = ("UINT8", "INT8", "BOOL")

TRUST = "set max_batch_size in the model's configuration to have its requests joined"


class TrialImpossible(Exception):
    """The reason why made-up rows cannot tell whether rows depend on each other."""


class RowsDependent(Exception):
    """The evidence that rows depend on each other."""


def try_rows(backend: DeclaredBackend) -> Joining:
    """Call the loaded model with rows alone and joined. Raises ``OutOfResources`` where memory is short."""
    try:
        _try_sizes(backend, backend.resolved_signature)
    except RowsDependent as error:
        return Joining(JoiningState.APART, f"rows depend on each other: {error}; {TRUST} all the same")
    except TrialImpossible as error:
        return undecided_joining(str(error))
    return Joining(JoiningState.SHOWN, "rows gave the same answers alone and joined")


def undecided_joining(why: str) -> Joining:
    """Return the state in which requests are not joined, because the trial could not decide."""
    return Joining(JoiningState.APART, f"it cannot be shown that rows are independent: {why}; {TRUST}")


def _try_sizes(backend: DeclaredBackend, resolved: ResolvedSignature) -> None:
    """Try sizes for open dimensions until one works. Raises ``RowsDependent`` or ``TrialImpossible``."""
    inputs = [each for each in resolved.inputs if not each.optional]
    _check_triable(backend, inputs)
    opens = any(-1 in each.shape[1:] for each in inputs) or resolved.batch is BatchMode.STACK
    refusal: MooringError | None = None
    for size in _SIZES if opens else _SIZES[:1]:
        try:
            _try_pairs(backend, _Rows(inputs, size, stacked=resolved.batch is BatchMode.STACK))
        except OutOfResources:
            raise
        except MooringError as error:
            refusal = error
        else:
            return
    raise TrialImpossible(f"made-up rows failed ({_one_line(refusal)})")


def _check_triable(backend: DeclaredBackend, inputs: list[TensorSpec]) -> None:
    if backend.spec.sequence.enabled or backend.controls:
        raise TrialImpossible("it keeps state from request to request")
    for each in inputs:
        if each.datatype not in _TOLERANCES and each.datatype not in _SMALL:
            raise TrialImpossible(
                f"input '{each.name}' is {each.datatype}, of which made-up values say nothing"
            )


def _one_line(error: MooringError | None) -> str:
    return " ".join(str(error.message if error is not None else "").split())[:200]


class _Rows:
    """Made-up rows of all inputs. ``size`` stands for every open dimension other than the batch.

    ``stacked``: the shapes are those of a row, not of a batch.
    """

    def __init__(self, inputs: list[TensorSpec], size: int, *, stacked: bool) -> None:
        self.datatypes = [each.datatype for each in inputs]
        self._shapes = {
            each.name: [size if length < 0 else length for length in each.shape[not stacked :]]
            for each in inputs
        }
        self._datatypes = {each.name: each.datatype for each in inputs}
        self._random = np.random.default_rng(_SEED)
        for name, shape in self._shapes.items():
            if math.prod(shape) * 8 > _MAX_ROW_BYTES:
                raise TrialImpossible(f"a row of input '{name}' is too large to make one up")

    def make_rows(self, count: int, *, positive: bool) -> Arrays:
        """Return ``count`` rows of different magnitudes. Of several rows the last one equals the first.

        Equal rows reveal a model that groups or ranks its rows; different magnitudes reveal one that scales by the
        largest.
        """
        random = self._random
        rows_by_input: Arrays = {}
        for name, shape in self._shapes.items():
            rows = random.standard_normal((count, *shape))
            rows *= 10.0 ** random.uniform(-1, 1, (count, *[1] * len(shape)))
            if count > 1:
                rows[-1] = rows[0]
            rows_by_input[name] = _in_type(np.abs(rows) if positive else rows, self._datatypes[name])
        return rows_by_input


def _in_type(rows: npt.NDArray[np.float64], datatype: str) -> Array:
    if datatype == "BF16":  # which is float32 in arrays
        return rows.astype(np.float32)
    kind = NUMPY_TYPES[datatype]
    if kind.kind == "b":
        return rows > 0
    if kind.kind == "f":
        return rows.astype(kind)
    least, most = (0, 255) if datatype == "UINT8" else (-128, 127)
    return np.clip(np.rint(rows * 16), least, most).astype(kind)


def _try_pairs(backend: DeclaredBackend, rows: _Rows) -> None:
    coarsest = max(_TOLERANCES.get(each, 0.0) for each in [*rows.datatypes, "FP64"])
    conclusive = False
    for index, (first, second) in enumerate(_PAIRS):
        one, other = (rows.make_rows(count, positive=index == 1) for count in (first, second))
        joined = {name: np.concatenate([one[name], other[name]]) for name in one}
        alone, beside, together = (
            _call_model(backend, one),
            _call_model(backend, other),
            _call_model(backend, joined),
        )
        if not index:
            _check_equal(backend, _call_model(backend, one), alone, coarsest, "called again")
        _check_equal(
            backend, {name: each[:first] for name, each in together.items()}, alone, coarsest, "joined"
        )
        _check_equal(
            backend, {name: each[first:] for name, each in together.items()}, beside, coarsest, "joined"
        )
        conclusive = conclusive or any(map(_says_something, together.values()))
    if not conclusive:
        raise TrialImpossible("made-up rows give no finite numbers")


def _call_model(backend: DeclaredBackend, arrays: Arrays) -> Arrays:
    """Return the outputs for some rows. Raises ``RowsDependent`` for an output that does not have as many rows."""
    # A model may write to what it is given.
    copies = {name: array.copy() for name, array in arrays.items()}
    rows = len(next(iter(arrays.values())))
    outputs = backend.to_output_arrays(INFER, backend.call_model(INFER, copies, {}))
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise RowsDependent(f"output '{name}' has shape {list(array.shape)} for {rows} rows")
    return outputs


def _check_equal(
    backend: DeclaredBackend, outputs: Arrays, expected: Arrays, coarsest: float, how: str
) -> None:
    declared = {each.name: each.datatype for each in backend.resolved_signature.outputs}
    for name, array in outputs.items():
        tolerance = max(coarsest, _TOLERANCES.get(declared.get(name, ""), 0.0))
        if not all(_rows_equal(mine, its, tolerance) for mine, its in _pair_rows(array, expected[name])):
            raise RowsDependent(f"output '{name}' differs for the same rows {how}")


def _pair_rows(rows: Array, expected: Array) -> Iterator[tuple[Array, Array]]:
    if rows.shape != expected.shape:
        raise RowsDependent(f"an output has shape {list(rows.shape)} joined and {list(expected.shape)} alone")
    return zip(rows, expected, strict=True)


def _rows_equal(row: Array, expected: Array, tolerance: float) -> bool:
    """Whether two rows of an output are equal; floating-point numbers within the precision of their type."""
    mine, its = np.asarray(row), np.asarray(expected)
    if mine.dtype.kind != "f":
        return bool(np.array_equal(mine, its))
    mine, its = mine.astype(np.float64), its.astype(np.float64)
    finite = its[np.isfinite(its)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    return bool(np.allclose(mine, its, rtol=tolerance, atol=tolerance * largest / 10, equal_nan=True))


def _says_something(output: Array) -> bool:
    return output.dtype.kind != "f" or bool(np.isfinite(output).any())
