"""The backend of ONNX files, run by ONNX Runtime. The file gives names, types and shapes; a configuration must agree with it.

Providers are chosen by what is installed (``_ORDER``), or by the parameter ``providers``: short or full names in the
order in which they are tried ("cuda, cpu"). On the CPU a worker uses as many threads as it is given.
"""

import ctypes
import re
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from mooring.backends.onnx_file import OnnxFile
from mooring.backends.samples import Arrays, Parameters
from mooring.backends.signature_check import (
    DeclaredBackend,
    check_slots,
    check_states,
    model_file,
    resolve_signature,
)
from mooring.backends.tensors import ModelOutput
from mooring.codecs.raw import round_to_bfloat16
from mooring.codecs.signature import Signature
from mooring.codecs.tensor_json import cast_array
from mooring.core.errors import (
    InvalidInput,
    InvalidOutput,
    ModelFailed,
    ModelLoadFailed,
    OutOfResources,
    PackageMissing,
)
from mooring.core.missing_packages import missing_package
from mooring.core.service import LoadContext, ModelMetadata
from mooring.core.tensors import NUMPY_TYPES, Array, TensorSpec
from mooring.repository.spec import ModelSpec

PLATFORM = "onnx_onnxv1"

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
# What converters of scikit-learn end a classifier with: a probability by class for every row.
_MAPS = re.compile(r"seq\(map\((?:int64|string),tensor\(float\)\)\)")

# Parts of the runtime's messages where memory is short; it has no error type of its own for that.
_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc")

# TensorRT is left out: it builds engines for minutes at the first load. A model that wants it names it in ``providers``.
_ORDER = ("CUDA", "MIGraphX", "ROCM", "OpenVINO", "DML", "CoreML", "CPU")
_ON_GPU = ("CUDA", "MIGraphX", "ROCM", "DML", "Tensorrt", "NvTensorRTRTX")
_SUFFIX = "ExecutionProvider"
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16

# A batch dimension that has a name says so by it; a sequence must not be joined with another one's.
_BATCH_NAME = re.compile(r"(?i)(.*batch.*|bs?|n|unk_.*|s\d+|dim_?\d*|none|\?)")
# Of an output, where torch names a dimension after the node that makes it (Gemmy_dim_0): it may be the batch.
_MADE_UP = re.compile(rf"{_BATCH_NAME.pattern}|.*dim_?\d+")


class OnnxBackend(DeclaredBackend):
    """One session of ONNX Runtime."""

    _session: Any = None
    _refusals: tuple[type[Exception], ...] = ()

    def load_model(self, spec: ModelSpec, context: LoadContext) -> ModelMetadata:
        """Load the file. Raises ``ModelLoadFailed`` naming it."""
        try:
            import onnxruntime
        except ImportError as error:
            raise PackageMissing(missing_package("the model", "onnxruntime")) from error
        file = model_file(spec)
        self._session = _create_session(onnxruntime, file, spec, context)
        self._refusals = (onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,)
        session_inputs, session_outputs = self._session.get_inputs(), self._session.get_outputs()
        constants = [each for each in self._session.get_overridable_initializers() if each.type in _DATATYPES]
        maps = any(_MAPS.fullmatch(each.type) for each in session_outputs)
        self.classes = OnnxFile(file).read_classes() if maps else {}
        open_ranks = not all(each.shape for each in (*session_inputs, *session_outputs))
        unranked = OnnxFile(file).read_unranked_names() if open_ranks else set[str]()
        own_inputs = [_input_spec(each, file, unranked) for each in session_inputs]
        own_outputs = [_output_spec(each, file, unranked) for each in session_outputs]
        check_states(spec, own_inputs, own_outputs, file)
        self.resolved_signature = resolve_signature(
            spec,
            own_inputs
            + [structs.replace(_input_spec(each, file, unranked), optional=True) for each in constants],
            own_outputs,
            file=file,
            batched=not spec.batching.size_by_default
            or _is_one_batch([each.shape[0] for each in session_inputs if each.shape]),
            unbatched_outputs=_outputs_without_batch(session_inputs, session_outputs),
        )
        inputs = self.resolved_signature.inputs
        outputs = [
            structs.replace(each, labels=list(self.classes.get(each.name, ())))
            for each in self.resolved_signature.outputs
        ]
        states = spec.sequence.states
        self._names = list(
            dict.fromkeys([*(each.name for each in outputs), *(each.output for each in states)])
        )
        self._types = {each.name: each.datatype for each in inputs}
        self._types |= {each.name: each.datatype for each in self.controls}
        self._types |= {each.input: each.datatype for each in states}
        self._ranks = {each.name: bool(each.shape) for each in session_inputs}
        # Its Python interface has no numpy type for them; they go by their bits.
        self._has_bfloat16 = "BF16" in {*self._types.values(), *(each.datatype for each in outputs)}
        self._runtime = onnxruntime
        self._ranks |= {each.name: True for each in constants}
        return ModelMetadata(spec.name, [spec.version], spec.platform or PLATFORM, inputs, outputs)

    def input_signature(self, metadata: ModelMetadata) -> Signature:
        """Return the declared signature.

        ONNX Runtime itself checks inputs for which the file leaves the number of dimensions open.
        """
        declared = super().input_signature(metadata)
        if not metadata.inputs:
            return replace(declared, nothing=True)
        unshaped = [
            each
            for each in metadata.inputs
            if not each.shape and not self._ranks[each.name] and not self.spec.inputs
        ]
        if not unshaped:
            return declared
        types = {each.datatype for each in unshaped}
        specs = {name: spec for name, spec in declared.specs.items() if spec not in unshaped}
        common = types.pop() if len(types) == 1 else ""
        return replace(declared, specs=specs, datatype=common)

    def predict(self, arrays: Arrays, parameters: Parameters) -> ModelOutput:
        """Run the session once.

        Raises ``InvalidInput`` for what the runtime refuses, before or in a node, as a shape or a value.
        """
        feed = {name: self._to_feed(name, array) for name, array in arrays.items()}
        try:
            if self._has_bfloat16:
                return self._run_with_bfloat16(feed)
            results = self._session.run(self._names, feed)
        except self._refusals as error:
            raise InvalidInput(_error_reason(error)) from error
        except ValueError as error:  # an input is missing
            raise InvalidInput(str(error)) from error
        except (MemoryError, InvalidOutput):
            raise
        except Exception as error:
            text = _error_reason(error)
            short = any(each in text for each in _NO_MEMORY)
            raise (OutOfResources if short else ModelFailed)(text, detail=str(error)) from error
        return {
            name: _to_array(name, result, self.classes.get(name, ()))
            for name, result in zip(self._names, results, strict=True)
        }

    def _to_feed(self, name: str, array: Array) -> Array:
        datatype = self._types.get(name)
        if datatype is None:
            raise InvalidInput(
                f"unexpected input '{name}'; the model takes {', '.join(map(repr, self._types)) or 'none'}"
            )
        if datatype == "BYTES":
            # The runtime takes text, and of bytes it would take what Python prints of them.
            return _decode_texts(cast_array(array, name, datatype), name)
        if datatype == "BF16":
            return round_to_bfloat16(cast_array(array, name, datatype))
        return cast_array(array, name, datatype) if array.dtype != NUMPY_TYPES[datatype] else array

    def _run_with_bfloat16(self, feed: Arrays) -> Arrays:
        value = self._runtime.OrtValue
        values = {
            name: value.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _BFLOAT16)
            if self._types[name] == "BF16"
            else value.ortvalue_from_numpy(array)
            for name, array in feed.items()
        }
        results = self._session.run_with_ort_values(self._names, values)
        return {
            name: _from_ort_value(name, result) for name, result in zip(self._names, results, strict=True)
        }

    def close(self) -> None:
        """Release the session and its threads."""
        self._session = None


def check_declared(spec: ModelSpec) -> None:
    """Check a configuration against the file without loading it. Raises ``ModelLoadFailed`` as a load would.

    What only ONNX Runtime can tell is not checked.
    """
    file = model_file(spec)
    own = OnnxFile(file).read_interface()
    if own is None:
        raise ModelLoadFailed(f"{file} cannot be loaded: no model can be read of it")
    if all(each.datatype for each in (*own.inputs, *own.outputs)):
        check_states(spec, own.inputs, own.outputs, file)
        check_slots(spec, resolve_signature(spec, own.inputs, own.outputs, file=file))


def _create_session(runtime: Any, file: Path, spec: ModelSpec, context: LoadContext) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = context.threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    levels = runtime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if spec.runtime.optimize else levels.ORT_DISABLE_ALL
    )
    options.log_severity_level = 3  # what goes wrong is raised, and reported once
    # Threads that spin between two requests take the cores from the other workers.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers = _choose_providers(
        runtime.get_available_providers(), str(spec.parameters.get("providers", "")), context
    )
    try:
        return runtime.InferenceSession(str(file), sess_options=options, providers=providers)
    except Exception as error:  # the runtime's error types have no other base class
        raise ModelLoadFailed(
            f"{file} cannot be loaded: {_error_reason(error)}", detail=str(error)
        ) from error


def _choose_providers(available: list[str], setting: str, context: LoadContext) -> list[Any]:
    """Return the execution providers in order of preference, with the device of those that run on one."""
    available_by_name = {name.removesuffix(_SUFFIX).lower(): name for name in available}
    requested = [name.strip().removesuffix(_SUFFIX) for name in setting.split(",") if name.strip()]
    for name in requested:
        if name.lower() not in available_by_name:
            raise ModelLoadFailed(
                f"parameter 'providers': ONNX Runtime has no '{name}' here; it has {', '.join(available_by_name)}"
            )
    usual = [name for name in _ORDER if name not in _ON_GPU or context.gpu is not None]
    providers = [
        available_by_name[name.lower()] for name in requested or usual if name.lower() in available_by_name
    ]
    on_gpu = {name + _SUFFIX for name in _ON_GPU}
    device = {"device_id": str(context.gpu or 0)}
    return [(name, device) if name in on_gpu else name for name in providers]


def _input_spec(argument: Any, file: Path, unranked: Container[str]) -> TensorSpec:
    if argument.type not in _DATATYPES:
        raise ModelLoadFailed(
            f"{file}: input '{argument.name}' is a {argument.type}, which no client can send"
        )
    name = argument.name
    return TensorSpec(name, _DATATYPES[argument.type], _shape_of(argument), unknown_rank=name in unranked)


def _output_spec(argument: Any, file: Path, unranked: Container[str]) -> TensorSpec:
    if _MAPS.fullmatch(argument.type):
        return TensorSpec(argument.name, "FP32", [-1, -1])
    if argument.type not in _DATATYPES:
        raise ModelLoadFailed(f"{file}: output '{argument.name}' is a {argument.type}, which is not a tensor")
    name = argument.name
    return TensorSpec(name, _DATATYPES[argument.type], _shape_of(argument), unknown_rank=name in unranked)


def _shape_of(argument: Any) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in argument.shape]


def _is_one_batch(firsts: list[Any]) -> bool:
    """Whether the open first dimensions have one name at most, and that is the name of a batch."""
    names = {first for first in firsts if isinstance(first, str)}
    return len(names) <= 1 and all(_BATCH_NAME.fullmatch(name) for name in names)


def _outputs_without_batch(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[str]:
    """Return the outputs whose first dimension has a name of its own: neither the batch's nor one that a converter made up."""
    batch = {each.shape[0] for each in inputs if each.shape}
    return [
        each.name
        for each in outputs
        if each.shape
        and isinstance(each.shape[0], str)
        and each.shape[0] not in batch
        and not _MADE_UP.fullmatch(each.shape[0])
    ]


def _decode_texts(array: Array, name: str) -> Array:
    try:
        elements = [each.decode() if isinstance(each, bytes) else each for each in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"input '{name}' holds bytes that are not UTF-8, the text that ONNX has: {error}"
        ) from None
    texts = np.empty(len(elements), object)
    texts[:] = elements
    return texts.reshape(array.shape)


def _to_array(name: str, result: Any, classes: Sequence[str] = ()) -> Array:
    """Return a result as an array.

    A sequence of maps becomes a row each; columns are in the order of classes, else of keys.
    """
    if isinstance(result, np.ndarray):
        return result
    if isinstance(result, list) and all(isinstance(row, dict) for row in result):
        keys = list(result[0]) if result else []
        if classes:
            by_name = {str(key): key for key in keys}
            keys = [by_name[each] for each in classes if each in by_name]
        scores = np.array([[row[key] for key in keys] for row in result], np.float32)
        return scores.reshape(len(result), len(keys) or len(classes))
    raise InvalidOutput(f"output '{name}' is a {type(result).__name__}, which is not a tensor")


def _from_ort_value(name: str, value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        return _to_array(name, value.numpy())
    shape = value.shape()
    count = int(np.prod(shape))
    memory = (ctypes.c_uint16 * count).from_address(value.data_ptr()) if count else ()
    return (np.array(memory, np.uint32).reshape(shape) << 16).view(np.float32)


def _error_reason(error: Exception) -> str:
    """Return the runtime's message as one line, without its prefix."""
    text = re.sub(r"\s+", " ", re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)))
    return text.removesuffix(" Please fix either the inputs/outputs or the model.").strip()
