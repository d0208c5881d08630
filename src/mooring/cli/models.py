"""``mooring models``: lists, loads, unloads and describes the models of a running server."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from mooring.cli.help import CommandGroup
from mooring.cli.server_connection import Server, connect_client, server_options


@click.group(cls=CommandGroup)
def models() -> None:
    """List, load, unload and describe the models of a running server."""


@models.command("list")
@server_options
def list_(server: Server) -> None:
    """Every model of the server's repository, loaded or not."""
    from mooring.cli.tables import print_table

    with connect_client(server) as client:
        entries = client.models()
        print_table(
            ["MODEL", "VERSION", "STATE", "REASON"],
            [[each.name, each.version or "-", each.state or "not loaded", each.reason] for each in entries],
        )


@models.command()
@click.argument("model")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="a parameter to load it with"
)
@server_options
def load(model: str, parameters: Sequence[str], server: Server) -> None:
    """Load MODEL of the repository, anew if it is loaded, and return when it is ready."""
    from mooring.cli.infer import parse_parameter

    with connect_client(server) as client:
        client.load(model, parameters=dict(parse_parameter(each) for each in parameters))
        click.echo(f"{model} is ready")


@models.command()
@click.argument("model")
@click.option("--dependents", is_flag=True, help="and the stages that only this chain of models uses")
@server_options
def unload(model: str, dependents: bool, server: Server) -> None:
    """Unload every version of MODEL, once what it was asked is answered."""
    with connect_client(server) as client:
        client.unload(model, dependents=dependents)
        click.echo(f"{model} is unloaded")


@models.command()
@click.argument("model")
@click.option("--version", default="", help="the version to describe; without it the default one")
@server_options
def describe(model: str, version: str, server: Server) -> None:
    """What MODEL takes and gives, how it is run, and what it has done."""
    from mooring.cli.tables import print_table

    with connect_client(server) as client:
        metadata = client.metadata(model, version)
        config = client.config(model, version)
        usage = client.usage(model, version)
    facts = [
        ["name", metadata.name],
        ["versions", ", ".join(metadata.versions)],
        *([["platform", metadata.platform]] if metadata.platform else []),
    ]
    print_table(["", ""], [*facts, *_model_parameters(config)])
    tensors = [["input", *_tensor_row(spec)] for spec in metadata.inputs]
    tensors += [["output", *_tensor_row(spec)] for spec in metadata.outputs]
    if tensors:
        print_table(["", "NAME", "DATATYPE", "SHAPE", ""], tensors)
    elif config.get("backend") == "handler":
        click.echo("It declares no tensors: a handler reads the body of a request as it is.")
    else:
        click.echo("It declares no tensors: what it takes is known to its code alone.")
    print_table(
        ["VERSION", "REQUESTS", "FAILED", "ROWS", "CALLS", "MEAN"], [_usage_row(each) for each in usage]
    )


def _model_parameters(config: Mapping[str, Any]) -> list[list[str]]:
    """Return rows about how a model is run, from its configuration in Triton's form."""
    batching = config.get("dynamic_batching") or {}
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", []))
    entry = [
        ["max batch size", str(config.get("max_batch_size", 0))],
        ["instances", str(instances)],
        ["batch delay", f"{int(batching.get('max_queue_delay_microseconds', 0)) / 1000:g} ms"],
    ]
    joining = (config.get("parameters") or {}).get("batching")
    if joining:
        entry.append(["batching", str(joining.get("string_value", ""))])
    return [["backend", str(config["backend"])], *entry] if config.get("backend") else entry


def _tensor_row(spec: Any) -> list[str]:
    notes = [{"application/json": "JSON text"}.get(spec.content_type, spec.content_type)]
    notes += ["optional"] if spec.optional else []
    shape = "any" if spec.unknown_rank else str(spec.shape)
    return [spec.name, spec.datatype or "any", shape, ", ".join(filter(None, notes))]


def format_seconds(seconds: float) -> str:
    """Return a duration in the unit in which people say it, with three digits.

    >>> [format_seconds(each) for each in (0.00042, 0.0123, 1.4401, 75.3, 4000)]
    ['0.42 ms', '12.3 ms', '1.44 s', '75.3 s', '67 min']
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _usage_row(usage: Any) -> list[str]:
    success = usage.success
    mean = format_seconds(success.ns / success.count / 1e9) if success.count else "-"
    counts = (success.count, usage.fail.count, usage.inferences, usage.executions)
    return [usage.version, *map(str, counts), mean]
