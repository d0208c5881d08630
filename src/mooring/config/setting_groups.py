"""In which group a setting is shown, and what stands for its value: for the help and the guide alike."""

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec

from mooring.config.settings import (
    DEFAULTS,
    KINDS,
    SETTINGS,
    TYPES,
    Address,
    Folder,
    Folders,
    Snapshot,
    encode_snapshot,
    is_secret,
    is_switch,
    to_torchserve_models,
)

USUAL = "Usual"
GROUPS: Mapping[str, tuple[str, ...]] = {
    USUAL: (
        "targets", "host", "port", "default_workers_per_model", "device", "reload", "keep_going", "show_errors",
        "access_log", "log_format", "model_store", "models", "model_repository",
    ),
    "Addresses": (
        "inference_address", "management_address", "metrics_address", "grpc_address", "grpc_management_address",
        "second_inference_address", "second_grpc_address", "root_path", "keep_alive_timeout", "frontends", "deal_connections", "console", "enable_metrics_api", "enable_management_api",
        "enable_repository_api", "enable_model_api", "grpc_max_connection_age", "grpc_max_connection_age_grace",
        "grpc_management_max_connection_age", "grpc_management_max_connection_age_grace",
    ),
    "Protocols": (
        "dialect", "server_name", "json_nan", "ping_format", "failed_prediction_status", "grpc_typed_outputs", "forward_headers",
        "sequence_id_header", "sequence_start_header", "sequence_end_header",
    ),
    "TLS and web pages": (
        "enable_grpc_ssl", "certificate_file", "private_key_file", "keystore", "keystore_pass", "keystore_type",
        "client_ca_file", "trusted_hosts", "cors_allowed_origin", "cors_allowed_methods", "cors_allowed_headers",
    ),
    "Who may do what": (
        "insecure", "token_authorization", "token_expiration_min", "unauthorized_status", "inference_token",
        "inference_token_file", "management_token", "management_token_file", "protect_metrics", "allowed_urls",
        "use_env_allowed_urls",
    ),
    "Models": (
        "repository_load_existing", "startup_models", "repository_monitoring", "repository_polling", "workflow_store",
        "require_models", "exit_on_error", "strict_readiness", "model_settings", "model_snapshot", "snapshot_folder",
        "default_service_handler", "service_envelope", "decode_input_request", "limit_max_image_pixels",
        "install_py_dep_per_model", "cache_folder",
    ),
    "Workers": (
        "number_of_gpu", "max_worker_processes", "scale_to_zero_processes", "scale_to_zero_memory",
        "target_queue_ms", "scaling_window", "scaling_cool_down",
        "max_requests_per_worker", "worker_memory_limit", "heartbeat_timeout", "default_startup_timeout",
        "blacklist_env_vars", "initial_worker_port",
    ),
    "Requests and answers": (
        "default_response_timeout", "job_queue_size", "exact_batch_delay", "max_request_size", "max_tensor_request_size",
        "max_response_size", "grpc_max_message_size", "grpc_max_request_size", "min_body_rate", "body_time_limit",
        "max_body_memory", "arena_size", "codec_processes", "response_cache_size",
    ),
    "Log and metrics": (
        "log_level", "log_file", "log_folder", "log_config", "vmargs", "metrics_mode", "metrics_config", "metrics_folder",
        "metric_time_interval", "disable_system_metrics", "server_timing",
    ),
    "Cluster": (
        "cluster", "cluster_name", "cluster_nodes", "cluster_state", "cluster_dir", "cluster_files_size", "cluster_idle_timeout",
        "cluster_socket",
    ),
    "Start and end": (
        "drain_timeout", "pre_stop_delay", "unregister_model_timeout", "temporary_folder", "enable_envvars_config",
    ),
}  # fmt: skip
"""The groups in the order in which they are shown, the settings of each in theirs. Every setting is in one of them."""

_WORDS: Mapping[str, str] = {
    "targets": "TARGET",
    "host": "HOST",
    "port": "PORT",
    "device": "cpu|gpu|0,1",
    "models": "all|ARCHIVE",
    "startup_models": "MODEL",
    "root_path": "PATH",
    "server_name": "NAME",
    "default_service_handler": "HANDLER",
    "keystore_type": "TYPE",
    "vmargs": "ARGUMENTS",
    "model_settings": "JSON",
    "model_snapshot": "JSON",
    "allowed_urls": "EXPRESSION",
    "blacklist_env_vars": "EXPRESSION",
    "forward_headers": "EXPRESSION",
    "trusted_hosts": "HOST",
    "cluster": "auto|HOST:PORT",
    "cluster_name": "NAME",
    "cluster_nodes": "LABEL=TEXT",
    "cluster_state": "FOLDER",
    "cors_allowed_origin": "ORIGIN",
    "cors_allowed_methods": "METHOD",
    "cors_allowed_headers": "HEADER",
}
# How the description of a number begins -> its unit.
_UNITS: Mapping[str, str] = {
    "seconds": "SECONDS",
    "the same age": "SECONDS",
    "the same grace": "SECONDS",
    "minutes": "MINUTES",
    "bytes": "BYTES",
    "how many bytes": "BYTES",
}
_FILES = ("_file", "_config", "keystore")


def word_of(name: str) -> str:
    """Return what stands for a setting's value: the choices, or what it is in capitals.

    >>> word_of("log_level"), word_of("drain_timeout"), word_of("port")
    ('debug|info|warning|error', 'SECONDS', 'PORT')
    """
    kind = KINDS[name]
    if is_secret(name):
        return "SECRET"
    if name in _WORDS:
        return _WORDS[name]
    if is_switch(name):
        return "on|off"
    if choices_of(name):
        return "|".join(filter(None, choices_of(name)))
    if kind in (Address, Address | None):
        return "HOST:PORT" if name.startswith("grpc") else "URL"
    if kind in (Folder, Folders):
        return "FILE" if name.endswith(_FILES) else "FOLDER"
    if name.endswith("_header"):
        return "HEADER"
    unit = next((unit for words, unit in _UNITS.items() if SETTINGS[name].startswith(words)), "")
    return unit or "NUMBER"


def choices_of(name: str) -> tuple[str, ...]:
    """Return the words or numbers that a setting may be; empty where it may be any of its type."""
    kind = TYPES[name].__origin__ if hasattr(TYPES[name], "__origin__") else TYPES[name]
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


def text_of(name: str, value: Any) -> str:
    """Return a setting's value as people write it; empty where it is not set. A secret is not shown.

    >>> text_of("console", True), text_of("models", ("a", "b")), text_of("drain_timeout", 30.0)
    ('true', 'a,b', '30')
    """
    if is_secret(name):
        return "set, hidden" if value and value != getattr(DEFAULTS, name) else ""
    if value is None or value in ((), {}):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, Address) and name.startswith("grpc"):  # named without a scheme
        return str(value).removeprefix("http://")
    if isinstance(value, Snapshot):
        return encode_snapshot(value)
    if isinstance(value, dict):
        return msgspec.json.encode(to_torchserve_models(value)).decode()
    return str(value)
