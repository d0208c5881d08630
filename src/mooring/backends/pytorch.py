"""PyTorch models without a handler: an exported program (.pt2), TorchScript (.pt), or weights and their module.

    .pt2                         names, types and shapes come from the program; a configuration must agree with it
    .pt                          TorchScript, which knows no more than the names of its arguments
    .pt .pth .bin .safetensors   weights; the parameter ``module`` names the class they are for: "model.py:Net"

Inputs that nobody declares have the names of the arguments, or by their order INPUT0, INPUT1 … or INPUT__0, INPUT__1 …,
and the types that are sent; floats come in the type of the model's own weights. Declared names are those of the
arguments, or else go by their order. Outputs have the keys of the dict that a model returns, else OUTPUT0, OUTPUT1 …,
which may be asked for as OUTPUT__0, too; declared names go by the keys, or else by their order.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import structs

from mooring.backends.model_calls import to_model_failure
from mooring.backends.samples import Arrays, Parameters
from mooring.backends.signature_check import DeclaredBackend, model_file, resolve_signature
from mooring.backends.tensors import ExplanationTargets, ModelOutput
from mooring.codecs.signature import Signature
from mooring.core.errors import (
    InvalidInput,
    InvalidOutput,
    ModelFailed,
    ModelLoadFailed,
    PackageMissing,
    Unsupported,
)
from mooring.core.missing_packages import missing_package
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
    """Runs one program on one device.

    How this works: ``load_model`` opens the file as a ``Program``, and matches declared inputs with its arguments by
    name, by number, or by order. A call maps arrays to tensors on the device, in the declared type or that of the
    weights, runs the program without gradients, and names the values in its result. For explanations the backend is the
    ``Network`` that Captum calls (``to_tensor``, ``compute_outputs``, ``select_layer``); then it runs with gradients.
    """

    differentiable = True

    _program: "Program"
    # What an explanation calls in the program's place, where it watches its layers.
    _hooked_call: Callable[[dict[str, Any]], Any] | None = None
    _arguments: Mapping[str, str]

    def load_model(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Load the file. Raises ``ModelLoadFailed`` naming it."""
        try:
            import torch

            from mooring.backends import programs
        except ImportError as error:
            raise PackageMissing(missing_package("the model", "torch")) from error
        self._torch, self._flatten_outputs = torch, programs.flatten_outputs
        # Here, not before the fork: a template has one thread, and so would its workers.
        torch.set_num_threads(context.threads)
        self._context = context
        self._device = torch.device("cpu" if context.gpu is None else f"cuda:{context.gpu}")
        # What a model keeps of a call in inference mode could not be differentiated by in a later one.
        self._predicting = torch.no_grad if spec.explain else torch.inference_mode
        file = model_file(spec)
        # A model that is to be explained needs gradients, which an optimized one does not have.
        self._program = programs.load_program(
            file, spec, self._device, optimize=spec.runtime.optimize and not spec.explain
        )
        self._metadata = self._describe_model(spec, file)
        return self._metadata

    def after_fork(self, context: LoadContext) -> None:
        """Set the number of threads of this worker; the process that it was forked from had one."""
        self._torch.set_num_threads(context.threads)
        self._context = context

    def _describe_model(self, spec: ModelSpec, file: Path) -> ModelMetadata:
        program = self._program
        if spec.sequence.states:
            raise ModelLoadFailed(
                f"{file}: the server keeps implicit state for ONNX files and Python models, not for PyTorch's"
            )
        if self.controls and not spec.inputs:
            raise ModelLoadFailed(
                f"{file}: where the configuration declares controls it must declare the inputs too"
            )
        filled = [TensorSpec(each.name, each.datatype, []) for each in self.controls]
        self._arguments = self._arguments_of([*spec.inputs, *filled], file)
        by_argument = {argument: name for name, argument in self._arguments.items()}
        results = [each.name for each in program.outputs]
        by_result = {
            result: name
            for name, result in match_names([each.name for each in spec.outputs], results).items()
        }
        resolved = self.resolved_signature = resolve_signature(
            spec,
            _rename_tensors(by_argument, program.inputs) or _assume_tensors(spec.inputs, spec.batching.mode),
            _rename_tensors(by_result, program.outputs) or _assume_tensors(spec.outputs, spec.batching.mode),
            file=file,
            batched=program.batched,
        )
        self._declared_types = {each.name: each.datatype for each in resolved.inputs}
        self._output_names = [each.name for each in resolved.outputs]
        platform = spec.platform or program.platform
        inputs = resolved.inputs or [
            _unknown_tensor(name, optional=name not in program.required) for name in program.tensors
        ]
        outputs = resolved.outputs or [_unknown_tensor(f"OUTPUT{index}") for index in range(program.results)]
        if not resolved.outputs:
            self.output_aliases = {f"OUTPUT__{index}": f"OUTPUT{index}" for index in range(len(outputs))}
        return ModelMetadata(spec.name, [spec.version], platform, inputs, outputs)

    def _arguments_of(self, declared: Sequence[TensorSpec], file: Path) -> dict[str, str]:
        """Return the argument that each input is for. Raises ``ModelLoadFailed`` where declared inputs do not match."""
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
        pairs = match_names([each.name for each in declared], program.arguments)
        if len(pairs) < len(declared) or not set(program.required) <= set(pairs.values()):
            raise ModelLoadFailed(
                f"{file} takes {_quote_names(program.arguments)}; "
                f"the configuration declares {_quote_names([each.name for each in declared])}"
            )
        return pairs

    def input_signature(self, metadata: ModelMetadata) -> Signature:
        """Return the signature of the declared inputs, else of the arguments by name or number."""
        declared = super().input_signature(metadata)
        if self.resolved_signature.inputs:
            return declared
        names, required = self._program.arguments, self._program.required
        lone = required or names
        return Signature(
            tuple(self._arguments),
            lone=lone[0] if len(lone) == 1 else "",
            image=declared.image,
            nothing=not required,
            aliases=frozenset(self._arguments) - frozenset(names),
        )

    def predict(self, arrays: Arrays, parameters: Parameters) -> ModelOutput:
        """Call the program once. Raises ``InvalidInput`` for a shape that an exported program's guards refuse."""
        with self._predicting():
            values = {name: self._to_tensor(name, array) for name, array in arrays.items()}
            results = self._run_program(self._program.call, values)
            return {name: self._to_array(value) for name, value in results.items()}

    def _run_program(
        self, call: Callable[[dict[str, Any]], Any], values: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run the program on inputs by their names, and return its outputs by the names that clients see."""
        values_by_argument = {self._arguments[name]: value for name, value in values.items()}
        if len(values_by_argument) < len(values):
            raise InvalidInput(f"inputs {_quote_names(list(values))} name an argument twice")
        for argument in self._program.required:
            if argument not in values_by_argument:
                missing = next(name for name, own in self._arguments.items() if own == argument)
                raise InvalidInput(f"input '{missing}' is missing")
        try:
            return self._name_outputs(self._flatten_outputs(call(values_by_argument)))
        except AssertionError as error:
            text = str(error)
            raise (
                InvalidInput(text) if text.startswith("Guard failed") else to_model_failure(error)
            ) from error
        except RuntimeError as error:
            failed = _shorten_failure(to_model_failure(error))
            integers = any(
                getattr(each, "dtype", None) is self._torch.int64 for each in values_by_argument.values()
            )
            if integers and not self._declared_types and _INTEGERS_FOR_FLOATS.search(failed.message):
                failed.message += _SEND_FLOATS
            raise failed from error

    def explain(self, arrays: Arrays, parameters: Parameters, targets: ExplanationTargets) -> ModelOutput:
        """Explain as configured, else by integrated gradients."""
        if self.explainer is None:
            if self._program.optimized:
                from mooring.backends import programs

                self._program = programs.load_program(
                    model_file(self.spec), self.spec, self._device, optimize=False
                )
            self.explainer = self.create_explainer(self._metadata, self._context)
        return super().explain(arrays, parameters, targets)

    def create_explainer(self, metadata: ModelMetadata, context: LoadContext) -> "Explainer":
        """Create an explainer that differentiates the program and hooks its layers."""
        from mooring.backends.explainers import build_explainer

        typed = structs.replace(
            metadata, inputs=self.resolved_signature.inputs, outputs=self.resolved_signature.outputs
        )
        return build_explainer(self.spec, typed, self, tuple(self._arguments))

    def to_tensor(self, name: str, array: Array) -> Any:
        """Return an input for an explanation. Raises ``Unsupported`` for text."""
        if array.dtype == object:
            raise Unsupported(f"input '{name}' is text, which has no explanation here")
        return self._to_tensor(name, array)

    def compute_outputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Run the program and return the tensors among its outputs, with their gradients."""
        results = self._run_program(self._hooked_call or self._program.call, values)
        return {name: value for name, value in results.items() if self._torch.is_tensor(value)}

    def select_layer(self, layer: str) -> tuple[Any, Any]:
        """Return the module and one of its layers; see ``explain.attribution.Network``."""
        module, self._hooked_call = self._program.unfold_layers(layer)
        return module, module.get_submodule(layer) if layer else None

    def _to_tensor(self, name: str, array: Array) -> Any:
        if array.dtype == object:
            return [each.decode() if isinstance(each, bytes) else each for each in array.ravel().tolist()]
        # A view of the request would let a model that works in place change what a second try is given.
        own = array if array.flags.owndata and array.flags.writeable else array.copy()
        value = self._torch.from_numpy(own)
        kind = value.dtype
        if self._declared_types.get(name) == "BF16":
            kind = self._torch.bfloat16
        elif name not in self._declared_types and self._program.float_dtype and value.is_floating_point():
            kind = self._program.float_dtype
        return value.to(self._device, kind)

    def _name_outputs(self, results: dict[str, Any]) -> dict[str, Any]:
        names = (
            match_names(self._output_names, list(results))
            if self._output_names
            else {name: name for name in results}
        )
        if len(names) < len(self._output_names):
            raise InvalidOutput(
                f"the model returned {len(results)} outputs; {len(self._output_names)} are declared"
            )
        return {name: results[own] for name, own in names.items()}

    def _to_array(self, value: Any) -> Array:
        if not self._torch.is_tensor(value):
            return np.array(value, object) if isinstance(value, list) else np.asarray(value)
        value = value.detach().cpu()
        array: Array = (value.float() if value.dtype is self._torch.bfloat16 else value).numpy()
        return array


# Torch says it in many words: "must have the same dtype, but got Long and Float", "Input type (long int) and bias type (float) ...".
_INTEGERS_FOR_FLOATS = re.compile(r"\b(long|int)\b.*\bfloat\b|\bfloat\b.*\b(long|int)\b", re.IGNORECASE)
_SEND_FLOATS = (
    "; whole numbers come as integers to a file that declares no types: send 1.0 in place of 1, or declare the inputs"
    " in a config.toml"
)


def match_names(declared: Sequence[str], own: Sequence[str]) -> dict[str, str]:
    """Return which of a model's own names each declared one stands for: the same, else by its number, else by its position.

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


def _unknown_tensor(name: str, *, optional: bool = False) -> TensorSpec:
    """Return a tensor of which only the name is known."""
    return TensorSpec(name, "", [], optional=optional, unknown_rank=True)


def _rename_tensors(names: Mapping[str, str], own: Sequence[TensorSpec]) -> list[TensorSpec]:
    return [TensorSpec(names.get(each.name, each.name), each.datatype, each.shape) for each in own]


def _assume_tensors(declared: Sequence[TensorSpec], batch: BatchMode) -> list[TensorSpec]:
    """Return the declared tensors for a file that declares none; those of single samples get a batch dimension first."""
    more = [-1] if batch is BatchMode.STACK else []
    return [TensorSpec(each.name, each.datatype, [*more, *each.model_shape]) for each in declared]


def _shorten_failure(failed: ModelFailed) -> ModelFailed:
    """Keep the last line of an error of TorchScript, which quotes the source of every function on the way."""
    if "TorchScript" not in failed.message:
        return failed
    return type(failed)(failed.message.strip().rpartition("\n")[2], detail=failed.detail)


def _quote_names(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
