"""Parts of TorchServe's ``ts`` package that are not here. They can be imported, and say why when they are used."""

import sys
from typing import Any, NoReturn

_OWN_SERVER = (
    "is a part of TorchServe's own worker process, and Mooring has its own; to call a handler outside of a server use "
    "ts.model_loader"
)
_PIPPY = (
    "needs the pipeline drivers of PiPPy, which PyTorch has replaced with torch.distributed.pipelining; call that from a "
    "handler of your own, with parallelType: pp in model-config.yaml"
)
_NEURON = "needs AWS Neuron, and Mooring does not serve its accelerators"
_ENGINE = "which Mooring does not run; a handler of your own may call {} itself"

REASONS = {
    "ts.arg_parser": _OWN_SERVER,
    "ts.async_service": _OWN_SERVER,
    "ts.handler_utils.distributed.pt_pippy": _PIPPY,
    "ts.llm_launcher": f"starts a server for vLLM or TensorRT-LLM, {_ENGINE.format('them')}",
    "ts.model_service_worker": _OWN_SERVER,
    "ts.torch_handler.distributed.base_neuronx_continuous_batching_handler": _NEURON,
    "ts.torch_handler.distributed.base_neuronx_microbatching_handler": _NEURON,
    "ts.torch_handler.distributed.base_pippy_handler": _PIPPY,
    "ts.torch_handler.trt_llm_handler": f"needs the engine of TensorRT-LLM, {_ENGINE.format('it')}",
    "ts.torch_handler.vllm_handler": f"needs the engine of vLLM, {_ENGINE.format('it')}",
}
"""Why a module is not here, as the end of a sentence that begins with its name."""


class _Absent:
    """A class of one of these modules. Raises ``NotImplementedError`` when an object of it is made."""

    module = ""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise NotImplementedError(f"{self.module} {REASONS[self.module]}")


class ArgParser(_Absent):
    module = "ts.arg_parser"


class AsyncService(_Absent):
    module = "ts.async_service"


class TorchModelServiceWorker(_Absent):
    module = "ts.model_service_worker"


class BasePippyHandler(_Absent):
    module = "ts.torch_handler.distributed.base_pippy_handler"


class BaseNeuronXContinuousBatchingHandler(_Absent):
    module = "ts.torch_handler.distributed.base_neuronx_continuous_batching_handler"


class BaseNeuronXMicroBatchingHandler(_Absent):
    module = "ts.torch_handler.distributed.base_neuronx_microbatching_handler"


class TRTLLMHandler(_Absent):
    module = "ts.torch_handler.trt_llm_handler"


class VLLMHandler(_Absent):
    module = "ts.torch_handler.vllm_handler"


def initialize_rpc_workers(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise NotImplementedError(f"ts.handler_utils.distributed.pt_pippy {_PIPPY}")


def get_pipeline_driver(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise NotImplementedError(f"ts.handler_utils.distributed.pt_pippy {_PIPPY}")


def launch_llm(*_args: Any) -> NoReturn:
    """Say why ``python -m ts.llm_launcher`` starts nothing here, and end with status 1."""
    sys.exit(f"ts.llm_launcher {REASONS['ts.llm_launcher']}")
