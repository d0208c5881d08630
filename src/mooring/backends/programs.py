"""Load a PyTorch file of any kind as a ``Program``, which is called with values by name."""

import functools
import inspect
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mooring.backends.handler.weights import (
    EXPORTED_ENTRIES,
    archive_entries,
    detect_file_kind,
    load_script,
    load_weights,
)
from mooring.backends.onednn_layout import optimize_for_onednn
from mooring.backends.user_function import import_file, run_user_code
from mooring.core.errors import ModelLoadFailed
from mooring.core.paths import leads_out
from mooring.core.tensors import TensorSpec
from mooring.repository.spec import ModelSpec

DATATYPES: Mapping[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded model, called with a value for the name of each argument.

    ``inputs`` (named as the arguments) and ``outputs`` are empty where the file does not declare them. ``batched``
    False: the open first dimensions are not one batch. ``float_dtype`` is the type of its weights. ``unfold`` returns
    the model with its layers. Where nothing more is known, ``tensors`` are the arguments that are tensors, and
    ``results`` is the number of returned tensors (0: unknown).
    """

    call: Callable[[dict[str, Any]], Any]
    platform: str
    arguments: Sequence[str]
    required: Sequence[str]
    float_dtype: torch.dtype | None = None
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    batched: bool = True
    unfold: Callable[[], tuple[torch.nn.Module, Callable[[dict[str, Any]], Any]]] | None = None
    tensors: Sequence[str] = ()
    results: int = 0
    # Rearranged for speed: it has no gradients then.
    optimized: bool = False

    def unfold_layers(self, layer: str) -> tuple[torch.nn.Module, Callable[[dict[str, Any]], Any]]:
        """Return the model with its single layers, and the function that calls it.

        Raises ``ModelLoadFailed`` where the file has lost the layers, or has none called ``layer``.
        """
        if self.unfold is None:
            raise ModelLoadFailed(
                "TorchScript does not let its layers be watched: save the model with torch.export, or its weights "
                "beside the module"
            )
        if not layer and self.platform != "pytorch_eager":
            raise ModelLoadFailed(
                "explain.method: DeepLift knows the layers of weights beside their module only, no exported program's"
            )
        module, call = self.unfold()
        known = [name for name, _ in module.named_modules() if name]
        if layer and layer not in known:
            raise ModelLoadFailed(f"explain.layer: there is no '{layer}'; the model has {', '.join(known)}")
        return module, call


def load_program(file: Path, spec: ModelSpec, device: torch.device, *, optimize: bool) -> Program:
    """Load a file to a device; ``optimize`` rearranges it for speed.

    Raises ``ModelLoadFailed``, which names the file.
    """
    try:
        inner = archive_entries(file)
        if any(name.endswith(EXPORTED_ENTRIES) for name in inner):
            return _load_exported(file, device, spec)
        if any(name.endswith("/constants.pkl") for name in inner):
            return _load_torchscript(file, device, optimize=optimize)
    except ModelLoadFailed:
        raise
    except Exception as error:  # torch raises of every kind for a broken file
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadFailed(f"{file} cannot be loaded: {reason}", detail=str(error)) from error
    if file.suffix == ".pt2":
        raise ModelLoadFailed(f"{file} cannot be loaded: it holds no program that torch.export saved")
    return _load_eager(file, spec, device)


def flatten_outputs(value: Any) -> dict[str, Any]:
    """Return the values in a model's result, by the keys of its dicts or by number.

    Values that are None are left out.
    """
    outputs: dict[str, Any] = {}
    for index, (key, leaf) in enumerate(_walk_outputs("", value)):
        outputs[key if key and key not in outputs else f"OUTPUT{index}"] = leaf
    return outputs


def _walk_outputs(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _walk_outputs(str(name), inner)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name, inner in zip(value._fields, value, strict=True):
            yield from _walk_outputs(name, inner)
    elif isinstance(value, list | tuple) and not (value and isinstance(value[0], str | bytes)):
        for inner in value:
            yield from _walk_outputs("", inner)
    elif value is not None:
        yield key, value


def _load_exported(file: Path, device: torch.device, spec: ModelSpec) -> Program:
    program = torch.export.load(file)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    slots: list[tuple[str, Any]] = []
    inputs: list[torch.Tensor] = []
    for input_spec in program.graph_signature.input_specs:
        if input_spec.kind is not torch.export.graph_signature.InputKind.USER_INPUT:
            continue
        tensor = values.get(input_spec.arg.name)
        constant = hasattr(input_spec.arg, "value")
        if not constant and not isinstance(tensor, torch.Tensor):
            raise ModelLoadFailed(
                f"{file}: argument '{input_spec.arg.name}' is not a tensor, so no client can send it"
            )
        slots.append(("", input_spec.arg.value) if constant else (input_spec.arg.name, None))
        if isinstance(tensor, torch.Tensor):
            inputs.append(tensor)
    names = [name for name, _ in slots if name]
    outputs = _output_tensors(program, values)
    firsts = {str(tensor.shape[0]) if tensor.ndim else "" for tensor in (*inputs, *outputs.values())}
    return Program(
        _make_call(_apply_memory_format(program.module(), spec), program, slots),
        "pytorch_exported",
        names,
        names,
        inputs=[_tensor_spec(name, tensor) for name, tensor in zip(names, inputs, strict=True)],
        outputs=[_tensor_spec(name, tensor) for name, tensor in outputs.items()],
        # An expression of the batch (half of it, say) is open as well, but not the batch.
        batched=len(firsts) == 1,
        unfold=lambda: _unflatten_program(program, slots),
    )


def _unflatten_program(
    program: torch.export.ExportedProgram, slots: Sequence[tuple[str, Any]]
) -> tuple[torch.nn.Module, Callable[[dict[str, Any]], Any]]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # torch of itself
        module = torch.export.unflatten(program)
    return module, _make_call(module, program, slots)


def _output_tensors(program: torch.export.ExportedProgram, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tensor as an example of each output, by the name that ``flatten_outputs`` will give it."""
    output_args = [
        each.arg for each in program.graph_signature.output_specs if each.kind.name == "USER_OUTPUT"
    ]
    examples = [values.get(arg.name, getattr(arg, "value", None)) for arg in output_args]
    out_spec = program.call_spec.out_spec
    assert out_spec is not None
    return {
        name: torch.as_tensor(example)
        for name, example in flatten_outputs(pytree.tree_unflatten(examples, out_spec)).items()
    }


def _tensor_spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return TensorSpec(name, DATATYPES.get(tensor.dtype, str(tensor.dtype)), shape)


def _make_call(
    module: torch.nn.Module, program: torch.export.ExportedProgram, slots: Sequence[tuple[str, Any]]
) -> Callable[[dict[str, Any]], Any]:
    in_spec = program.call_spec.in_spec
    assert in_spec is not None

    def call(values: dict[str, Any]) -> Any:
        flat = [values[name] if name else constant for name, constant in slots]
        args, kwargs = pytree.tree_unflatten(flat, in_spec)
        return module(*args, **kwargs)

    return call


def _apply_memory_format(module: torch.nn.Module, spec: ModelSpec) -> torch.nn.Module:
    """Give the weights of convolutions the configured memory layout; inputs follow by themselves."""
    # torch has no type for this call of its own.
    return module.to(memory_format=torch.channels_last) if spec.runtime.channels_last else module  # type: ignore[call-overload]


def _load_torchscript(file: Path, device: torch.device, *, optimize: bool) -> Program:
    loaded = module = load_script(str(file), device).eval()
    float_dtype = _common_float_dtype(module)
    schema = module.forward.schema
    names = [each.name for each in schema.arguments[1:]]
    required = [each.name for each in schema.arguments[1:] if not each.has_default_value()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
        # It may be frozen already, or change its own attributes: then it runs as it is.
        with suppress(RuntimeError):
            module = torch.jit.freeze(loaded)
        optimized_module = None
        if optimize and device.type == "cpu":
            try:
                optimized_module = optimize_for_onednn(module)
            except (AttributeError, OSError, RuntimeError, TypeError):  # a torch that knows other operators
                module = load_script(str(file), device).eval()
        if optimized_module is not None:
            if module is not loaded:  # the graph that is optimized is a copy
                _forget_weights(loaded)
            module = _Optimized(optimized_module, file, device)
    return Program(
        lambda values: module(**values),
        "pytorch_torchscript",
        names,
        required,
        float_dtype,
        tensors=[
            each.name for each in schema.arguments[1:] if each.name in required or _is_tensor(each.type)
        ],
        results=_results_of(schema),
        optimized=optimized_module is not None,
    )


def _is_tensor(kind: Any) -> bool:
    """Whether an argument of this type is a tensor, or an optional one."""
    return "Tensor" in str(kind)


def _results_of(schema: Any) -> int:
    """Return how many tensors a call returns, where they have no names; 0 where only a call can tell."""
    kinds = [each.type for each in schema.returns]
    if len(kinds) == 1 and kinds[0].kind() == "TupleType":
        kinds = kinds[0].elements() if not kinds[0].annotation_str.startswith("__torch__") else []
    return len(kinds) if all(kind.kind() == "TensorType" for kind in kinds) else 0


class _Optimized:
    """A model after ``optimize_for_onednn``.

    Inputs that it refuses go to the original model, loaded again from the file. That takes some inputs that this one
    does not (a picture without a batch dimension), and has better error messages for the others.
    """

    def __init__(self, module: Any, file: Path, device: torch.device) -> None:
        self._module = module
        self._load_original = functools.cache(lambda: load_script(str(file), device).eval())

    def __call__(self, **values: Any) -> Any:
        try:
            return self._module(**values)
        except RuntimeError:
            return self._load_original()(**values)


def _forget_weights(module: Any) -> None:
    """Empty the constants in the graph of a model that is not called any more. Its optimized copy keeps its code alive, and would
    keep the weights of a model that was frozen before it was saved twice: 43 MB of a ResNet-18.
    """
    for node in module.graph.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            node.t_("value", torch.empty(0))


def _explain_formats(file: Path) -> str:
    """Say how a model that is not a program can be saved or laid out so that it is loaded."""
    name = file.stem if file.stem != "model" else "NAME"
    return (
        f'Save the model as a program, torch.export.save(torch.export.export(model, inputs), "{name}.pt2") or'
        f' torch.jit.script(model).save("{name}.pt"); or serve a folder {name} with its class in 1/model.py, its'
        f' state_dict in 1/model.pt, and in config.toml platform = "pytorch_eager" and [parameters] module ='
        ' "model.py:Net", where Net is the class'
    )


def _load_eager(file: Path, spec: ModelSpec, device: torch.device) -> Program:
    path, _, name = str(spec.parameters.get("module", "")).partition(":")
    if not path:
        if detect_file_kind(file) == "whole model":
            raise ModelLoadFailed(
                f"{file} is a whole model that torch.save pickled. It is not loaded, because a pickle can run any code."
                f" {_explain_formats(file)}"
            )
        raise ModelLoadFailed(
            f"{file} holds weights without the class of the model. {_explain_formats(file)}"
        )
    source = file.parent / path
    if leads_out(path) or not source.is_file():
        raise ModelLoadFailed(f"parameter 'module': there is no file {path!r} beside {file}")
    kind = _module_class(run_user_code(source, import_file, source, spec), name, source)
    module: torch.nn.Module = run_user_code(source, kind)
    try:
        weights = load_weights(
            str(file), device=device, allow_pickle=bool(spec.parameters.get("allow_pickle"))
        )
        module.load_state_dict(weights)
    except (OSError, RuntimeError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())
        raise ModelLoadFailed(f"{file} cannot be loaded into '{kind.__name__}': {reason}") from error
    module = _apply_memory_format(module.to(device).eval(), spec)
    parameters = list(inspect.signature(module.forward).parameters.values())
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    required = [each.name for each in parameters if each.name in names and each.default is each.empty]

    def call(values: dict[str, Any]) -> Any:
        return module(**values)

    return Program(
        call,
        "pytorch_eager",
        names,
        required,
        _common_float_dtype(module),
        tensors=names,
        unfold=lambda: (module, call),
    )


def _module_class(module: Any, name: str, source: Path) -> type[torch.nn.Module]:
    own = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, torch.nn.Module) and each.__module__ == module.__name__
    ]
    matching = [each for each in own if each.__name__ == name] if name else own
    if len(matching) != 1:
        known = ", ".join(each.__name__ for each in own) or "none"
        raise ModelLoadFailed(
            f"{source} must define one module class{f' {name!r}' if name else ''}; it has {known}"
        )
    return matching[0]


def _common_float_dtype(module: Any) -> torch.dtype | None:
    """Return the floating-point type of the weights, where they have one in common."""
    kinds = {each.dtype for each in module.parameters() if each.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 else None
