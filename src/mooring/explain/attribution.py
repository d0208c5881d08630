"""Explanations of one model: attributions for every row of a call, by Captum."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from mooring.core.errors import InvalidInput, ModelFailed, ModelLoadFailed, Unsupported
from mooring.core.tensors import Array
from mooring.explain.methods import WITHOUT_GRADIENTS
from mooring.explain.settings import Baseline, Settings
from mooring.explain.targets import Index, indices_of

Values = dict[str, torch.Tensor]


class Network(Protocol):
    """A model as Captum calls it: tensors by name in, tensors by name out."""

    differentiable: bool

    def to_tensor(self, name: str, array: Array) -> torch.Tensor:
        """Return an input as a tensor on the model's device. Raises ``Unsupported`` for text."""

    def compute_outputs(self, values: Values) -> Values:
        """Call the model once; gradients flow through the result where the model has them."""

    def select_layer(self, layer: str) -> tuple[torch.nn.Module, torch.nn.Module | None]:
        """Return the module whose layers can be hooked, which ``compute_outputs`` runs from now on, and its layer ``layer``.

        The layer is None for "". Raises ``ModelLoadFailed`` where there is no such layer, or none can be hooked.
        """


@dataclass(frozen=True, slots=True)
class Call:
    """One output as a function of tensors in order: the explained inputs, then the others.

    ``step`` is the most rows of one call of the model; 0 for no limit.
    """

    network: Network
    output: str
    explained: Sequence[str]
    others: Sequence[str]
    step: int

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the explained output, in floating point, for the explained inputs and after them the others."""
        rows = inputs[0].shape[0]
        if not self.step or rows <= self.step:
            return self._forward_once(inputs)
        starts = range(0, rows, self.step)
        return torch.cat(
            [self._forward_once([one[start : start + self.step] for one in inputs]) for start in starts]
        )

    def _forward_once(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        names = (*self.explained, *self.others)
        # Copies, because autograd refuses a model that works in place on a leaf that needs a gradient.
        values = {name: value.clone() for name, value in zip(names, inputs, strict=True)}
        scores = self.network.compute_outputs(values)[self.output]
        return scores if scores.is_floating_point() else scores.float()


class Explainer:
    """Explains one model with the method and arguments in ``settings``.

    Raises ``ModelLoadFailed`` where the method needs what the model lacks: gradients, or layers to hook.

    How this works: ``attribute`` calls the model once for all rows, to check its output and to find the target of each
    row. Then it gives Captum the rows in parts (``_part_size``), with the settings turned into Captum's arguments, and
    joins the parts again. Random methods run with a fixed seed, so that a repeated request has the same answer.
    """

    def __init__(self, settings: Settings, network: Network, labels: Mapping[str, Any]) -> None:
        self._settings = settings
        self._network = network
        self._labels = labels
        traits = settings.traits
        if traits.gradients and not network.differentiable:
            raise ModelLoadFailed(
                f"explain.method: {settings.method} needs gradients, which this kind of model has not; "
                f"those that do without are {WITHOUT_GRADIENTS}"
            )
        self._module: torch.nn.Module | None = None
        self._layer: torch.nn.Module | None = None
        if traits.module:
            self._module, self._layer = network.select_layer(settings.layer)

    def attribute(
        self, arrays: Mapping[str, Array], targets: Sequence[tuple[Any, int]], limit: int
    ) -> dict[str, Array]:
        """Return the attributions by input, each in the shape of its input, batch dimension first.

        ``targets`` has the target of each request, as it was sent, with the number of its rows. A number of 0 means
        that all rows must go through the model in one call; otherwise a call has at most ``limit`` rows. Raises
        ``InvalidInput`` for a target that the output does not have, ``Unsupported`` for inputs or outputs that cannot
        be explained.
        """
        traits = self._settings.traits
        with torch.inference_mode(mode=False), torch.set_grad_enabled(traits.gradients):
            values = {name: self._network.to_tensor(name, array) for name, array in arrays.items()}
            rows = _row_count(values)
            together = targets[0][1] == 0
            step = rows if together else limit
            explained = self._explained_inputs(values)
            scores, output = self._compute_scores(values, step)
            indices = self._target_indices(
                scores, [(target, count or rows) for target, count in targets], output
            )
            others = [name for name in values if name not in explained]
            call = Call(self._network, output, explained, others, 0 if traits.module else step)
            parts = [
                self._attribute_part(
                    call,
                    {name: value[start : start + size] for name, value in values.items()},
                    indices[start : start + size],
                    step,
                )
                for size in [rows if together else self._part_size(step)]
                for start in range(0, rows, size)
            ]
        return {
            name: np.concatenate([_to_array(part[place]) for part in parts])
            for place, name in enumerate(explained)
        }

    def _part_size(self, step: int) -> int:
        """Return the number of rows that Captum gets at once, where a call of the model has at most ``step``."""
        if self._settings.method == "GradientShap":
            return 1  # so that the noise of a row does not depend on the rows beside it
        # DeepLift puts the baselines beside the inputs.
        return max(1, step // 2) if self._settings.method == "DeepLift" else step

    def _explained_inputs(self, values: Values) -> list[str]:
        settings = self._settings
        names = list(settings.inputs) or list(values)
        for name in names:
            if name not in values:
                raise Unsupported(f"explain.inputs names '{name}'; the model was sent {_quote_names(values)}")
        if settings.layer:
            if len(names) != 1:
                raise Unsupported(
                    f"name the input whose layer is explained, as in inputs = ['{names[0]}'] under [explain]"
                )
            return names
        floats = [name for name in names if values[name].is_floating_point()]
        if settings.traits.gradients and (not floats or (settings.inputs and floats != names)):
            raise Unsupported(
                f"{settings.method} explains inputs of floating-point numbers, and {_quote_names(values)} holds none; "
                f"configure one of {WITHOUT_GRADIENTS}, or LayerIntegratedGradients, under [explain] of the model"
            )
        return floats if settings.traits.gradients else names

    def _compute_scores(self, values: Values, step: int) -> tuple[torch.Tensor, str]:
        """Return the explained output for the inputs themselves, all rows in order, and its name."""
        rows = next(iter(values.values())).shape[0]
        parts: list[torch.Tensor] = []
        name = self._settings.output
        with torch.no_grad():
            for start in range(0, rows, step):
                part = {key: value[start : start + step].clone() for key, value in values.items()}
                outputs = self._network.compute_outputs(part)
                name = name or _the_output(outputs)
                if name not in outputs:
                    raise Unsupported(
                        f"explain.output names '{name}'; the model gives {_quote_names(outputs)}"
                    )
                parts.append(outputs[name])
        whole = [len(one) if one.ndim else 0 for one in parts]
        if sum(whole) != rows:
            raise Unsupported(
                f"output '{name}' has shape {list(parts[0].shape)} for {min(step, rows)} rows; explanations need a "
                "model whose inputs and output have the batch in their first dimension"
            )
        return torch.cat(parts), name

    def _target_indices(
        self, scores: torch.Tensor, targets: Sequence[tuple[Any, int]], output: str
    ) -> list[Index]:
        indices: list[Index] = []
        for target, count in targets:
            own = _to_array(scores[len(indices) : len(indices) + count])
            indices += indices_of(target, own, self._labels, default=self._settings.target, output=output)
        return indices

    def _attribute_part(
        self, call: Call, values: Values, indices: Sequence[Index], step: int
    ) -> Sequence[torch.Tensor]:
        inputs = tuple(self._require_gradients(values[name]) for name in call.explained)
        method = self._captum_method(call)
        options = self._method_options(call.explained, inputs, step)
        options["target"] = _captum_target(indices, inputs[0].device)
        options["additional_forward_args"] = tuple(values[name] for name in call.others) or None
        try:
            with _fixed_seed(self._settings), warnings.catch_warnings():
                # DeepLift warns with each call that it adds hooks to the model.
                warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
                attributions = method(inputs, **options)
        except (ModelFailed, RuntimeError) as error:
            reason = _gradient_advice(str(error), self._settings)
            if not reason:
                raise
            raise Unsupported(reason) from error
        if self._settings.layer:
            return [
                _per_element(
                    attributions[0] if isinstance(attributions, tuple) else attributions,
                    inputs[0],
                    self._settings,
                )
            ]
        return attributions if isinstance(attributions, tuple) else (attributions,)

    def _require_gradients(self, value: torch.Tensor) -> torch.Tensor:
        """Return the input as a leaf that keeps its gradient, where the method needs gradients."""
        keeps = self._settings.traits.gradients and value.is_floating_point()
        return value.detach().requires_grad_(keeps)

    def _captum_method(self, call: Call) -> Callable[..., Any]:
        """Return the ``attribute`` function of the method's class in Captum."""
        from captum import attr

        settings = self._settings
        kind = getattr(attr, settings.method)
        if self._module is None:
            return kind(call.forward).attribute  # type: ignore[no-any-return]
        if self._layer is not None:
            return kind(call.forward, self._layer).attribute  # type: ignore[no-any-return]
        more = {key: value for key, value in settings.arguments.items() if key == "multiply_by_inputs"}
        return kind(_CallModule(self._module, call), **more).attribute  # type: ignore[no-any-return]

    def _method_options(
        self, names: Sequence[str], inputs: Sequence[torch.Tensor], step: int
    ) -> dict[str, Any]:
        settings, rows = self._settings, inputs[0].shape[0]
        traits = settings.traits
        options: dict[str, Any] = {}
        for key, value in settings.arguments.items():
            if traits.arguments[key].shaped:
                options[key] = tuple(
                    _fit_argument(key, value.get(name, value.get("")), name, one)
                    for name, one in zip(names, inputs, strict=True)
                )
            elif key not in ("seed", "multiply_by_inputs"):
                options[key] = value
        if traits.baselines:
            options["baselines"] = tuple(
                self._baseline_tensor(settings.baselines.get(name, settings.baselines.get("", 0)), name, one)
                for name, one in zip(names, inputs, strict=True)
            )
        if traits.portion == "internal_batch_size":
            options[traits.portion] = max(step, rows)
        elif traits.portion:
            options[traits.portion] = max(1, step // rows)
        return options

    def _baseline_tensor(self, baseline: Baseline, name: str, value: torch.Tensor) -> torch.Tensor:
        """Return the baseline of one input: one row, or for GradientShap as many as are configured."""
        shape = value.shape[1:]
        if not isinstance(baseline, np.ndarray):
            return torch.full((1, *shape), baseline).to(value.device, value.dtype)
        rows = baseline[None] if baseline.shape == tuple(shape) else baseline
        if rows.shape[1:] != tuple(shape):
            raise InvalidInput(
                f"explain.baselines has shape {list(baseline.shape)}, which fits no input '{name}' of {list(shape)}"
            )
        if self._settings.method != "GradientShap" and len(rows) > 1:
            rows = rows.mean(axis=0, keepdims=True)
        return torch.as_tensor(rows).to(value.device, value.dtype)


class _CallModule(torch.nn.Module):
    """The model as a module for methods that hook its layers: called with tensors in order."""

    def __init__(self, module: torch.nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self._call = call

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._call.forward(*inputs)


def _row_count(values: Values) -> int:
    sizes = {value.shape[0] if value.ndim else 0 for value in values.values()}
    if len(sizes) != 1 or 0 in sizes:
        shapes = ", ".join(f"'{name}' {list(value.shape)}" for name, value in values.items())
        raise InvalidInput(
            f"an explanation needs inputs with the same number of rows, at least one: {shapes}"
        )
    return sizes.pop()


def _the_output(outputs: Values) -> str:
    """Return the name of the only output, or of the only floating-point one.

    Raises ``Unsupported`` where it is not clear.
    """
    floats = [name for name, value in outputs.items() if value.is_floating_point()]
    for candidates in (list(outputs), floats):
        if len(candidates) == 1:
            return candidates[0]
    raise Unsupported(
        f"the model gives {_quote_names(outputs)}: name the one to explain, as in output = '{next(iter(outputs))}' "
        "under [explain] of the model"
    )


def _captum_target(indices: Sequence[Index], device: torch.device) -> Any:
    """Return the indices of all rows in the form that Captum takes: None, a tensor of classes, or a list of tuples."""
    if not indices[0]:
        return None
    if len(indices[0]) > 1:
        return list(indices)
    return torch.tensor([index[0] for index in indices], device=device)


def _fit_argument(key: str, value: Any, name: str, tensor: torch.Tensor) -> Any:
    """Return a window, stride or mask for one input.

    Raises ``InvalidInput`` where it does not fit the input's shape.
    """
    shape = list(tensor.shape[1:])
    if value is None:
        raise Unsupported(f"explain.{key} says nothing of input '{name}'")
    if isinstance(value, np.ndarray):
        mask = value[None] if value.ndim == len(shape) else value
        if mask.ndim == tensor.ndim and all(
            one in (1, size) for one, size in zip(mask.shape, [1, *shape], strict=True)
        ):
            return torch.as_tensor(mask.astype(np.int64)).to(tensor.device)
        value = list(value.shape)
    elif len(value) == len(shape) and all(one <= size for one, size in zip(value, shape, strict=True)):
        return tuple(value)
    raise InvalidInput(f"explain.{key} is {value}, which does not fit input '{name}' of {shape}")


def _per_element(attributions: torch.Tensor, value: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Sum the attributions of a layer's vectors to one number for every element of the input."""
    if attributions.ndim > value.ndim:
        attributions = attributions.flatten(value.ndim).sum(-1)
    if attributions.shape != value.shape:
        raise Unsupported(
            f"layer '{settings.layer}' gives {list(attributions.shape)}, which is not a vector for each element of the input"
        )
    return attributions


def _gradient_advice(text: str, settings: Settings) -> str:
    """Return what to change in the configuration after an error of autograd; empty for any other error."""
    if "does not require grad" in text or "appears to not have been used" in text:
        return (
            f"{settings.method} finds no gradient from the output to every explained input; name the inputs that "
            f"count (inputs), or use a method without gradients: {WITHOUT_GRADIENTS}"
        )
    if "Inference tensors" in text:
        return (
            "the model keeps tensors that a prediction made without gradients; "
            "configure [explain] for it, and predictions will let explanations use them"
        )
    return ""


@contextlib.contextmanager
def _fixed_seed(settings: Settings) -> Iterator[None]:
    """Seed the generators of torch and numpy for one explanation, and restore their state afterwards."""
    if not settings.traits.random:
        yield
        return
    seed = settings.arguments.get("seed", 0)
    state = np.random.get_state()  # noqa: NPY002 - Captum draws from the old generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _to_array(value: torch.Tensor) -> Array:
    value = value.detach().cpu()
    array: Array = (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    return array


def _quote_names(values: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}'" for name in values)
