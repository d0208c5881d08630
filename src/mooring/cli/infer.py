"""``mooring infer``: one request to a model of a running server, from files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from mooring.cli.server_connection import Server, connect_client, server_options


@click.command()
@click.argument("model")
@click.option(
    "-i", "--input", "inputs", multiple=True, required=True, metavar="[NAME=]FILE",
    help=".npy, .npz, .json, an image or a text; NAME where the model takes several",
)  # fmt: skip
@click.option("--version", default="", help="the version to ask; without it the default one")
@click.option("--output", "outputs", multiple=True, metavar="NAME", help="an output to ask for [all]")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="a parameter of the request"
)
@click.option("--save", metavar="FILE", help="write the outputs to FILE, .npy for one and .npz for several")
@server_options
def infer(
    model: str, inputs: Sequence[str], version: str, outputs: Sequence[str], parameters: Sequence[str],
    save: str | None, server: Server,
) -> None:  # fmt: skip
    """Ask MODEL of a running server, and print its answer as JSON.

    An input is read for what it is, and fitted to what the model declares: JSON numbers and images become the declared
    type, and a lone sample a batch of one.
    """
    from mooring.cli.inputs import read_inputs

    with connect_client(server) as client:
        metadata = client.metadata(model, version)
        tensors = read_inputs(
            read_input_files(inputs),
            {spec.name: spec for spec in metadata.inputs if spec.datatype},
            lambda: _model_parameters(client.config(model, version)),
        )
        result = client.infer(
            model,
            tensors,
            version=version,
            outputs=outputs,
            parameters=dict(parse_parameter(each) for each in parameters),
        )
        if save:
            _save_outputs(Path(save), result)
        else:
            click.echo(_to_json(result))


def read_input_files(inputs: Sequence[str]) -> dict[str, bytes]:
    from mooring.cli.inputs import read_content

    entry: dict[str, bytes] = {}
    for each in inputs:
        name, equals, file = each.partition("=")
        if not equals or Path(each).is_file():
            name, file = "", each
        if name in entry:
            raise click.UsageError(
                f"input '{name}' is given twice" if name else "only one input may have no NAME="
            )
        entry[name] = read_content(file)
    return entry


def parse_parameter(text: str) -> tuple[str, Any]:
    """Return the name and the value of NAME=VALUE: a number or boolean where it is valid JSON of that type, else text."""
    from mooring.codecs.tensor_json import decode_json
    from mooring.core.errors import InvalidInput

    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--parameter needs NAME=VALUE, not '{text}'")
    try:
        decoded = decode_json(value.encode())
    except InvalidInput:
        return name, value
    return name, decoded if isinstance(decoded, bool | int | float | str) else value


def _model_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a model from its configuration in Triton's form."""
    entry = config.get("parameters", {})
    return {
        name: value.get("string_value", "") if isinstance(value, Mapping) else value
        for name, value in entry.items()
    }


def _to_json(result: Any) -> str:
    from mooring.codecs.tensor_json import encode_json

    outputs = [f"{json.dumps(name)}: {encode_json(array).decode()}" for name, array in result.items()]
    return "{" + ", ".join(outputs) + "}"


def _save_outputs(path: Path, result: Any) -> None:
    import numpy as np

    arrays = {name: array.astype("S") if array.dtype.kind == "O" else array for name, array in result.items()}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".npy" and len(arrays) == 1:
        np.save(path, next(iter(arrays.values())))
    else:
        raise click.UsageError(
            f"the model gave {len(arrays)} outputs: --save needs FILE.npz, or FILE.npy for one"
        )
    click.echo(f"wrote {path}")
