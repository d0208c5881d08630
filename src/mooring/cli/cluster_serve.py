"""``mooring serve --cluster``: has a Ray cluster serve models, and returns when it does. Runs in the command's process."""

import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mooring.cli.cluster import joined
from mooring.config.settings import Config, ConfigError
from mooring.config.sources.origins import Origins

if TYPE_CHECKING:
    from mooring.cluster.ray.connection import ControllerHandle
    from mooring.cluster.ray.orders import ControllerOrder
    from mooring.cluster.records import ClusterView, NodeView, RegisterVersion, VersionView
    from mooring.server.start_progress import ModelProgress

_LOOK = 0.25
# Seconds in which the first node must be there, and the same where none is being started: all have failed.
_NODE_PATIENCE = 120.0
_FAILED_PATIENCE = 10.0
# Seconds in which further nodes should be there.
_NODES_PATIENCE = 20.0
# Seconds that a version must have been PENDING, with nothing else going on, for the command to give up.
_PENDING_PATIENCE = 5.0
PENDING_STATUS = 3
"""The exit status where models wait for room: they will be served as soon as there is some."""

INTERRUPTED_STATUS = 130
"""The exit status after Ctrl-C, as shells have it."""


def serve_on_cluster(config: Config, origins: Origins) -> int:
    """Have a cluster serve what the settings name; return the exit status: 0 when all is ready, 1 when something failed, 3 when it must wait."""
    from mooring.cluster.node_settings import encode_node_settings, open_to_others

    try:
        settings = encode_node_settings(open_to_others(config, origins))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder, joined(config.cluster):
        return _serve(config, settings, Path(folder))


def _serve(config: Config, settings: str, folder: Path) -> int:
    from mooring import __version__
    from mooring.cluster.model_files import ModelFileCache
    from mooring.cluster.packing import pack_models
    from mooring.cluster.ray.connection import find_or_make_controller
    from mooring.cluster.ray.orders import ControllerOrder
    from mooring.cluster.records import PROTOCOL

    changes = pack_models(config, ModelFileCache(folder))
    order = ControllerOrder(
        cluster=config.cluster_name,
        protocol=PROTOCOL,
        software=__version__,
        settings=settings,
        state=config.cluster_state,
        nodes=list(config.cluster_nodes),
        cluster_dir=str(config.cluster_dir or ""),
        idle_timeout=config.cluster_idle_timeout,
    )
    controller = find_or_make_controller(order)
    if controller.order != order:
        click.echo(
            f"'{config.cluster_name}' runs already, and goes on with the settings that it was started with;"
            f" different here: {', '.join(_differences(controller.order, order))}; mooring cluster stop ends it",
            err=True,
        )
    view = _wait_for_node(controller)
    node = next(each.node for each in view.nodes if each.state == "READY")
    for change in changes:
        controller.send_file(folder / change.files.sha256, change.files.sha256, node)
        controller.ask(_with_source(change, f"node:{node}"))
    try:
        return _follow(controller, {(change.model, change.version) for change in changes})
    except KeyboardInterrupt:
        click.echo(
            "The cluster goes on without this command; mooring cluster models shows how far it is.", err=True
        )
        return INTERRUPTED_STATUS


def _differences(one: "ControllerOrder", other: "ControllerOrder") -> list[str]:
    """Return the names of what two orders have differently: settings of the node servers, then the cluster's own."""
    settings = [tomllib.loads(each.settings) for each in (one, other)]
    names = sorted(settings[0].keys() | settings[1].keys())
    found = [name for name in names if settings[0].get(name) != settings[1].get(name)]
    of_the_cluster = {
        "state": "cluster_state",
        "nodes": "cluster_nodes",
        "cluster_dir": "cluster_dir",
        "idle_timeout": "cluster_idle_timeout",
        "software": "the version of Mooring",
        "protocol": "the version of its messages",
    }
    return found + [
        text for name, text in of_the_cluster.items() if getattr(one, name) != getattr(other, name)
    ]


def _with_source(change: "RegisterVersion", source: str) -> "RegisterVersion":
    """Return the registration with one more source of its files."""
    import msgspec

    files = msgspec.structs.replace(change.files, sources=[*change.files.sources, source])
    return msgspec.structs.replace(change, files=files)


def _wait_for_node(controller: "ControllerHandle") -> "ClusterView":
    """Return the view in which a node is ready. Raises ``ClickException`` where there is none in time."""
    began = time.monotonic()
    while True:
        view = controller.ask()
        assert view is not None
        if any(each.state == "READY" for each in view.nodes):
            return view
        starting = not view.nodes or any(each.state == "STARTING" for each in view.nodes)
        patience = _NODE_PATIENCE if starting else _FAILED_PATIENCE
        if time.monotonic() - began > patience:
            known = "".join(f"\n  {_describe(each)}" for each in view.nodes)
            raise click.ClickException(
                f"no node is ready after {patience:g} s{':' if known else '; Ray has none that was chosen'}{known}\n"
                "They are tried again. mooring cluster stop ends that; with other settings they can be started then"
            )
        time.sleep(_LOOK)


def _describe(node: "NodeView") -> str:
    """A node that is not ready, in a line."""
    return f"node {node.node} is {node.state}{f': {node.reason}' if node.reason else ''}"


def _follow(controller: "ControllerHandle", wanted: Collection[tuple[str, str]]) -> int:
    """Show how far the models are until all are ready, or nothing more happens; return the exit status."""
    began = time.monotonic()
    show, finish = _progress_view()
    pending_since = 0.0
    seen: set[tuple[str, str]] = set()
    while True:
        view = controller.ask()
        assert view is not None
        versions = [each for each in view.versions if (each.model, each.version) in wanted]
        progress = [_progress(each, time.monotonic() - began) for each in versions]
        states = {each.state for each in versions}
        here = {(each.model, each.version) for each in versions}
        seen |= here
        pending_since = (pending_since or time.monotonic()) if "PENDING" in states else 0.0
        waits = pending_since and time.monotonic() - pending_since > _PENDING_PATIENCE
        starting = any(each.state == "STARTING" for each in view.nodes)
        busy = (
            bool(states - {"READY", "FAILED", "PENDING"})
            or not seen >= {*wanted}
            or (starting and time.monotonic() - began < _NODES_PATIENCE)
        )
        if not busy and (not pending_since or waits):
            finish(progress)
            return _print_end(view, versions, sorted(seen - here))
        show(progress)
        time.sleep(_LOOK)


def _progress(version: "VersionView", seconds: float) -> "ModelProgress":
    from mooring.server.start_progress import ModelProgress, Step

    steps = {"READY": Step.READY, "FAILED": Step.FAILED, "LOADING": Step.LOADING}
    step = steps.get(version.state, Step.QUEUED)
    if step is Step.LOADING and not version.replicas:  # it gets a place first, or none
        step = Step.QUEUED
    return ModelProgress(version.model, version.version, step, seconds)  # the end gives the reasons


def _progress_view() -> tuple[Callable[..., object], Callable[..., object]]:
    """How progress is shown: as a table on a terminal, elsewhere as a line for each step."""
    from mooring.cli.start_view import StepLines

    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        from mooring.cli.live_table import LiveTable

        table = LiveTable(sys.stdout, None)
        return table.draw, table.finish
    lines = StepLines(click.echo)
    return lines.add, lines.add


def _print_end(
    view: "ClusterView", versions: "Sequence[VersionView]", gone: Sequence[tuple[str, str]]
) -> int:
    for node in view.nodes:
        if node.state not in ("READY", "DRAINING", "DRAINED"):
            click.echo(_describe(node), err=True)
    failed = [each for each in versions if each.state == "FAILED"]
    pending = [each for each in versions if each.state == "PENDING"]
    for each in pending:
        click.echo(f"{each.model} {each.version} waits for room: {each.reason}", err=True)
    for each in failed:
        click.echo(f"{each.model} {each.version} failed: {each.reason}", err=True)
    for model, version in gone:
        click.echo(f"{model} {version} was unregistered meanwhile", err=True)
    if failed or gone:
        return 1
    if pending:
        click.echo("It is served as soon as there is room; mooring cluster models shows when.", err=True)
        return PENDING_STATUS
    click.echo(f"'{view.name}' is up. Ask any of its nodes:")
    for node in view.nodes:
        if node.state == "READY":
            click.echo(f"  {node.address}  ({node.node})")
    click.echo("mooring cluster status shows it, mooring cluster stop ends it.")
    return 0
