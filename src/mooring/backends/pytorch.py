"""PyTorch models without a handler: an exported program (.pt2), TorchScript (.pt), or weights and their module.

    .pt2                         names, types and shapes come from the program; a configuration must agree with it
    .pt                          TorchScript, which knows no more than the names of its arguments
    .pt .pth .bin .safetensors   weights; the parameter ``module`` names the class they are for: "model.py:Net"

Inputs that nobody declares have the names of the arguments, or by their order INPUT0, INPUT1 … or INPUT__0, INPUT__1 …,
and the types that are sent; floats come in the type of the model's own weights. Declared names are those of the
arguments, or else go by their order. Outputs have the keys of the dict that a model returns, else OUTPUT0, OUTPUT1 …, which
may be asked for as OUTPUT__0, too; declared names go by the keys, or else by their order.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from mooring.backends.samples import Arrays, Parameters
from mooring.backends.signature_check import DeclaredBackend, model_file, resolve_signature
from mooring.backends.tensors import ModelOutput, Wanted, failure
from mooring.codecs.signature import Signature
from mooring.core.errors import InvalidInput, InvalidOutput, ModelFailed, ModelLoadFailed, Unsupported
from mooring.core.options import BatchMode
from mooring.core.service import LoadContext, ModelMetadata
from mooring.core.tensors import Array, TensorSpec
from mooring.repository.spec import ModelSpec

if TYPE_CHECKING:
    from mooring.backends.programs import Program
    from mooring.explain.attribution import Explainer

# Triton's INPUT__0 and our own INPUT0 say which one they are.
_NUMBERED = re.compile(r"(?:.*__|INPUT|OUTPUT)(\d+)")


class PyTorchBackend(DeclaredBackend):
    """One program on one device."""

    differentiable = True

    _program: "Program"
    # What an explanation calls in the program's place, where it watches its layers.
    _watched: Callable[[dict[str, Any]], Any] | None = None
    _arguments: Mapping[str, str]

    def open(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Load the file. Raises ``ModelLoadFailed`` naming it."""
        try:
            import torch

            from mooring.backends import programs
        except ImportError as error:
            raise ModelLoadFailed(
                f"model '{spec.name}' needs PyTorch, which is not installed: pip install \"mooring[torch]\""
            ) from error
        self._torch, self._leaves = torch, programs.leaves
        # Here, not before the fork: a template has one thread, and so would its workers.
        torch.set_num_threads(context.threads)
        self._context = context
        self._device = torch.device("cpu" if context.gpu is None else f"cuda:{context.gpu}")
        # What a model keeps of a call in inference mode could not be differentiated by in a later one.
        self._predicting = torch.no_grad if spec.explain else torch.inference_mode
        file = model_file(spec)
        # A model that is to be explained needs gradients, which a optimize_for_onednn one has not.
        self._program = programs.open_program(
            file, spec, self._device, optimize=spec.runtime.optimize and not spec.explain
        )
        self._metadata = self._described(spec, file)
        return self._metadata

    def after_fork(self, context: LoadContext) -> None:
        """The threads of this worker: the process that it was forked from had one."""
        self._torch.set_num_threads(context.threads)
        self._context = context

    def _described(self, spec: ModelSpec, file: Path) -> ModelMetadata:
        program = self._program
        if self.controls and not spec.inputs:
            raise ModelLoadFailed(
                f"{file}: where the configuration declares controls it must declare the inputs too"
            )
        filled = [TensorSpec(each.name, each.datatype, []) for each in self.controls]
        self._arguments = self._arguments_of([*spec.inputs, *filled], file)
        by_argument = {argument: name for name, argument in self._arguments.items()}
        results = [each.name for each in program.outputs]
        by_result = {
            result: name for name, result in paired([each.name for each in spec.outputs], results).items()
        }
        resolved = self.resolved_signature = resolve_signature(
            spec,
            _called(by_argument, program.inputs) or _believed(spec.inputs, spec.batching.mode),
            _called(by_result, program.outputs) or _believed(spec.outputs, spec.batching.mode),
            file=file,
            batched=program.batched,
        )
        self._wanted = {each.name: each.datatype for each in resolved.inputs}
        self._given = [each.name for each in resolved.outputs]
        platform = spec.platform or program.platform
        inputs = resolved.inputs or [
            _untyped(name, optional=name not in program.required) for name in program.tensors
        ]
        outputs = resolved.outputs or [_untyped(f"OUTPUT{index}") for index in range(program.results)]
        if not resolved.outputs:
            self.output_aliases = {f"OUTPUT__{index}": f"OUTPUT{index}" for index in range(len(outputs))}
        return ModelMetadata(spec.name, [spec.version], platform, inputs, outputs)

    def _arguments_of(self, declared: Sequence[TensorSpec], file: Path) -> dict[str, str]:
        """The argument that each input is for."""
        program = self._program
        if not declared:
            own = {name: name for name in program.arguments}
            if program.inputs:
                return own
            numbered = [
                (form.format(index), name)
                for form in ("INPUT{}", "INPUT__{}")
                for index, name in enumerate(program.arguments)
            ]
            return own | {alias: name for alias, name in numbered if alias not in own}
        found = paired([each.name for each in declared], program.arguments)
        if len(found) < len(declared) or not set(program.required) <= set(found.values()):
            raise ModelLoadFailed(
                f"{file} takes {_listed(program.arguments)}; "
                f"the configuration declares {_listed([each.name for each in declared])}"
            )
        return found

    def signature(self, metadata: ModelMetadata) -> Signature:
        """What is declared, else the arguments by number."""
        whole = super().signature(metadata)
        if self.resolved_signature.inputs:
            return whole
        names, required = self._program.arguments, self._program.required
        lone = required or names
        return Signature(
            tuple(self._arguments),
            lone=lone[0] if len(lone) == 1 else "",
            image=whole.image,
            nothing=not required,
            aliases=frozenset(self._arguments) - frozenset(names),
        )

    def predict(self, arrays: Arrays, parameters: Parameters) -> ModelOutput:
        """One call of the program. A shape that an exported program's guards refuse is the caller's fault."""
        with self._predicting():
            values = {name: self._value(name, array) for name, array in arrays.items()}
            results = self._run(self._program.call, values)
            return {name: self._array(value) for name, value in results.items()}

    def _run(self, call: Callable[[dict[str, Any]], Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """The model's outputs by the names that clients see, for inputs by theirs."""
        given = {self._arguments[name]: value for name, value in values.items()}
        if len(given) < len(values):
            raise InvalidInput(f"inputs {_listed(list(values))} name an argument twice")
        for argument in self._program.required:
            if argument not in given:
                missing = next(name for name, own in self._arguments.items() if own == argument)
                raise InvalidInput(f"input '{missing}' is missing")
        try:
            return self._named(self._leaves(call(given)))
        except AssertionError as error:
            text = str(error)
            raise InvalidInput(text) if text.startswith("Guard failed") else failure(error) from error
        except RuntimeError as error:
            raise _shortened(failure(error)) from error

    def explain(self, arrays: Arrays, parameters: Parameters, wanted: Wanted) -> ModelOutput:
        """As configured, else by integrated gradients."""
        if self.explainer is None:
            if self._program.optimized:
                from mooring.backends import programs

                self._program = programs.open_program(
                    model_file(self.spec), self.spec, self._device, optimize=False
                )
            self.explainer = self.explaining(self._metadata, self._context)
        return super().explain(arrays, parameters, wanted)

    def explaining(self, metadata: ModelMetadata, context: LoadContext) -> "Explainer":
        """Captum looks into the program itself."""
        from mooring.backends.explainers import open_explainer

        typed = structs.replace(
            metadata, inputs=self.resolved_signature.inputs, outputs=self.resolved_signature.outputs
        )
        return open_explainer(self.spec, typed, self, tuple(self._arguments))

    def to_tensor(self, name: str, array: Array) -> Any:
        """An input for an explanation. Raises ``Unsupported`` for text."""
        if array.dtype == object:
            raise Unsupported(f"input '{name}' is text, which has no explanation here")
        return self._value(name, array)

    def compute_outputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors among the outputs, with their gradients."""
        results = self._run(self._watched or self._program.call, values)
        return {name: value for name, value in results.items() if self._torch.is_tensor(value)}

    def select_layer(self, layer: str) -> tuple[Any, Any]:
        """The module and one of its layers; see ``explain.attribution.Network``."""
        module, self._watched = self._program.watched(layer)
        return module, module.get_submodule(layer) if layer else None

    def _value(self, name: str, array: Array) -> Any:
        if array.dtype == object:
            return [each.decode() if isinstance(each, bytes) else each for each in array.ravel().tolist()]
        # A view of the request would let a model that works in place change what a second try is given.
        own = array if array.flags.owndata and array.flags.writeable else array.copy()
        value = self._torch.from_numpy(own)
        kind = value.dtype
        if self._wanted.get(name) == "BF16":
            kind = self._torch.bfloat16
        elif name not in self._wanted and self._program.floats and value.is_floating_point():
            kind = self._program.floats
        return value.to(self._device, kind)

    def _named(self, results: dict[str, Any]) -> dict[str, Any]:
        names = paired(self._given, list(results)) if self._given else {name: name for name in results}
        if len(names) < len(self._given):
            raise InvalidOutput(f"the model returned {len(results)} outputs; {len(self._given)} are declared")
        return {name: results[own] for name, own in names.items()}

    def _array(self, value: Any) -> Array:
        if not self._torch.is_tensor(value):
            return np.array(value, object) if isinstance(value, list) else np.asarray(value)
        value = value.detach().cpu()
        array: Array = (value.float() if value.dtype is self._torch.bfloat16 else value).numpy()
        return array


def paired(declared: Sequence[str], own: Sequence[str]) -> dict[str, str]:
    """Which of a model's own names each declared one stands for: the same, the one of its number, or of its place.

    >>> paired(["INPUT__1", "INPUT__0"], ["a", "b"])
    {'INPUT__1': 'b', 'INPUT__0': 'a'}
    """
    if set(declared) <= set(own):
        return {name: name for name in declared}
    numbers = [_NUMBERED.fullmatch(name) for name in declared]
    places = [int(number[1]) for number in numbers if number]
    if len(set(places)) == len(declared) and max(places) < len(own):
        return {name: own[place] for name, place in zip(declared, places, strict=True)}
    return dict(zip(declared, own, strict=False))


def _untyped(name: str, *, optional: bool = False) -> TensorSpec:
    """A tensor of which nobody knows more than the name."""
    return TensorSpec(name, "", [], optional=optional, unknown_rank=True)


def _called(names: Mapping[str, str], own: Sequence[TensorSpec]) -> list[TensorSpec]:
    return [TensorSpec(names.get(each.name, each.name), each.datatype, each.shape) for each in own]


def _believed(declared: Sequence[TensorSpec], batch: BatchMode) -> list[TensorSpec]:
    """What a file that does not say must have: what is declared, and for single samples the batch before it."""
    more = [-1] if batch is BatchMode.STACK else []
    return [TensorSpec(each.name, each.datatype, [*more, *each.model_shape]) for each in declared]


def _shortened(failed: ModelFailed) -> ModelFailed:
    """TorchScript quotes the source of every function on the way; what went wrong is its last line."""
    if "TorchScript" not in failed.message:
        return failed
    return type(failed)(failed.message.strip().rpartition("\n")[2], detail=failed.detail)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
