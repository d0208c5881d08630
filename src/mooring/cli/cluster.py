"""``mooring cluster``: shows and changes what is served on a Ray cluster. Runs in the command's process."""

import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mooring.cli.help import CommandGroup

if TYPE_CHECKING:
    from mooring.cluster.ray.connection import ControllerHandle
    from mooring.cluster.records import ClusterView, VersionView


class Cluster(NamedTuple):
    """Which cluster a command is about."""

    address: str
    name: str


_OPTIONS = (
    click.option(
        "--name",
        default=lambda: os.environ.get("MOORING_CLUSTER_NAME", "mooring"),
        help="the name of what is served there [mooring]",
    ),
    click.option(
        "--address",
        default=lambda: os.environ.get("MOORING_CLUSTER", "auto"),
        metavar="auto|HOST:PORT",
        help="the head of the Ray cluster [auto: the one that this machine belongs to]",
    ),
)
_as_json = click.option("--json", "as_json", is_flag=True, help="print JSON, all that is known")


def _cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which cluster, which the command gets as ``cluster``."""

    @functools.wraps(command)
    def with_cluster(**arguments: Any) -> Any:
        where = {name: arguments.pop(name) for name in Cluster._fields}
        return command(**arguments, cluster=Cluster(**where))

    for option in _OPTIONS:
        with_cluster = option(with_cluster)
    return with_cluster


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Be a driver of Ray. Its absence, and errors of the cluster, end the command with one line and status 1."""
    from mooring.core.errors import MooringError
    from mooring.core.missing_packages import missing_package

    try:
        from mooring.cluster.ray.connection import join_ray
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise click.ClickException(missing_package("a cluster", "ray")) from error
    try:
        with join_ray(address):
            yield
    except MooringError as error:
        raise click.ClickException(error.message) from error


@contextmanager
def _controller(cluster: Cluster) -> "Iterator[ControllerHandle]":
    with joined(cluster.address):
        from mooring.cluster.ray.connection import find_controller

        yield find_controller(cluster.name)


def _view(controller: "ControllerHandle") -> "ClusterView":
    view = controller.ask()
    assert view is not None  # a question is always answered
    return view


@click.group(cls=CommandGroup)
def cluster() -> None:
    """Show and change what is served on a Ray cluster.

    mooring serve --cluster auto MODEL starts it.
    """


@cluster.command()
@_as_json
@_cluster_options
def status(as_json: bool, cluster: Cluster) -> None:
    """The nodes of the cluster: where each is asked, how it is, and what it serves.

    The status is 1 when a node is neither ready nor drained, 0 otherwise.
    """
    from mooring.cli.tables import print_table

    with _controller(cluster) as controller:
        view = _view(controller)
    if as_json:
        _print_json(view)
    else:
        counts = {
            node.node: sum(replica.node == node.node for each in view.versions for replica in each.replicas)
            for node in view.nodes
        }
        rows = [
            [
                each.node,
                each.state,
                each.address or "-",
                str(counts[each.node]),
                each.software or "-",
                each.reason,
            ]
            for each in view.nodes
        ]
        print_table(["NODE", "STATE", "ADDRESS", "MODELS", "SOFTWARE", ""], rows)
    if any(each.state not in ("READY", "DRAINING", "DRAINED") for each in view.nodes):
        raise SystemExit(1)


@cluster.command()
@_as_json
@_cluster_options
def models(as_json: bool, cluster: Cluster) -> None:
    """The models of the cluster: which node has each, how many workers it has, and what waits."""
    from mooring.cli.tables import print_table

    with _controller(cluster) as controller:
        view = _view(controller)
    if as_json:
        _print_json(view)
    else:
        rows = [row for each in view.versions for row in _version_rows(each)]
        print_table(["MODEL", "VERSION", "STATE", "REPLICAS", "NODE", "WORKERS", "WAITING", ""], rows)


def _version_rows(version: "VersionView") -> list[list[str]]:
    """Return a row for each replica of a version; the first one says what is true of all."""
    ready = sum(each.status.state == "READY" for each in version.replicas)
    bounds = f"{version.min_replicas}-{version.max_replicas}"
    name = f"{version.version}{' (default)' if version.is_default else ''}"
    head = [version.model, name, version.state, f"{ready} of {version.wanted_replicas} ({bounds})"]
    if not version.replicas:
        return [[*head, "-", "-", "-", version.reason]]
    rows: list[list[str]] = []
    for each in version.replicas:
        status = each.status
        state = "" if status.state == version.state else str(status.state)
        reason = status.reason or (version.reason if not rows else "")
        workers = f"{status.ready_workers} of {status.wanted_workers}"
        rows.append(
            [
                *(head if not rows else [""] * 4),
                each.node,
                workers,
                str(status.waiting),
                f"{state} {reason}".strip(),
            ]
        )
    return rows


@cluster.command()
@click.argument("model")
@click.option("--version", default="", help="the version; without it the default one")
@click.option("--replicas", metavar="N|MIN-MAX", help="on how many nodes it is served")
@click.option("--workers", metavar="N|MIN-MAX", help="how many workers each of them has")
@click.option("--no-wait", is_flag=True, help="return before it is done")
@_cluster_options
def scale(
    model: str, version: str, replicas: str | None, workers: str | None, no_wait: bool, cluster: Cluster
) -> None:
    """Change the number of nodes that serve MODEL, or of its workers there, and return when it is done."""
    from mooring.cluster.records import ScaleVersion

    if replicas is None and workers is None:
        raise click.UsageError("say what to change: --replicas, --workers or both")
    min_replicas, max_replicas = _parse_bounds("--replicas", replicas)
    min_workers, max_workers = _parse_bounds("--workers", workers)
    with _controller(cluster) as controller:
        controller.ask(
            ScaleVersion(
                model,
                version,
                min_workers=min_workers,
                max_workers=max_workers,
                min_replicas=min_replicas,
                max_replicas=max_replicas,
                wait=not no_wait,
            )
        )
    click.echo(f"{model} is being scaled" if no_wait else f"{model} is scaled")


def _parse_bounds(option: str, text: str | None) -> tuple[int | None, int | None]:
    """Parse ``2`` or ``1-4``. Raises ``UsageError``."""
    if text is None:
        return None, None
    low, dash, high = text.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise click.UsageError(f"{option} {text}: must be a number, or two as in 1-4")
    bounds = int(low), int(high if dash else low)
    if bounds[0] > bounds[1]:
        raise click.UsageError(f"{option} {text}: the first number must not be the larger one")
    return bounds


@cluster.command()
@click.argument("node")
@click.option("--undo", is_flag=True, help="let it serve again")
@click.option("--no-wait", is_flag=True, help="return before it is done")
@_cluster_options
def drain(node: str, undo: bool, no_wait: bool, cluster: Cluster) -> None:
    """Move all models away from NODE, and return when it serves none any more."""
    from mooring.cluster.records import DrainNode

    with _controller(cluster) as controller:
        view = controller.ask(DrainNode(node, undo=undo, wait=not no_wait))
    if view is not None and not undo and not no_wait:
        for each in view.nodes:
            if each.node == node and each.state == "DRAINING":
                click.echo(f"{node} keeps what has no other place: {each.reason}", err=True)
                raise SystemExit(1)
    click.echo(f"{node} {'serves again' if undo else 'is being drained' if no_wait else 'is drained'}")


@cluster.command()
@click.option(
    "--timeout", default=30.0, show_default=True, metavar="SECONDS", help="how long running requests may take"
)
@_cluster_options
def stop(timeout: float, cluster: Cluster) -> None:
    """End the servers of all nodes, and the controller. Running requests are answered first."""
    with _controller(cluster) as controller:
        left = controller.stop(timeout)
    for address in left:
        click.echo(f"the node at {address} did not answer; its server may go on", err=True)
    click.echo(f"{cluster.name} is stopped")


def _print_json(view: "ClusterView") -> None:
    import msgspec

    click.echo(json.dumps(msgspec.to_builtins(view), indent=2))
