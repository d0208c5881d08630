"""``mooring tritonserver``: Triton's own flags, so that its start commands go on working."""

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import click

from mooring.cli.launch import drop_unset, greeting_printer, read_config, serve_until_stopped
from mooring.cli.triton_flags import TRITON_FLAGS, Effect, Flag, Kind
from mooring.config.settings import Address
from mooring.config.sources.origins import Origins

_EVERYWHERE = "0.0.0.0"  # noqa: S104 - Triton's own default
_HTTP, _GRPC, _METRICS = 8000, 8001, 8002
_PORT_FLAGS: Mapping[str, str] = {
    "inference_address": "--http-port",
    "grpc_address": "--grpc-port",
    "metrics_address": "--metrics-port",
}
# Triton bounds neither answers nor, over gRPC, requests.
_LARGEST = 1_073_741_824
# Nor does it bound queues, unless a model's configuration does.
_QUEUE_SIZE = 100_000
_ALL = "*"
_MODES = ("none", "poll", "explicit")
# The least and the greatest number of a flag.
_RANGES: Mapping[str, tuple[int, float]] = {
    "http_port": (0, 65_535),
    "grpc_port": (0, 65_535),
    "metrics_port": (0, 65_535),
    "http_max_input_size": (1, math.inf),
    "exit_timeout_secs": (0, math.inf),
    "response_cache_byte_size": (0, math.inf),
    "grpc_max_connection_age": (0, math.inf),
    "grpc_max_connection_age_grace": (0, math.inf),
}
_CACHE_PREFIX = "local,size="


def _parse_bool(text: str) -> bool:
    """Parse true, false, 1 or 0, in any case."""
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise click.BadParameter(f"expected true or false, got '{text}'")
    return known[text.lower()]


_TYPES: Mapping[Kind, Any] = {
    Kind.BOOL: _parse_bool,
    Kind.INTEGER: int,
    Kind.NUMBER: float,
    Kind.TEXT: str,
}


class _TritonCommand(click.Command):
    """Takes beginnings of flags that only one has, as Triton does, and ends with status 1 for a mistake."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            click.echo(f"Error: {error.format_message()}", err=True)
            raise SystemExit(1) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = [option for parameter in self.params for option in parameter.opts]
        return super().parse_args(ctx, [_complete_flag(each, known) for each in args])


def _complete_flag(word: str, known: Sequence[str]) -> str:
    name, equals, value = word.partition("=")
    if not name.startswith("--") or name in known:
        return word
    found = [each for each in known if each.startswith(name)]
    return f"{found[0]}{equals}{value}" if len(found) == 1 else word


def _option(flag: Flag) -> Any:
    name = flag.name.replace("-", "_")
    if flag.kind is Kind.SWITCH:
        return click.option(f"--{flag.name}", name, is_flag=True, default=None, help=flag.text)
    return click.option(
        f"--{flag.name}",
        name,
        type=_TYPES[flag.kind],
        multiple=flag.repeatable,
        default=None,
        metavar="true|false" if flag.kind is Kind.BOOL else None,
        help=flag.text,
    )


def _triton_options(command: Any) -> Any:
    for flag in reversed(TRITON_FLAGS):
        command = _option(flag)(command)
    return command


@click.command(cls=_TritonCommand, context_settings={"help_option_names": ["--help", "-h"]})
@_triton_options
@click.option(
    "--insecure",
    is_flag=True,
    help="let anybody who reaches the addresses load models and name shared memory (Mooring's own)",
)
def tritonserver(*, insecure: bool, **values: Any) -> NoReturn:
    """Start as tritonserver would, from its flags."""
    given = drop_unset(values)
    warnings = _check_flags(given)
    _check_numbers(given)
    with ExitStack() as stack:
        flags, defaults = (
            _read_addresses(given, stack),
            {"dialect": "triton", "enable_management_api": False, "show_errors": False},
        )
        flags |= _read_models(given) | _read_tls(given) | _read_limits(given) | _read_log(given)
        flags["insecure"] = insecure or None
        defaults |= {
            "max_request_size": given.get("http_max_input_size", _LARGEST),
            "max_tensor_request_size": given.get("http_max_input_size", _LARGEST),
            "max_response_size": _LARGEST,
            "response_cache_size": _cache_size(given),
            "job_queue_size": _QUEUE_SIZE,
        }
        origins = Origins("mooring tritonserver")
        config = read_config(drop_unset(flags), None, warnings, origins, defaults=defaults)
        # Triton's own lines, for which scripts wait.
        services = {
            "GRPCInferenceService": config.grpc_address if given.get("allow_grpc", True) else None,
            "HTTPService": config.inference_address if given.get("allow_http", True) else None,
            "Metrics Service": config.metrics_address if config.enable_metrics_api else None,
        }
        lines = [
            f"Started {name} at {_place(where)}" for name, where in services.items() if where is not None
        ]
        up = greeting_printer("\n".join(lines) or "Mooring is up.")
        sys.exit(serve_until_stopped(config, warnings, up, origins, address_flags=_PORT_FLAGS))


def _place(address: Address) -> str:
    return str(address).removeprefix("http://").removeprefix("https://")


def _check_flags(given: Mapping[str, Any]) -> list[str]:
    """Return a line for each flag without effect. Raises ``ClickException`` for one that is refused."""
    warnings = []
    for flag in TRITON_FLAGS:
        value = given.get(flag.name.replace("-", "_"))
        if value is None:
            continue
        if flag.effect is Effect.REFUSED and value is not False:
            raise click.ClickException(f"--{flag.name} is refused: {flag.note}")
        if flag.effect is Effect.NONE:
            warnings.append(f"--{flag.name} is without effect: {flag.note}")
    return warnings


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Raise ``ClickException``, which names Triton's flag, for a number out of its range."""
    for name, (least, most) in _RANGES.items():
        value = given.get(name)
        if value is not None and not least <= value <= most:
            flag = name.replace("_", "-")
            at_most = f" to {most}" if most != math.inf else ""
            raise click.ClickException(
                f"--{flag}: expected a whole number from {least}{at_most}, got {value}"
            )


def _read_addresses(given: Mapping[str, Any], stack: ExitStack) -> dict[str, Any]:
    host = given.get("http_address", _EVERYWHERE)
    http = str(Address(host, given.get("http_port", _HTTP)))
    grpc = str(Address(given.get("grpc_address", _EVERYWHERE), given.get("grpc_port", _GRPC)))
    if not given.get("allow_http", True):
        http = _private_socket(stack)
    if not given.get("allow_grpc", True):
        grpc = _private_socket(stack)
    return {
        "inference_address": http,
        "grpc_address": grpc,
        "metrics_address": str(
            Address(given.get("metrics_address", host), given.get("metrics_port", _METRICS))
        ),
        "enable_metrics_api": given.get("allow_metrics"),
        "disable_system_metrics": None if given.get("allow_cpu_metrics", True) else True,
        "server_name": given.get("id"),
        "log_file": given.get("log_file"),
        "forward_headers": _read_header_pattern(given),
    }


def _read_header_pattern(given: Mapping[str, Any]) -> str | None:
    found = [given.get(f"{each}_header_forward_pattern") for each in ("http", "grpc")]
    patterns = list(dict.fromkeys(filter(None, found)))
    if len(patterns) < 2:
        return patterns[0] if patterns else None
    exact = "(?-i)"
    return "|".join(
        f"(?-i:{each.removeprefix(exact)})" if each.startswith(exact) else f"(?:{each})" for each in patterns
    )


def _private_socket(stack: ExitStack) -> str:
    """Return the address of a unix socket in a folder that only this user can enter."""
    return f"unix:{stack.enter_context(tempfile.TemporaryDirectory(prefix='mooring-'))}/socket"


def _read_models(given: Mapping[str, Any]) -> dict[str, Any]:
    repositories = [*given.get("model_repository", ()), *given.get("model_store", ())]
    if not repositories:
        raise click.ClickException("--model-repository must be specified")
    for each in repositories:
        if "://" in each:
            raise click.ClickException(
                f"--model-repository {each}: repositories are folders here; copy it to one, or mount it"
            )
    mode = given.get("model_control_mode", "none").lower()
    if mode not in _MODES:
        raise click.ClickException(
            f"--model-control-mode: expected none, poll or explicit, got '{given['model_control_mode']}'"
        )
    names = list(dict.fromkeys(given.get("load_model", ()))) if mode == "explicit" else []
    if _ALL in names and len(names) > 1:
        raise click.ClickException("--load-model=* loads every model: name no other with it")
    return {
        "model_repository": list(dict.fromkeys(repositories)),
        "repository_load_existing": mode != "explicit" or bool(names),
        "startup_models": [each for each in names if each != _ALL] or None,
        "enable_repository_api": mode == "explicit",
        "repository_monitoring": mode == "poll",
        "repository_polling": mode == "poll",
        "exit_on_error": given.get("exit_on_error", True),
        "strict_readiness": given.get("strict_readiness"),
    }


def _read_tls(given: Mapping[str, Any]) -> dict[str, Any]:
    mutual = given.get("grpc_use_ssl_mutual", False)
    if not (mutual or given.get("grpc_use_ssl", False)):
        return {}
    if mutual and "grpc_root_cert" not in given:
        raise click.ClickException("--grpc-use-ssl-mutual needs --grpc-root-cert, the authorities of clients")
    if not {"grpc_server_cert", "grpc_server_key"} <= given.keys():
        raise click.ClickException("gRPC over TLS needs --grpc-server-cert and --grpc-server-key, PEM")
    return {
        "enable_grpc_ssl": True,
        "certificate_file": given.get("grpc_server_cert"),
        "private_key_file": given.get("grpc_server_key"),
        "client_ca_file": given["grpc_root_cert"] if mutual else None,
    }


def _read_limits(given: Mapping[str, Any]) -> dict[str, Any]:
    age, grace = (given.get(f"grpc_max_connection_age{each}") for each in ("", "_grace"))
    timeout = given.get("exit_timeout_secs")
    return {
        "drain_timeout": None if timeout is None else max(timeout, 0.001),
        "grpc_max_connection_age": None if age is None else age / 1000,
        "grpc_max_connection_age_grace": None if grace is None else grace / 1000,
    }


def _read_log(given: Mapping[str, Any]) -> dict[str, Any]:
    verbose = given.get("log_verbose", "0").lower()
    if verbose not in ("true", "false") and not verbose.isdecimal():
        raise click.ClickException(f"--log-verbose: expected a whole number from 0, got '{verbose}'")
    if verbose == "true" or (verbose.isdecimal() and int(verbose)):
        return {"log_level": "debug"}
    if given.get("log_info", True):
        return {}
    return {"log_level": "warning" if given.get("log_warning", True) else "error"}


def _cache_size(given: Mapping[str, Any]) -> int:
    """Return how many bytes of answers are kept. Raises ``ClickException`` for another cache than the local one."""
    size = int(given.get("response_cache_byte_size", 0))
    if size and given.get("cache_config"):
        raise click.ClickException(
            "--cache-config and --response-cache-byte-size say the same: give one of them"
        )
    for each in given.get("cache_config", ()):
        number = each.removeprefix(_CACHE_PREFIX)
        if number == each or not number.isdecimal():
            raise click.ClickException(f"--cache-config: expected {_CACHE_PREFIX}BYTES, got '{each}'")
        size = int(number)
    return size
