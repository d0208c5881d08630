"""What commands that ask a server share: which one, with which token, and how a refusal is told."""

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
    """Which server to ask, and how. The last four are files."""

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
    click.option("--url", help=f"the server, as http, https, grpc or grpcs [{_DEFAULT}, {_DEFAULT_GRPC}]"),
)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which server to ask; it gets them as ``server``."""

    @functools.wraps(command)
    def asked(**given: Any) -> Any:
        chosen = {name: given.pop(name) for name in Server._fields}
        return command(**given, server=Server(**chosen))

    for option in _OPTIONS:
        asked = option(asked)
    return asked


@contextmanager
def asking(server: Server) -> Iterator[Any]:
    """A client of the server. What the server, or the user, got wrong is one line and status 1."""
    from mooring.client.sync.client import Client
    from mooring.core.errors import MooringError

    url = server.url
    if url and server.grpc:
        if url.startswith("http"):
            raise click.UsageError(f"--grpc speaks with a grpc:// or grpcs:// URL, not with {url}")
        url = url if "://" in url else f"grpc://{url}"
    try:
        with Client(
            url or (_DEFAULT_GRPC if server.grpc else _DEFAULT),
            timeout=server.timeout,
            token=_token(server.token_file),
            ca=server.ca,
            certificate=server.certificate,
            key=server.key,
        ) as client:
            yield client
    except MooringError as error:
        raise click.ClickException(error.message) from error


def _token(file: str | None) -> str:
    """The token of a file, which may be a key file: its management token may do all; or that of the environment."""
    if file is None:
        return os.environ.get("MOORING_TOKEN", "")
    try:
        text = Path(file).read_text().strip()
        if not text.startswith("{"):
            return text
        keys = json.loads(text)
        found = keys.get("management") or keys.get("inference")
        return str(found["key"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise click.ClickException(f"{file}: no token can be read there") from None
