"""The text that a user sees when the server is up: its addresses, its models, and a command to try."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote

import msgspec

from mooring.cli.standard_streams import redirect_to_null, takes_text
from mooring.config.settings import Address, Config
from mooring.core.example_requests import ExampleRequest
from mooring.core.service import ModelState
from mooring.observability.logs import get_logger
from mooring.tokens import KEY_FILE

log = get_logger(__name__)

# Models listed one by one; a store of hundreds would push the addresses off the screen.
_MOST_MODELS = 8


class Shown(msgspec.Struct, frozen=True):
    """What the user has seen before the greeting, which leaves it out then: addresses, models, reasons of those that failed."""

    addresses: bool = False
    models: bool = False
    reasons: bool = False


NOTHING = Shown()


def print_greeting(
    config: Config,
    models: Sequence[ModelState],
    example: ExampleRequest | None,
    *,
    up: str,
    shown: Shown = NOTHING,
) -> None:
    """Print the greeting, in color on a terminal. If stdout cannot be written, it is replaced by the null device.

    Where the log is JSON the greeting is an event of it.
    """
    if config.log_format == "json":
        log_greeting(config, up=up)
        return
    if not takes_text(sys.stdout):
        log.warning("greeting not printed", reason="nobody reads standard output")
        return
    try:
        _print_lines(format_greeting(config, models, example, up=up, shown=shown))
    except OSError as error:  # a full disk, or a reader that has gone
        log.warning("greeting not printed", reason=error.strerror)
        redirect_to_null(sys.stdout)


def log_greeting(config: Config, *, up: str) -> None:
    """Log the greeting with the addresses."""
    log.info(up, detail="", **address_facts(config))


def address_facts(config: Config) -> dict[str, str]:
    """Return the addresses as facts of an event."""
    facts = {
        "inference": config.inference_address,
        "grpc": config.grpc_address,
        "management": config.management_address,
        "grpc_management": config.grpc_management_address,
        **_second_facts(config),
        **({"metrics": config.metrics_address} if config.enable_metrics_api else {}),
        **({"console": console_url(config)} if console_url(config) else {}),
    }
    return {name: str(address) for name, address in facts.items()}


def _second_facts(config: Config) -> dict[str, Address]:
    seconds = {"second_inference": config.second_inference_address, "second_grpc": config.second_grpc_address}
    return {name: address for name, address in seconds.items() if address is not None}


def _print_lines(lines: Sequence[str]) -> None:
    if not sys.stdout.isatty():
        print("\n".join(lines), flush=True)  # noqa: T201 - a command speaks to its user
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(lines[0], style="bold", markup=False)
    console.print("\n".join(lines[1:]), markup=False)


def format_greeting(
    config: Config,
    models: Sequence[ModelState],
    example: ExampleRequest | None,
    *,
    up: str,
    shown: Shown = NOTHING,
) -> list[str]:
    """Return the lines of the greeting. Models that no list has (functions of workflows) are named only where they failed."""
    models = [state for state in models if state.listed or not state.ready]
    lines = [up, *([] if shown.addresses else address_lines(config)), *_token_lines(config)]
    if not models:
        lines.append(f"  no models: {_how_to_load(config)}")
    elif not shown.models:
        lines += (_model_line(state, reason=not shown.reasons) for state in models[:_MOST_MODELS])
        if len(models) > _MOST_MODELS:
            lines.append(f"  and {len(models) - _MOST_MODELS} more models")
    if example is not None:
        lines += ["Try:", *_curl_lines(config, example)]
    return lines


def address_lines(config: Config) -> list[str]:
    """Return a line for each address."""
    return [
        f"  inference   {_both(config.inference_address, config.second_inference_address)}",
        f"  gRPC        {_both(config.grpc_address, config.second_grpc_address, _grpc_text)}",
        *_management_lines(config),
        *([f"  metrics     {config.metrics_address}"] if config.enable_metrics_api else []),
        *([f"  console     {console_url(config)}"] if console_url(config) else []),
    ]


def console_url(config: Config) -> str:
    """Return where a browser on this machine finds the console; empty where it finds none."""
    address = config.inference_address
    return f"{address.reachable}/console" if config.console and not address.path else ""


def _how_to_load(config: Config) -> str:
    """Return how a server without models gets its first one."""
    inference, management = config.inference_address, config.management_address
    if config.model_store is not None and config.enable_management_api and not management.path:
        url = f"{management.reachable}/models?url=ARCHIVE&initial_workers=1"
        return f'register some, as in `curl -X POST "{url}"`'
    if config.model_repository and config.enable_repository_api and not inference.path:
        return f"load some, as in `curl -X POST {inference.reachable}/v2/repository/models/NAME/load`"
    return "name some, as in `mooring serve app.py`; `mooring serve --help` says what else can be served"


def _management_lines(config: Config) -> list[str]:
    if not config.enable_management_api:
        return []
    return [f"  management  {config.management_address}, gRPC {_grpc_text(config.grpc_management_address)}"]


def _token_lines(config: Config) -> list[str]:
    """Return the lines that say where the tokens are; none where no call needs one."""
    if not config.guards_management:
        return []
    fixed = [
        kind
        for kind in ("inference", "management")
        if getattr(config, f"{kind}_token") or getattr(config, f"{kind}_token_file")
    ]
    written = config.generates_tokens and len(fixed) < 2 and Path(KEY_FILE).is_file()
    keys = [f"{Path(KEY_FILE).absolute()}"] if written else []
    if not keys and not fixed:
        return []
    lines = [f"  tokens      {', '.join([*keys, *(f'{kind} fixed' for kind in fixed)])}"]
    if "inference" not in fixed and not config.generates_tokens:
        lines.append("              inference needs none")
    elif keys and config.token_authorization != "on":  # noqa: S105 - a mode, and no password
        demanding = ", ".join(map(str, config.demanding_addresses))
        kind = " to manage models" if config.guards_management_alone else ""
        lines.append(
            f"              needed{kind} at {demanding or 'no address, since only this machine reaches them'}"
        )
    return lines


def _both(address: Address, second: Address | None, text_of: Callable[[Address], str] = str) -> str:
    """Return an address, and the second one where it is another."""
    return " and ".join(map(text_of, dict.fromkeys([address, second or address])))


def _grpc_text(address: Address) -> str:
    """Return an address in the form that gRPC clients take."""
    return str(address).removeprefix("http://").replace("https://", "grpcs://")


def _model_line(state: ModelState, *, reason: bool) -> str:
    why = f": {state.reason}" if reason and state.reason else ""
    how = "ready" if state.ready else f"{state.state.lower()}{why}"
    return " ".join(filter(None, ("  model      ", state.name, state.version, how)))


def _curl_lines(config: Config, example: ExampleRequest) -> list[str]:
    """Return commands for a shell: whether the server is there, and a request that the model can answer."""
    address = config.inference_address
    where = (
        f"--unix-socket {quote(address.path)} http://localhost" if address.path else str(address.reachable)
    )
    if address.secure and config.client_ca_file is not None:
        where = f"--cert CERTIFICATE --key KEY {where}"
    demanded = config.demands_tokens(address) and not config.guards_management_alone
    guarded = demanded or config.inference_token or config.inference_token_file
    token = ' -H "Authorization: Bearer $TOKEN"' if guarded else ""
    if config.dialect != "v2":  # Triton's and AMD's users know /v2, where a model says what it takes
        return [f"  curl {where}/v2/health/ready", f"  curl {where}{example.metadata_path}{token}"]
    ask = f"  curl {where}{example.path}"
    if example.body:
        ask += f' -H "content-type: application/json" -d {quote(example.body)}'
    elif example.file:
        ask += f" -T {example.file}"
    note = f"  # {example.note}" if example.note else ""
    return [f"  curl {where}/ping", f"{ask}{token}{note}"]
