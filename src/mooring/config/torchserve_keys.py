"""The keys of TorchServe's config.properties: what each sets here, or why it sets nothing.

A key is without effect unless its value asks for nothing but what is the case here anyway (``async_logging=false``).
"""

from collections.abc import Mapping

import msgspec

# TorchServe's key -> our setting, where the two mean the same.
SAME: Mapping[str, str] = {
    "inference_address": "inference_address",
    "management_address": "management_address",
    "metrics_address": "metrics_address",
    "enable_metrics_api": "enable_metrics_api",
    "metrics_mode": "metrics_mode",
    "metrics_config": "metrics_config",
    "metric_time_interval": "metric_time_interval",
    "disable_system_metrics": "disable_system_metrics",
    "model_store": "model_store",
    "workflow_store": "workflow_store",
    "load_models": "models",
    "models": "model_settings",
    "default_workers_per_model": "default_workers_per_model",
    "default_response_timeout": "default_response_timeout",
    "default_startup_timeout": "default_startup_timeout",
    "unregister_model_timeout": "unregister_model_timeout",
    "job_queue_size": "job_queue_size",
    "max_request_size": "max_request_size",
    "max_response_size": "max_response_size",
    "decode_input_request": "decode_input_request",
    "limit_max_image_pixels": "limit_max_image_pixels",
    "service_envelope": "service_envelope",
    "default_service_handler": "default_service_handler",
    "blacklist_env_vars": "blacklist_env_vars",
    "number_of_gpu": "number_of_gpu",
    "initial_worker_port": "initial_worker_port",
    "ts_header_key_sequence_id": "sequence_id_header",
    "ts_header_key_sequence_start": "sequence_start_header",
    "ts_header_key_sequence_end": "sequence_end_header",
    "install_py_dep_per_model": "install_py_dep_per_model",
    "allowed_urls": "allowed_urls",
    "use_env_allowed_urls": "use_env_allowed_urls",
    "enable_envvars_config": "enable_envvars_config",
    "model_snapshot": "model_snapshot",
    "enable_model_api": "enable_model_api",
    "disable_token_authorization": "insecure",
    "token_expiration_min": "token_expiration_min",
    "enable_grpc_ssl": "enable_grpc_ssl",
    "certificate_file": "certificate_file",
    "private_key_file": "private_key_file",
    "keystore": "keystore",
    "keystore_pass": "keystore_pass",
    "keystore_type": "keystore_type",
    "cors_allowed_origin": "cors_allowed_origin",
    "cors_allowed_methods": "cors_allowed_methods",
    "cors_allowed_headers": "cors_allowed_headers",
}
# Host and port have a key each -> our setting.
ADDRESSES: Mapping[tuple[str, str], str] = {
    ("grpc_inference_address", "grpc_inference_port"): "grpc_address",
    ("grpc_management_address", "grpc_management_port"): "grpc_management_address",
}


# Milliseconds there -> our setting in seconds.
MILLISECONDS: Mapping[str, str] = {
    "grpc_inference_max_connection_age_ms": "grpc_max_connection_age",
    "grpc_inference_max_connection_age_grace_ms": "grpc_max_connection_age_grace",
    "grpc_management_max_connection_age_ms": "grpc_management_max_connection_age",
    "grpc_management_max_connection_age_grace_ms": "grpc_management_max_connection_age_grace",
}

_LOOP = "one event loop serves the connections"
_JAVA = "there is no Java here"
_LOGGING = "the server has one log"
_LAUNCHER = "the CPU launcher is not used: each worker has its share of the cores"
_IPEX = "set TS_IPEX_ENABLE in the server's environment, which handlers see"


class UnusedKey(msgspec.Struct, frozen=True):
    """Why a key has no effect, and the values (in lower case) with which nothing is missed."""

    why: str
    harmless: tuple[str, ...] = ()


WITHOUT_EFFECT: Mapping[str, UnusedKey] = {
    "async_logging": UnusedKey(_LOGGING, ("false",)),
    "cpp_log_config": UnusedKey(_LOGGING),
    "cpu_launcher_args": UnusedKey(_LAUNCHER),
    "cpu_launcher_enable": UnusedKey(_LAUNCHER, ("false",)),
    "debug": UnusedKey("workers are always started by the server; see log_level", ("false",)),
    "initial_distribution_port": UnusedKey("a parallel group takes a free port, or torchrun's master-port"),
    "io_ratio": UnusedKey(_LOOP),
    "ipex_enable": UnusedKey(_IPEX, ("false",)),
    "ipex_gpu_enable": UnusedKey("set TS_IPEX_GPU_ENABLE in the server's environment", ("false",)),
    "model_metrics_auto_detect": UnusedKey(
        "metrics that handlers do not declare are always shown", ("true",)
    ),
    "netty_client_threads": UnusedKey(_LOOP),
    "number_of_netty_threads": UnusedKey(_LOOP),
    "plugins_path": UnusedKey("plugins are Java code, which is not run here"),
    "prefer_direct_buffer": UnusedKey(_JAVA, ("false",)),
    "system_metrics_cmd": UnusedKey("the server measures the machine itself"),
    "ts_open_inference_protocol": UnusedKey("the Open Inference Protocol is always served", ("true", "oip")),
    "use_native_io": UnusedKey(_JAVA, ("true",)),
    "vmargs": UnusedKey(_JAVA),
}


def no_effect_reason(key: str, value: str) -> str:
    """Say why a key of TorchServe's has no effect here; empty where nothing is missed.

    >>> no_effect_reason("async_logging", "true"), no_effect_reason("async_logging", "false")
    ('the server has one log', '')
    """
    if key == "vmargs" and all(word.startswith("-D") for word in value.split()):
        return ""
    idle = WITHOUT_EFFECT.get(key)
    return "" if idle is None or value.strip().lower() in idle.harmless else idle.why


def system_properties(vmargs: str) -> dict[str, str]:
    """Return the properties that arguments for Java set.

    >>> system_properties("-Xmx1g -Dlog4j.configurationFile=file:///log4j2.xml -Dquiet")
    {'log4j.configurationFile': 'file:///log4j2.xml', 'quiet': ''}
    """
    words = [word[2:].partition("=") for word in vmargs.split() if word.startswith("-D")]
    return {name: value for name, _, value in words}


def log_config_file(vmargs: str) -> str:
    """Return the path of the configuration of log4j that arguments for Java name; empty without one."""
    found = system_properties(vmargs)
    for name in ("log4j.configurationFile", "log4j2.configurationFile", "log4j.configuration"):
        if name in found:
            path = found[name].removeprefix("file:")
            return f"/{path.lstrip('/')}" if path.startswith("/") else path
    return ""


# In TorchServe's snapshots, beside the settings.
CONFIG_FILE = "tsConfigFile"
WRITTEN = frozenset({"NUM_WORKERS", CONFIG_FILE})


def known_keys() -> frozenset[str]:
    """Every key of TorchServe's config.properties, also those without effect here."""
    pairs = (key for keys in ADDRESSES for key in keys)
    return frozenset([*SAME, *MILLISECONDS, *pairs, *WITHOUT_EFFECT])


def is_effective(key: str) -> bool:
    """Whether a key of TorchServe's sets something here."""
    return key in known_keys() - WITHOUT_EFFECT.keys()
