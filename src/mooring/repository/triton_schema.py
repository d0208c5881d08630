"""Every key of Triton's model configuration, and what it does here: the one table that all who read one go by.

A key is *served* as Triton means it, only *tunes* what has no counterpart here (it may stay, and doctor says so), or is
*refused* by name, because the model would give other answers without it. The keys inside a message that tunes are
known, so that a typing error in them is found, and tune as well.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """Whether a key is served, only tunes, or is refused."""

    SERVED = "served"
    TUNES = "tunes"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a message. ``type`` is a scalar of protobuf, an enum of ``ENUMS`` or a message of ``MESSAGES``.

    ``note`` says what the key does here, or why it does nothing or is refused. ``keyed`` is the type of the keys of a
    map. Of the keys of a message with the same ``choice`` only one may be set. A refused key may be set to
    what protobuf takes it for where it is left out; a message may not be there at all.
    """

    type: str
    verdict: Verdict
    note: str = ""
    many: bool = False
    keyed: str = ""
    choice: str = ""


SCALARS = frozenset({"bool", "int32", "int64", "uint32", "uint64", "float", "string"})


def _served(kind: str, note: str = "", *, many: bool = False, keyed: str = "", choice: str = "") -> Key:
    return Key(kind, Verdict.SERVED, note, many, keyed, choice)


def _tunes(kind: str, note: str = "", *, many: bool = False, keyed: str = "", choice: str = "") -> Key:
    return Key(kind, Verdict.TUNES, note, many, keyed, choice)


def _refused(kind: str, note: str, *, many: bool = False, choice: str = "") -> Key:
    return Key(kind, Verdict.REFUSED, note, many, "", choice)


ENUMS: Mapping[str, tuple[str, ...]] = {
    "DataType": (
        "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8",
        "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16",
    ),
    "ModelInput.Format": ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"),
    "BatchInput.Kind": (
        "BATCH_ELEMENT_COUNT", "BATCH_ACCUMULATED_ELEMENT_COUNT", "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
        "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE", "BATCH_ITEM_SHAPE", "BATCH_ITEM_SHAPE_FLATTEN",
    ),
    "BatchOutput.Kind": ("BATCH_SCATTER_WITH_INPUT_SHAPE",),
    "ModelOptimizationPolicy.ModelPriority": ("PRIORITY_DEFAULT", "PRIORITY_MAX", "PRIORITY_MIN"),
    "ModelQueuePolicy.TimeoutAction": ("REJECT", "DELAY"),
    "ModelSequenceBatching.Control.Kind": (
        "CONTROL_SEQUENCE_START", "CONTROL_SEQUENCE_READY", "CONTROL_SEQUENCE_END", "CONTROL_SEQUENCE_CORRID",
    ),
    "ModelInstanceGroup.Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
    "ModelInstanceGroup.SecondaryDevice.SecondaryDeviceKind": ("KIND_NVDLA",),
}  # fmt: skip

_SHAPE_TENSOR = "only TensorRT has shape tensors; leave the line out, and the tensor is an ordinary one"
_LINEAR = "only TensorRT has formats that are not linear; leave the line out"
_RAGGED = (
    "Triton joins requests of different lengths end to end, which is not done here; leave the line out where the model "
    "takes each request by itself"
)
_BATCHED = "the server makes no inputs of a batch's lengths"

MESSAGES: Mapping[str, Mapping[str, Key]] = {
    "ModelConfig": {
        "name": _served("string", "the model's name"),
        "platform": _served("string", "what kind of model it is"),
        "backend": _served("string", "the same as `platform`, and takes precedence"),
        "runtime": _tunes("string", "a library of Triton's"),
        "version_policy": _served(
            "ModelVersionPolicy", "which versions are served; the latest where it is left out"
        ),
        "max_batch_size": _served(
            "int32", "rows of a call at most; above 0 every shape has a batch dimension in front"
        ),
        "input": _served("ModelInput", "an input", many=True),
        "output": _served("ModelOutput", "an output", many=True),
        "batch_input": _refused("BatchInput", _BATCHED, many=True),
        "batch_output": _refused("BatchOutput", _BATCHED, many=True),
        "optimization": _tunes("ModelOptimizationPolicy", "how Triton's backends run the model"),
        "dynamic_batching": _served(
            "ModelDynamicBatching", "requests wait in a queue and are joined", choice="scheduling_choice"
        ),
        "sequence_batching": _served(
            "ModelSequenceBatching",
            "the model keeps state from request to request",
            choice="scheduling_choice",
        ),
        "ensemble_scheduling": _served(
            "ModelEnsembling", "other models answer, each its step", choice="scheduling_choice"
        ),
        "instance_group": _served(
            "ModelInstanceGroup", "the workers of the model, all groups together", many=True
        ),
        "default_model_filename": _served("string", "the model's file"),
        "cc_model_filenames": _tunes("string", "chooses a file by the kind of GPU", keyed="string"),
        "metric_tags": _tunes("string", "tags of Triton's metrics", keyed="string"),
        "parameters": _served("ModelParameter", "parameters of the model, as texts", keyed="string"),
        "model_warmup": _served("ModelWarmup", "a request that a worker runs before it is ready", many=True),
        "model_operations": _refused("ModelOperations", "libraries of operators are not loaded"),
        "model_transaction_policy": _served("ModelTransactionPolicy", "how many responses a request has"),
        "model_repository_agents": _refused(
            "ModelRepositoryAgents", "agents, which check or decrypt a model's files, are not run"
        ),
        "response_cache": _served("ModelResponseCache", "whether answers are kept for equal requests"),
        "model_metrics": _tunes("ModelMetrics", "buckets of Triton's metrics"),
    },
    "ModelVersionPolicy": {
        "latest": _served("ModelVersionPolicy.Latest", "the highest ones", choice="policy_choice"),
        "all": _served("ModelVersionPolicy.All", "every one", choice="policy_choice"),
        "specific": _served("ModelVersionPolicy.Specific", "those named", choice="policy_choice"),
    },
    "ModelVersionPolicy.Latest": {"num_versions": _served("uint32", "how many of them; 1")},
    "ModelVersionPolicy.All": {},
    "ModelVersionPolicy.Specific": {"versions": _served("int64", "their numbers", many=True)},
    "ModelInput": {
        "name": _served("string", "its name"),
        "data_type": _served("DataType", "its type"),
        "format": _tunes("ModelInput.Format", "names the layout of an image; no layout is changed"),
        "dims": _served(
            "int64", "its shape without the batch dimension, -1 for any size, `[ ]` for a scalar", many=True
        ),
        "reshape": _served("ModelTensorReshape", "the shape that the model gets it in"),
        "is_shape_tensor": _refused("bool", _SHAPE_TENSOR),
        "allow_ragged_batch": _refused("bool", _RAGGED),
        "optional": _served(
            "bool", "a request may leave it out; requests with different sets of inputs do not share a call"
        ),
        "is_non_linear_format_io": _refused("bool", _LINEAR),
    },
    "ModelOutput": {
        "name": _served("string", "its name"),
        "data_type": _served("DataType", "its type"),
        "dims": _served("int64", "its shape, as of an input", many=True),
        "reshape": _served("ModelTensorReshape", "the shape that the model gives it in"),
        "label_filename": _served("string", "the file with the names of its classes, one a line"),
        "is_shape_tensor": _refused("bool", _SHAPE_TENSOR),
        "is_non_linear_format_io": _refused("bool", _LINEAR),
    },
    "ModelTensorReshape": {
        "shape": _served(
            "int64",
            "of as many elements as `dims`, without the batch dimension; `[ ]` is a scalar",
            many=True,
        )
    },
    "BatchInput": {
        "kind": _tunes("BatchInput.Kind"),
        "target_name": _tunes("string", many=True),
        "data_type": _tunes("DataType"),
        "source_input": _tunes("string", many=True),
    },
    "BatchOutput": {
        "target_name": _tunes("string", many=True),
        "kind": _tunes("BatchOutput.Kind"),
        "source_input": _tunes("string", many=True),
    },
    "ModelOptimizationPolicy": {
        "graph": _tunes("ModelOptimizationPolicy.Graph"),
        "priority": _tunes("ModelOptimizationPolicy.ModelPriority"),
        "cuda": _tunes("ModelOptimizationPolicy.Cuda"),
        "execution_accelerators": _tunes("ModelOptimizationPolicy.ExecutionAccelerators"),
        "input_pinned_memory": _tunes("ModelOptimizationPolicy.PinnedMemoryBuffer"),
        "output_pinned_memory": _tunes("ModelOptimizationPolicy.PinnedMemoryBuffer"),
        "gather_kernel_buffer_threshold": _tunes("uint32"),
        "eager_batching": _tunes("bool"),
    },
    "ModelOptimizationPolicy.Graph": {"level": _tunes("int32")},
    "ModelOptimizationPolicy.Cuda": {
        "graphs": _tunes("bool"),
        "busy_wait_events": _tunes("bool"),
        "graph_spec": _tunes("ModelOptimizationPolicy.Cuda.GraphSpec", many=True),
        "output_copy_stream": _tunes("bool"),
    },
    "ModelOptimizationPolicy.Cuda.GraphSpec": {
        "batch_size": _tunes("int32"),
        "input": _tunes("ModelOptimizationPolicy.Cuda.GraphSpec.Shape", keyed="string"),
        "graph_lower_bound": _tunes("ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound"),
    },
    "ModelOptimizationPolicy.Cuda.GraphSpec.Shape": {"dim": _tunes("int64", many=True)},
    "ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound": {
        "batch_size": _tunes("int32"),
        "input": _tunes("ModelOptimizationPolicy.Cuda.GraphSpec.Shape", keyed="string"),
    },
    "ModelOptimizationPolicy.ExecutionAccelerators": {
        "gpu_execution_accelerator": _tunes(
            "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator", many=True
        ),
        "cpu_execution_accelerator": _tunes(
            "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator", many=True
        ),
    },
    "ModelOptimizationPolicy.ExecutionAccelerators.Accelerator": {
        "name": _tunes("string"),
        "parameters": _tunes("string", keyed="string"),
    },
    "ModelOptimizationPolicy.PinnedMemoryBuffer": {"enable": _tunes("bool")},
    "ModelDynamicBatching": {
        "preferred_batch_size": _tunes(
            "int32", "waiting requests are spread over idle workers instead", many=True
        ),
        "max_queue_delay_microseconds": _served(
            "uint64", "how long the oldest request may wait for a larger batch"
        ),
        "preserve_ordering": _served("bool", "answers are given in the order in which the requests came"),
        "priority_levels": _served("uint64", "how many priorities there are; 1 is served first"),
        "default_priority_level": _served(
            "uint64", "the priority of requests that name none, or one that there is not"
        ),
        "default_queue_policy": _served("ModelQueuePolicy", "which requests may wait, and how long"),
        "priority_queue_policy": _served("ModelQueuePolicy", "the same for one priority", keyed="uint64"),
    },
    "ModelQueuePolicy": {
        "timeout_action": _served(
            "ModelQueuePolicy.TimeoutAction",
            "what happens to a request that has waited too long: REJECT answers 503, DELAY serves all others before it",
        ),
        "default_timeout_microseconds": _served(
            "uint64", "how long a request may wait for a worker; 0 is for ever"
        ),
        "allow_timeout_override": _tunes("bool", "a request's own `timeout` always counts here"),
        "max_queue_size": _served(
            "uint32", "how many requests may wait, of each priority; 0 is the server's `queue_size`"
        ),
    },
    "ModelSequenceBatching": {
        "direct": _served(
            "ModelSequenceBatching.StrategyDirect",
            "every sequence has a row of its worker's batch; what holds where no strategy is named",
            choice="strategy_choice",
        ),
        "oldest": _served(
            "ModelSequenceBatching.StrategyOldest", "sequences share calls", choice="strategy_choice"
        ),
        "max_sequence_idle_microseconds": _served(
            "uint64", "how long a sequence may be idle before it ends; a second"
        ),
        "control_input": _served(
            "ModelSequenceBatching.ControlInput", "an input that the server fills", many=True
        ),
        "state": _served(
            "ModelSequenceBatching.State", "a tensor that the server keeps of every sequence", many=True
        ),
        "iterative_sequence": _served(
            "bool", "a request is a sequence by itself: a `TritonPythonModel` may have it called again"
        ),
        "generative_sequence": _served("bool", "the older name of `iterative_sequence`"),
    },
    "ModelSequenceBatching.StrategyDirect": {
        "max_queue_delay_microseconds": _served(
            "uint64", "how long the oldest step may wait for those of other rows"
        ),
        "minimum_slot_utilization": _served(
            "float", "the part of the rows that needs a step for not waiting"
        ),
    },
    "ModelSequenceBatching.StrategyOldest": {
        "max_candidate_sequences": _served("int32", "sequences that one worker has at a time; others wait"),
        "preferred_batch_size": _served("int32", "steps of a call that leave without waiting", many=True),
        "max_queue_delay_microseconds": _served(
            "uint64", "how long the oldest step may wait for a larger batch"
        ),
        "preserve_ordering": _served("bool", "a worker answers the steps of its calls in their order anyway"),
    },
    "ModelSequenceBatching.ControlInput": {
        "name": _served("string", "its name"),
        "control": _served("ModelSequenceBatching.Control", "what it signals", many=True),
    },
    "ModelSequenceBatching.Control": {
        "kind": _served("ModelSequenceBatching.Control.Kind", "start, end, ready, or the sequence's id"),
        "int32_false_true": _served("int32", "the numbers for no and yes", many=True),
        "fp32_false_true": _served("float", "the numbers for no and yes", many=True),
        "bool_false_true": _served("bool", "the values for no and yes", many=True),
        "data_type": _served("DataType", "the type of the sequence's id"),
    },
    "ModelSequenceBatching.State": {
        "input_name": _served("string", "the input that a step gets it in"),
        "output_name": _served("string", "the output that has it for the next step"),
        "data_type": _served("DataType", "its type"),
        "dims": _served("int64", "its shape without the batch dimension, -1 for any size", many=True),
        "initial_state": _served(
            "ModelSequenceBatching.InitialState", "what the first step gets; zeros", many=True
        ),
        "use_same_buffer_for_input_output": _tunes("bool", "how memory is used on a GPU"),
        "use_growable_memory": _tunes("bool", "how memory is used on a GPU"),
    },
    "ModelSequenceBatching.InitialState": {
        "data_type": _served("DataType", "that of the state"),
        "dims": _served("int64", "its shape, without open sizes", many=True),
        "zero_data": _served("bool", "zeros", choice="state_data"),
        "data_file": _served(
            "string",
            "a file of elements, in the folder `initial_state`, the version's or the model's",
            choice="state_data",
        ),
        "name": _served("string", "its name"),
    },
    "ModelEnsembling": {
        "step": _served("ModelEnsembling.Step", "a model that is asked", many=True),
        "max_inflight_requests": _served(
            "uint32", "how many pieces of a streamed answer are in the steps after it at a time; 16"
        ),
    },
    "ModelEnsembling.Step": {
        "model_name": _served("string", "the model, an ensemble as well"),
        "model_version": _served("int64", "its version; -1 is the default one"),
        "input_map": _served("string", "the ensemble's tensor for each input of the model", keyed="string"),
        "output_map": _served("string", "the ensemble's tensor for each output of the model", keyed="string"),
        "model_namespace": _refused("string", "a server has one name for each model; leave the line out"),
    },
    "ModelInstanceGroup": {
        "name": _tunes("string", "workers have their own names"),
        "kind": _tunes(
            "ModelInstanceGroup.Kind",
            "a worker uses the accelerators that the machine has; a `TritonPythonModel` is told of it",
        ),
        "count": _served("int32", "how many workers; 1"),
        "rate_limiter": _tunes("ModelRateLimiter", "which Triton, too, uses only with --rate-limit"),
        "gpus": _tunes("int32", "a worker uses the accelerators that the machine has", many=True),
        "secondary_devices": _tunes("ModelInstanceGroup.SecondaryDevice", "devices of TensorRT", many=True),
        "profile": _tunes("string", "profiles of TensorRT", many=True),
        "passive": _served("bool", "the group is given no requests, and so has no workers here"),
        "host_policy": _tunes("string", "the cores and memory of a worker are chosen by the system"),
    },
    "ModelInstanceGroup.SecondaryDevice": {
        "kind": _tunes("ModelInstanceGroup.SecondaryDevice.SecondaryDeviceKind"),
        "device_id": _tunes("int64"),
    },
    "ModelRateLimiter": {
        "resources": _tunes("ModelRateLimiter.Resource", many=True),
        "priority": _tunes("uint32"),
    },
    "ModelRateLimiter.Resource": {
        "name": _tunes("string"),
        "global": _tunes("bool"),
        "count": _tunes("uint32"),
    },
    "ModelParameter": {"string_value": _served("string", "the text")},
    "ModelWarmup": {
        "name": _served("string", "its name in error texts"),
        "batch_size": _served("uint32", "above 0, a dimension in front of every shape"),
        "inputs": _served("ModelWarmup.Input", "the inputs by name", keyed="string"),
        "count": _served("uint32", "how many times it is run; 1"),
    },
    "ModelWarmup.Input": {
        "data_type": _served("DataType", "the input's type"),
        "dims": _served("int64", "its shape", many=True),
        "zero_data": _served("bool", "zeros", choice="input_data_type"),
        "random_data": _served("bool", "random numbers", choice="input_data_type"),
        "input_data_file": _served(
            "string",
            "a file of elements, in the folder `warmup`, the version's or the model's",
            choice="input_data_type",
        ),
    },
    "ModelOperations": {"op_library_filename": _tunes("string", many=True)},
    "ModelTransactionPolicy": {
        "decoupled": _served("bool", "a request may have any number of responses, and none")
    },
    "ModelRepositoryAgents": {"agents": _tunes("ModelRepositoryAgents.Agent", many=True)},
    "ModelRepositoryAgents.Agent": {
        "name": _tunes("string"),
        "parameters": _tunes("string", keyed="string"),
    },
    "ModelResponseCache": {
        "enable": _served("bool", "whether they are; within the server's `response_cache_size`")
    },
    "ModelMetrics": {"metric_control": _tunes("ModelMetrics.MetricControl", many=True)},
    "ModelMetrics.MetricControl": {
        "metric_identifier": _tunes("ModelMetrics.MetricControl.MetricIdentifier"),
        "histogram_options": _tunes("ModelMetrics.MetricControl.HistogramOptions", choice="metric_options"),
    },
    "ModelMetrics.MetricControl.MetricIdentifier": {"family": _tunes("string")},
    "ModelMetrics.MetricControl.HistogramOptions": {"buckets": _tunes("float", many=True)},
}


_THREADS = "the threads of a worker are its share of the cores, or what `threads` in config.toml says"
_RUNS_ON_CPU = "a worker uses the accelerators that the machine has"

SERVED_PARAMETERS: Mapping[str, str] = {
    "EXECUTION_ENV_PATH": "the environment, a folder or a tar file, whose interpreter runs the workers of a Python model",
}
PARAMETERS: Mapping[str, str] = {
    "FORCE_CPU_ONLY_INPUT_TENSORS": "inputs are arrays in the memory of the CPU",
    "TRITON_BATCH_STRATEGY_PATH": "batches are made as for every model",
    "intra_op_thread_count": _THREADS,
    "inter_op_thread_count": _THREADS,
    "INTRA_OP_THREAD_COUNT": _THREADS,
    "INTER_OP_THREAD_COUNT": _THREADS,
    "execution_mode": "nodes of an ONNX file run one after the other",
    "enable_mem_arena": "memory is ONNX Runtime's to manage",
    "enable_mem_pattern": "memory is ONNX Runtime's to manage",
    "memory.enable_memory_arena_shrinkage": "memory is ONNX Runtime's to manage",
    "cudnn_conv_algo_search": _RUNS_ON_CPU,
    "gpu_mem_limit": _RUNS_ON_CPU,
    "arena_extend_strategy": _RUNS_ON_CPU,
    "DISABLE_OPTIMIZED_EXECUTION": "`optimize` in config.toml sets it",
    "INFERENCE_MODE": "models run in inference mode anyway",
    "DISABLE_CUDNN": _RUNS_ON_CPU,
    "ENABLE_WEIGHT_SHARING": "workers share the weights anyway",
    "ENABLE_CACHE_CLEANING": "memory is PyTorch's to manage",
}
"""The parameters that Triton's own backends read, and why nothing here does; a model's own code is given them all."""


def documented_keys() -> list[tuple[str, Key]]:
    """List every key that decides something, by its path. Keys inside one that tunes or is refused are left out."""
    return _documented_below("ModelConfig", "")


def _documented_below(message: str, path: str) -> list[tuple[str, Key]]:
    found: list[tuple[str, Key]] = []
    for name, key in MESSAGES[message].items():
        found.append((f"{path}{name}", key))
        if key.verdict is Verdict.SERVED and key.type in MESSAGES:
            found += _documented_below(key.type, f"{path}{name}.")
    return found
