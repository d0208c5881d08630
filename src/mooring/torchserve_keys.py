"""The keys of TorchServe's config.properties that have no meaning here, and why.

A key is without effect unless its value asks for nothing but what is the case here anyway (``async_logging=false``).
"""

from collections.abc import Mapping

import msgspec

_LOOP = "one event loop serves the connections"
_JAVA = "there is no Java here"
_LOGGING = "the server has one log"
_LAUNCHER = "the CPU launcher is not used: each worker has its share of the cores"
_IPEX = "set TS_IPEX_ENABLE in the server's environment, which handlers see"


class Idle(msgspec.Struct, frozen=True):
    """Why a key is without effect, and the values (in lower case) of which nobody misses anything."""

    why: str
    harmless: tuple[str, ...] = ()


WITHOUT_EFFECT: Mapping[str, Idle] = {
    "async_logging": Idle(_LOGGING, ("false",)),
    "cpp_log_config": Idle(_LOGGING),
    "cpu_launcher_args": Idle(_LAUNCHER),
    "cpu_launcher_enable": Idle(_LAUNCHER, ("false",)),
    "debug": Idle("workers are always started by the server; see log_level", ("false",)),
    "initial_distribution_port": Idle("no model runs under torchrun"),
    "io_ratio": Idle(_LOOP),
    "ipex_enable": Idle(_IPEX, ("false",)),
    "ipex_gpu_enable": Idle("set TS_IPEX_GPU_ENABLE in the server's environment", ("false",)),
    "model_metrics_auto_detect": Idle("metrics that handlers do not declare are always shown", ("true",)),
    "netty_client_threads": Idle(_LOOP),
    "number_of_netty_threads": Idle(_LOOP),
    "plugins_path": Idle("plugins are Java code, which is not run here"),
    "prefer_direct_buffer": Idle(_JAVA, ("false",)),
    "system_metrics_cmd": Idle("the server measures the machine itself"),
    "ts_open_inference_protocol": Idle("the Open Inference Protocol is always served", ("true", "oip")),
    "use_native_io": Idle(_JAVA, ("true",)),
    "vmargs": Idle(_JAVA),
}


def why_idle(key: str, value: str) -> str:
    """Why a key of TorchServe's has no effect here; empty where nothing is missed by it.

    >>> why_idle("async_logging", "true"), why_idle("async_logging", "false")
    ('the server has one log', '')
    """
    idle = WITHOUT_EFFECT.get(key)
    return "" if idle is None or value.strip().lower() in idle.harmless else idle.why
