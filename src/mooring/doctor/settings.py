"""TorchServe's config.properties, key by key: the server's own reader is asked what it makes of each."""

import difflib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from mooring.config import TORCHSERVE_DEFAULTS, ConfigError, load_config
from mooring.doctor.findings import Finding, at, change, differs, line_of, runs
from mooring.properties import parse_properties

# Every key of TorchServe 0.12 (contracts: config.properties).
TORCHSERVE_KEYS = frozenset(
    [
        "allowed_urls",
        "async_logging",
        "blacklist_env_vars",
        "certificate_file",
        "cors_allowed_headers",
        "cors_allowed_methods",
        "cors_allowed_origin",
        "cpp_log_config",
        "cpu_launcher_args",
        "cpu_launcher_enable",
        "debug",
        "decode_input_request",
        "default_response_timeout",
        "default_service_handler",
        "default_startup_timeout",
        "default_workers_per_model",
        "disable_system_metrics",
        "disable_token_authorization",
        "enable_envvars_config",
        "enable_grpc_ssl",
        "enable_metrics_api",
        "enable_model_api",
        "grpc_inference_address",
        "grpc_inference_max_connection_age_grace_ms",
        "grpc_inference_max_connection_age_ms",
        "grpc_inference_port",
        "grpc_management_address",
        "grpc_management_max_connection_age_grace_ms",
        "grpc_management_max_connection_age_ms",
        "grpc_management_port",
        "inference_address",
        "initial_distribution_port",
        "initial_worker_port",
        "install_py_dep_per_model",
        "io_ratio",
        "ipex_enable",
        "ipex_gpu_enable",
        "job_queue_size",
        "keystore",
        "keystore_pass",
        "keystore_type",
        "limit_max_image_pixels",
        "load_models",
        "management_address",
        "max_request_size",
        "max_response_size",
        "metric_time_interval",
        "metrics_address",
        "metrics_config",
        "metrics_mode",
        "model_metrics_auto_detect",
        "model_snapshot",
        "model_store",
        "models",
        "netty_client_threads",
        "number_of_gpu",
        "number_of_netty_threads",
        "plugins_path",
        "prefer_direct_buffer",
        "private_key_file",
        "service_envelope",
        "system_metrics_cmd",
        "token_expiration_min",
        "ts_header_key_sequence_end",
        "ts_header_key_sequence_id",
        "ts_header_key_sequence_start",
        "ts_open_inference_protocol",
        "unregister_model_timeout",
        "use_env_allowed_urls",
        "use_native_io",
        "vmargs",
        "workflow_store",
    ]
)

# Keys whose loss changes what callers see, where the server has no use for them -> what to do.
_MISSED = {
    "certificate_file": "put a proxy that ends TLS in front, or give the certificate where the server takes one",
    "cors_allowed_origin": "let the proxy in front answer for other origins",
    "enable_grpc_ssl": "put a proxy that ends TLS in front",
    "keystore": "export the key and the certificate as PEM, and put a proxy that ends TLS in front",
    "plugins_path": "remove the line; do what the plugin did in a handler or in the proxy in front",
    "private_key_file": "put a proxy that ends TLS in front, or give the key where the server takes one",
}
_TOKENS = {
    "disable_token_authorization": "where it is true nobody needs a token, as in TorchServe",
    "token_expiration_min": "how long a token lasts, as in TorchServe",
}
_MODEL_API = "says whether models may be registered; without it that is so where only this machine asks"
_PLUGINS = "plugins are Java code, which is not run here"


class Settings:
    """A config.properties as it stands. Raises ``OSError`` where it cannot be read."""

    def __init__(self, file: Path, shown: str) -> None:
        self.file = file
        self.shown = shown
        self._text = file.read_bytes()[: 1 << 20].decode("utf-8", "replace")
        self.values = parse_properties(self._text)

    @property
    def of_torchserve(self) -> bool:
        """Whether it is for TorchServe and no other Java program."""
        return bool(TORCHSERVE_KEYS & self.values.keys())

    @property
    def installing(self) -> bool:
        """Whether models' requirements are to be installed."""
        return self.values.get("install_py_dep_per_model", "").strip().lower() == "true"

    def stores(self) -> list[Path]:
        """The folders of archives and workflows that it names, where they are there."""
        places = [self.values.get(key, "") for key in ("model_store", "workflow_store")]
        return [self.file.parent / place for place in places if place and (self.file.parent / place).is_dir()]

    def where(self, key: str) -> str:
        """The line of a key."""
        return at(self.shown, line_of(self._text, key, "=: \t"))

    def findings(self) -> Iterator[Finding]:
        """What is to be said of it."""
        honored = 0
        wrong = False
        for key, value in self.values.items():
            if key not in TORCHSERVE_KEYS:
                yield self._unknown(key)
                continue
            effective, fault = has_effect(key, value)
            if fault:
                wrong = True
                yield change(self.where(key), fault, f"give {key} a value that is allowed")
            elif key in _TOKENS:
                yield runs(self.where(key), f"token setting {key} = {value}: {_TOKENS[key]}")
            elif key == "enable_model_api":
                yield differs(self.where(key), f"{key} = {value}: {_MODEL_API}")
            elif effective:
                honored += 1
            else:
                yield self._in_vain(key)
        whole = "" if wrong else _fault(self.file)
        if whole:
            yield change(
                self.where("management_address"), whole, "keep the management address to this machine"
            )
        if not whole and not wrong and "disable_token_authorization" not in self.values:
            yield self._tokens_by_default()
        if honored:
            yield runs(self.shown, f"{honored} of its keys mean the same here")

    def _tokens_by_default(self) -> Finding:
        if load_config({}, {}, self.file, defaults=TORCHSERVE_DEFAULTS).generates_tokens:
            what = "tokens are needed, as in TorchServe, since other machines reach the management address"
            return runs(self.where("management_address"), what)
        what = "no tokens are needed, since only this machine reaches the management address; in TorchServe they are"
        return differs(self.shown, what, "set disable_token_authorization=false to ask for them")

    def _in_vain(self, key: str) -> Finding:
        if key in _MISSED:
            what = _PLUGINS if key == "plugins_path" else f"{key} has no effect here"
            return change(self.where(key), what, _MISSED[key])
        return differs(self.where(key), f"{key} has no effect here", "the line may stay")

    def _unknown(self, key: str) -> Finding:
        close = difflib.get_close_matches(key, TORCHSERVE_KEYS, n=1, cutoff=0.75)
        hint = f"did you mean {close[0]}?" if close else "remove it"
        return differs(self.where(key), f"{key} is no key of TorchServe's, and is ignored by both", hint)


def has_effect(key: str, value: str) -> tuple[bool, str]:
    """Whether the server acts on a key, and what is wrong with its value."""
    # The management address alone is refused beyond loopback for want of this other key.
    content = {"disable_token_authorization": "true", key: value}
    heard: list[str] = []
    with tempfile.TemporaryDirectory(prefix="mooring-doctor-") as folder:
        file = Path(folder, "config.properties")
        file.write_text("".join(f"{name}={_escaped(text)}\n" for name, text in content.items()))
        fault = _fault(file, heard)
    idle = any(key in line.replace(str(file), "") for line in heard)
    return not idle, fault.replace(f"{file}: ", "")


def _fault(file: Path, heard: list[str] | None = None) -> str:
    lines = [] if heard is None else heard
    environ: Mapping[str, str] = {}
    try:
        load_config({}, environ, file, defaults=TORCHSERVE_DEFAULTS, warn=lines.append)
    except ConfigError as error:
        return str(error)
    return ""


def _escaped(value: str) -> str:
    return value.encode("unicode_escape").decode().replace("\\x", "\\u00")
