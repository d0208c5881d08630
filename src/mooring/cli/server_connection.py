"""Options and client of the commands that talk to a running server."""

import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

_DEFAULT = "http://127.0.0.1:8080"
_DEFAULT_GRPC = "grpc://127.0.0.1:7070"


class Server(NamedTuple):
    """The address of a server and how to connect to it. The last four are paths of files."""

    url: str | None
    grpc: bool
    timeout: float
    token_file: str | None
    ca: str
    certificate: str
    key: str


_OPTIONS = (
    click.option("--key", default="", metavar="FILE", help="its key, PEM, if that is not in the same file"),
    click.option(
        "--cert", "certificate", default="", metavar="FILE", help="certificate to show the server, PEM"
    ),
    click.option("--cacert", "ca", default="", metavar="FILE", help="certificates to trust [the machine's]"),
    click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False),
        help="file with the token that the server asks for, or its key_file.json;"
        " a token itself goes into MOORING_TOKEN",
    ),
    click.option("--timeout", default=60.0, show_default=True, metavar="SECONDS", help="how long to wait"),
    click.option("--grpc", is_flag=True, help="speak gRPC"),
    click.option(
        "--url",
        help=f"the server's inference address, as http, https, grpc or grpcs [{_DEFAULT}, {_DEFAULT_GRPC}]",
    ),
)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the connection to a command, which gets them as ``server``."""

    @functools.wraps(command)
    def with_server(**arguments: Any) -> Any:
        connection = {name: arguments.pop(name) for name in Server._fields}
        return command(**arguments, server=Server(**connection))

    for option in _OPTIONS:
        with_server = option(with_server)
    return with_server


@contextmanager
def connect_client(server: Server) -> Iterator[Any]:
    """Return a client of the server. Its errors end the command with one line and status 1."""
    from mooring.client.sync.client import Client
    from mooring.core.errors import ModelNotFound, MooringError

    url = server.url
    if url and server.grpc:
        if url.startswith("http"):
            raise click.UsageError(f"--grpc speaks with a grpc:// or grpcs:// URL, not with {url}")
        url = url if "://" in url else f"grpc://{url}"
    try:
        with Client(
            url or (_DEFAULT_GRPC if server.grpc else _DEFAULT),
            timeout=server.timeout,
            token=_read_token(server.token_file),
            ca=server.ca,
            certificate=server.certificate,
            key=server.key,
        ) as client:
            yield client
    except MooringError as error:
        if isinstance(error, ModelNotFound) and error.message == "Not Found":  # the path and not a model
            raise click.ClickException(
                f"{url or _DEFAULT} does not serve /v2; give --url the server's inference address"
            ) from error
        raise click.ClickException(error.message) from error


def _read_token(file: str | None) -> str:
    """Return the token of a file, or of MOORING_TOKEN. Of a key file it is the management token, which allows all."""
    if file is None:
        return os.environ.get("MOORING_TOKEN", "")
    try:
        text = Path(file).read_text().strip()
        if not text.startswith("{"):
            return text
        keys = json.loads(text)
        entry = keys.get("management") or keys.get("inference")
        return str(entry["key"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise click.ClickException(f"{file}: no token can be read there") from None
