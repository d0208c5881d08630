"""What commands that ask a server share: which one, and how a refusal is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

_DEFAULT = "http://127.0.0.1:8080"
_DEFAULT_GRPC = "grpc://127.0.0.1:7070"


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which server to ask."""
    for option in (
        click.option(
            "--timeout", default=60.0, show_default=True, metavar="SECONDS", help="how long to wait"
        ),
        click.option("--grpc", is_flag=True, help="speak gRPC"),
        click.option(
            "--url", help=f"the server, as http, https, grpc or grpcs [{_DEFAULT}, {_DEFAULT_GRPC}]"
        ),
    ):
        command = option(command)
    return command


@contextmanager
def asking(url: str | None, grpc: bool, timeout: float) -> Iterator[Any]:
    """A client of the server. What the server, or the user, got wrong is one line and status 1."""
    from mooring.client.sync.client import Client
    from mooring.core.errors import MooringError

    if url and grpc:
        if url.startswith("http"):
            raise click.UsageError(f"--grpc speaks with a grpc:// or grpcs:// URL, not with {url}")
        url = url if "://" in url else f"grpc://{url}"
    try:
        with Client(url or (_DEFAULT_GRPC if grpc else _DEFAULT), timeout=timeout) as client:
            yield client
    except MooringError as error:
        raise click.ClickException(error.message) from error
