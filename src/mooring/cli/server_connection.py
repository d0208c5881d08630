"""Options and client of the commands that talk to a running server."""

import difflib
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
_MOST_NAMES = 8


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
    from mooring.core.errors import ModelNotFound, MooringError, ServerUnreachable

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
            try:
                yield client
            except ModelNotFound as error:
                raise click.ClickException(error.message + _suggest_model(client, error.model)) from error
    except MooringError as error:
        hint = " (--url names another address)" if isinstance(error, ServerUnreachable) and not url else ""
        raise click.ClickException(error.message + hint) from error


def _suggest_model(client: Any, name: str) -> str:
    """Return what models there are in place of one that is not, as the rest of a sentence."""
    from mooring.core.errors import MooringError

    try:
        names = sorted({entry.name for entry in client.models()})
    except MooringError:
        return ""
    if not name or name in names:  # it is the version that is not there
        return ""
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f"; did you mean '{close[0]}'?"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (
        f"; the server has {', '.join(map(repr, names[:_MOST_NAMES]))}{more}"
        if names
        else "; the server has no models"
    )


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
