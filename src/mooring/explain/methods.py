"""The methods of explanation and their arguments: one table, with Captum's names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a method: what it takes, in words and as a test. ``shaped``: it may be a table by input."""

    what: str
    takes: Callable[[Any], bool]
    shaped: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its arguments, and what it needs.

    ``gradients``: it differentiates the model. ``module``: it hooks the model's layers. ``baselines``: it compares with
    a baseline. ``random``: it draws random numbers. ``portion`` names the argument that limits the rows of a call of
    the model.
    """

    arguments: Mapping[str, Argument]
    gradients: bool = True
    module: bool = False
    baselines: bool = True
    random: bool = False
    portion: str = ""


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000


def _is_size_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_positive_int(each) for each in value)


_STEPS = Argument("a whole number from 1", _is_positive_int)
_SEED = Argument("a whole number from 0", lambda value: value == 0 or _is_positive_int(value))
_SIZES = Argument("a list of whole numbers, one per dimension after the batch", _is_size_list, shaped=True)
_SWITCH = Argument("true or false", lambda value: isinstance(value, bool))
_SPREAD = Argument(
    "a number from 0",
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e30,
)
_MASK = Argument(
    "nested lists of whole numbers, or a .npy file of them", lambda value: isinstance(value, list | str), True
)
_AT_ONCE = "perturbations_per_eval"

METHODS: Mapping[str, Method] = {
    "IntegratedGradients": Method({"n_steps": _STEPS}, portion="internal_batch_size"),
    "Saliency": Method({"abs": _SWITCH}, baselines=False),
    "InputXGradient": Method({}, baselines=False),
    "GradientShap": Method({"n_samples": _STEPS, "stdevs": _SPREAD, "seed": _SEED}, random=True),
    "DeepLift": Method({"multiply_by_inputs": _SWITCH}, module=True),
    "LayerIntegratedGradients": Method({"n_steps": _STEPS}, module=True, portion="internal_batch_size"),
    "Occlusion": Method(
        {"sliding_window_shapes": _SIZES, "strides": _SIZES}, gradients=False, portion=_AT_ONCE
    ),
    "FeatureAblation": Method({"feature_mask": _MASK}, gradients=False, portion=_AT_ONCE),
    "ShapleyValueSampling": Method(
        {"n_samples": _STEPS, "feature_mask": _MASK, "seed": _SEED},
        gradients=False,
        random=True,
        portion=_AT_ONCE,
    ),
}
WITHOUT_GRADIENTS = ", ".join(name for name, method in METHODS.items() if not method.gradients)
