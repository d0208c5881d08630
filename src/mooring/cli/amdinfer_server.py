"""``mooring amdinfer-server``: the AMD Inference Server's own flags, so that its start commands go on working."""

import sys
from pathlib import Path
from typing import Any

import click

from mooring.cli.launch import drop_unset, greeting_printer, read_config, serve_until_stopped
from mooring.config.settings import Address
from mooring.config.sources.origins import Origins

_REPOSITORY = "/mnt/models"
# What AMD's server takes at most: an image as a list of numbers is many bytes.
_LARGEST = 419_430_400
_PORT = click.IntRange(0, 65_535)


class _AmdCommand(click.Command):
    """Says of a flag it does not know what amdinfer-server says, with its exit status."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            click.echo(f"Error parsing options: {error.format_message()}", err=True)
            raise SystemExit(1) from None


@click.command(
    cls=_AmdCommand,
    # Stray words are ignored, as there.
    context_settings={"help_option_names": ["--help", "-h"], "allow_extra_args": True},
)
@click.option(
    "--model-repository", metavar="PATH", default=_REPOSITORY, show_default=True, help="folder of models"
)
@click.option(
    "--repository-load-existing", is_flag=True, help="load every model of the repository at the start"
)
@click.option(
    "--repository-monitoring",
    is_flag=True,
    help="load what is added and unload what is removed; loads existing",
)
@click.option("--use-polling-watcher", is_flag=True, help="follow the repository by looking again and again")
@click.option("--http-port", type=_PORT, default=8998, show_default=True, help="port for REST and websockets")
@click.option("--grpc-port", type=_PORT, default=50_051, show_default=True, help="port for gRPC")
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="where to listen: this machine alone, or 0.0.0.0 for every address it has (Mooring's own)",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="let anybody who reaches another address load and unload models (Mooring's own)",
)
def amdinfer_server(
    *,
    model_repository: str,
    repository_load_existing: bool,
    repository_monitoring: bool,
    use_polling_watcher: bool,
    http_port: int,
    grpc_port: int,
    address: str,
    insecure: bool,
) -> None:
    """Start as amdinfer-server would, from its flags."""
    there = Path(model_repository).is_dir()
    http = str(Address(address, http_port))
    rpc = str(Address(address, grpc_port))
    everybody = insecure or Address(address).loopback
    flags = {
        "inference_address": http,
        "metrics_address": http,
        # From other machines, management is refused; here it then has a port of its own, as under `serve`.
        "management_address": http if everybody else None,
        "grpc_address": rpc,
        "grpc_management_address": rpc if everybody else None,
        "model_repository": [model_repository] if there else None,
        "repository_load_existing": repository_load_existing or repository_monitoring,
        "repository_monitoring": repository_monitoring and there,
        "repository_polling": use_polling_watcher,
        "insecure": insecure or None,
    }
    # The lines that scripts wait for.
    up = f"gRPC server starting at port {grpc_port}\nHTTP server starting at port {http_port}"
    defaults = {
        "dialect": "amd",
        "show_errors": False,
        "max_request_size": _LARGEST,
        "max_response_size": _LARGEST,
    }
    warnings = [] if there else [f"no model repository at {model_repository}: only workers can be loaded"]
    origins = Origins("mooring amdinfer-server")
    config = read_config(drop_unset(flags), None, warnings, origins, defaults=defaults)
    if not everybody and not config.guards_management:
        warnings.append(
            "models can be loaded and unloaded from this machine only: MOORING_MANAGEMENT_TOKEN=... lets those who"
            " have the token, --insecure everybody"
        )
    ports = {"inference_address": "--http-port", "grpc_address": "--grpc-port"}
    sys.exit(serve_until_stopped(config, warnings, greeting_printer(up), origins, address_flags=ports))
