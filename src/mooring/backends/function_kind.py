"""Whether a user's function is one of tensors or of values. It is decided here and nowhere else, when it is loaded.

A function takes *tensors*, and gives them, where its configuration declares inputs or outputs or has [sequences]; where an
argument is called ``inputs`` (or as a control of sequences) and has no hint; where [explain] explains it and no argument has
a hint; or where the hint of an argument is an array of numpy's, or a dict of them by name. Every other function takes *values*: what the hints of its arguments say.
"""

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mooring.backends.user_function import name_of
from mooring.backends.values.tensor_forms import plain_hint
from mooring.core.errors import ModelLoadFailed
from mooring.repository.spec import ModelSpec

_UNHINTED = frozenset({"inputs", "sequence_id", "sequence_start", "sequence_end"})
# Arguments of every function that are not inputs.
OWN = frozenset({"parameters", "cancelled"})
# An annotation that cannot be evaluated, such as one whose import is for type checkers alone.
_ARRAY = r"([\w.]+\.)?(ndarray|NDArray)\b"
_ARRAY_TEXT = re.compile(rf"[\s'\"]*({_ARRAY}|([\w.]+\.)?([Dd]ict|Mapping)\[\s*str\s*,\s*{_ARRAY})")


def takes_tensors(function: Callable[..., Any], spec: ModelSpec) -> bool:
    """Whether a function is one of tensors. Raises ``ModelLoadFailed`` for one whose arguments cannot be told."""
    if spec.inputs or spec.outputs or spec.sequence.enabled:
        return True
    try:
        hints: Mapping[str, Any] = resolve_hints(function)
    except ModelLoadFailed:
        hints = {}  # told again where the function turns out to be one of values
    parameters = parameters_of(function)
    if spec.explain and all(each.annotation is each.empty for each in parameters):
        return True
    for each in parameters:
        if each.name in OWN:
            continue
        if each.annotation is each.empty:
            if each.name in _UNHINTED:
                return True
        elif _is_array(hints.get(each.name, each.annotation)):
            return True
    return False


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function. Raises ``ModelLoadFailed`` for one of C that does not tell them."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ModelLoadFailed(
            f"the arguments of '{name_of(function)}' cannot be told ({error}): write a function around it"
        ) from None


def resolve_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the hints of a function, strings evaluated, "return" among them. Raises ``ModelLoadFailed``."""
    target: Any = function
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target) and callable(target) and not isinstance(target, type):
        target = target.__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:  # an annotation is code of the user's
        raise ModelLoadFailed(
            f"a hint of '{name_of(function)}' cannot be understood ({type(error).__name__}: {error}): "
            "import what it names where the model's file is loaded, not for type checkers alone"
        ) from error


def _is_array(hint: Any) -> bool:
    """Whether a hint is an array of numpy's, or a dict of such by name."""
    if isinstance(hint, str):
        return _ARRAY_TEXT.match(hint) is not None
    hint = plain_hint(hint)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if not isinstance(origin, type):
        return False
    if issubclass(origin, np.ndarray):
        return True
    return issubclass(origin, Mapping) and len(arguments) == 2 and _is_array(arguments[1])
