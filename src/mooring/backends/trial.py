"""Whether the rows of a model file depend on each other, tried with made-up rows: that is what joining requests rests on.

Rows alone and joined must give the same answers, within what the tensors' types are exact to. Whatever cannot be tried
counts as dependent (docs/decisions/0034-when-requests-are-joined.md).
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
_MOST_ROW_BYTES = 64 << 20
_SEED = 34
# By datatype: the share of an element, and a tenth of that of the row's largest, by which an answer may differ.
_TOLERANCES = {"FP64": 1e-6, "FP32": 1e-4, "FP16": 5e-3, "BF16": 3e-2}
# Integers of more bits are indices mostly: made-up ones mean nothing, or groups that do not meet.
_SMALL = ("UINT8", "INT8", "BOOL")

TRUST = "set max_batch_size in the model's configuration to have its requests joined"


class Untriable(Exception):
    """Why it cannot be told whether rows depend on each other."""


class Dependent(Exception):
    """What shows that they do."""


def try_rows(backend: DeclaredBackend) -> Joining:
    """Call the loaded model with rows alone and joined. Raises ``OutOfResources`` where there is no memory for it."""
    try:
        _try_sizes(backend, backend.resolved_signature)
    except Dependent as error:
        return Joining(JoiningState.APART, f"rows depend on each other: {error}; {TRUST} all the same")
    except Untriable as error:
        return undecided(str(error))
    return Joining(JoiningState.SHOWN, "rows gave the same answers alone and joined")


def undecided(why: str) -> Joining:
    """What holds where it cannot be told."""
    return Joining(JoiningState.APART, f"it cannot be shown that rows are independent: {why}; {TRUST}")


def _try_sizes(backend: DeclaredBackend, resolved: ResolvedSignature) -> None:
    """Raises ``Dependent`` or ``Untriable``."""
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
    raise Untriable(f"made-up rows failed ({_line(refusal)})")


def _check_triable(backend: DeclaredBackend, inputs: list[TensorSpec]) -> None:
    if backend.spec.sequence.enabled or backend.controls:
        raise Untriable("it keeps state from request to request")
    for each in inputs:
        if each.datatype not in _TOLERANCES and each.datatype not in _SMALL:
            raise Untriable(f"input '{each.name}' is {each.datatype}, of which made-up values say nothing")


def _line(error: MooringError | None) -> str:
    return " ".join(str(error.message if error is not None else "").split())[:200]


class _Rows:
    """Made-up rows of all inputs. ``size`` stands for every open dimension beside the batch.

    ``stacked``: the shapes are those of a row, and not of a batch.
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
            if math.prod(shape) * 8 > _MOST_ROW_BYTES:
                raise Untriable(f"a row of input '{name}' is too large to make one up")

    def make(self, count: int, *, positive: bool) -> Arrays:
        """So many rows, each of a magnitude of its own, and the last one equal to the first where there are several.

        What groups or ranks rows meets equal ones, and what goes by the largest of all meets larger ones.
        """
        random = self._random
        found: Arrays = {}
        for name, shape in self._shapes.items():
            rows = random.standard_normal((count, *shape))
            rows *= 10.0 ** random.uniform(-1, 1, (count, *[1] * len(shape)))
            if count > 1:
                rows[-1] = rows[0]
            found[name] = _in_type(np.abs(rows) if positive else rows, self._datatypes[name])
        return found


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
    told = False
    for index, (first, second) in enumerate(_PAIRS):
        one, other = (rows.make(count, positive=index == 1) for count in (first, second))
        joined = {name: np.concatenate([one[name], other[name]]) for name in one}
        alone, beside, together = _call(backend, one), _call(backend, other), _call(backend, joined)
        if not index:
            _compare(backend, _call(backend, one), alone, coarsest, "called again")
        _compare(backend, {name: each[:first] for name, each in together.items()}, alone, coarsest, "joined")
        _compare(backend, {name: each[first:] for name, each in together.items()}, beside, coarsest, "joined")
        told = told or any(map(_says_something, together.values()))
    if not told:
        raise Untriable("made-up rows give no finite numbers")


def _call(backend: DeclaredBackend, arrays: Arrays) -> Arrays:
    """The outputs for some rows. Raises ``Dependent`` where one has not as many."""
    # A model may write to what it is given.
    given = {name: array.copy() for name, array in arrays.items()}
    rows = len(next(iter(arrays.values())))
    outputs = backend.settle(INFER, backend.call(INFER, given, {}))
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise Dependent(f"output '{name}' has shape {list(array.shape)} for {rows} rows")
    return outputs


def _compare(backend: DeclaredBackend, found: Arrays, wanted: Arrays, coarsest: float, how: str) -> None:
    declared = {each.name: each.datatype for each in backend.resolved_signature.outputs}
    for name, array in found.items():
        tolerance = max(coarsest, _TOLERANCES.get(declared.get(name, ""), 0.0))
        if not all(_alike(mine, its, tolerance) for mine, its in _pairs(array, wanted[name])):
            raise Dependent(f"output '{name}' differs for the same rows {how}")


def _pairs(found: Array, wanted: Array) -> Iterator[tuple[Array, Array]]:
    if found.shape != wanted.shape:
        raise Dependent(f"an output has shape {list(found.shape)} joined and {list(wanted.shape)} alone")
    return zip(found, wanted, strict=True)


def _alike(found: Array, wanted: Array, tolerance: float) -> bool:
    """Whether two rows of an output are equal, numbers with a fraction within what their type is exact to."""
    mine, its = np.asarray(found), np.asarray(wanted)
    if mine.dtype.kind != "f":
        return bool(np.array_equal(mine, its))
    mine, its = mine.astype(np.float64), its.astype(np.float64)
    finite = its[np.isfinite(its)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    return bool(np.allclose(mine, its, rtol=tolerance, atol=tolerance * largest / 10, equal_nan=True))


def _says_something(output: Array) -> bool:
    return output.dtype.kind != "f" or bool(np.isfinite(output).any())
