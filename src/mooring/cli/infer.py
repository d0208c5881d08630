"""``mooring infer``: one request to a model of a running server, from files, the standard input or JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mooring.cli.server_connection import Server, connect_client, server_options

if TYPE_CHECKING:
    from mooring.cli.inputs import Content


@click.command()
@click.argument("model")
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="[NAME=]FILE|JSON",
    help=".npy, .npz, .json, an image, a text, - for the standard input, or JSON as it is; NAME where the model takes"
    " several [the standard input]",
)  # fmt: skip
@click.option("--version", default="", help="the version to ask; without it the default one")
@click.option("--output", "outputs", multiple=True, metavar="NAME", help="an output to ask for [all]")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="a parameter of the request"
)
@click.option("--stream", is_flag=True, help="print every piece of the answer when it comes, a line each")
@click.option(
    "--timing", is_flag=True, help="print on the standard error where the time went, as the server tells it"
)
@click.option("--save", metavar="FILE", help="write the outputs to FILE, .npy for one and .npz for several")
@server_options
def infer(
    model: str, inputs: Sequence[str], version: str, outputs: Sequence[str], parameters: Sequence[str],
    stream: bool, timing: bool, save: str | None, server: Server,
) -> None:  # fmt: skip
    """Ask MODEL of a running server, and print its answer as JSON.

    An input is read for what it is, and fitted to what the model declares: JSON numbers and images become the declared
    type, and a lone sample a batch of one. Of a function whose answer is one JSON value, that value is printed.
    """
    from mooring.cli.inputs import read_inputs

    if stream and save:
        raise click.UsageError("--save writes one answer; it does not go with --stream")
    if stream and timing:
        raise click.UsageError("--timing is of one answer; it does not go with --stream")
    contents = read_contents(inputs)
    with connect_client(server) as client:
        metadata = client.metadata(model, version)
        tensors = read_inputs(contents, metadata, lambda: _model_parameters(client.config(model, version)))
        asked = {
            "version": version,
            "outputs": outputs,
            "parameters": dict(parse_parameter(each) for each in parameters),
        }
        if stream:
            for piece in client.stream(model, tensors, **asked):
                click.echo(_to_json(piece))
            return
        result = client.infer(model, tensors, timing=timing, **asked)
        if save:
            _save_outputs(Path(save), result)
        else:
            click.echo(_to_json(result))
        if timing:
            told = result.timing
            click.echo("the server does not tell its timing" if told is None else told.to_text(), err=True)


def read_contents(inputs: Sequence[str]) -> "dict[str, Content]":
    from mooring.cli.inputs import STDIN, is_json, read_content
    from mooring.core.errors import InvalidInput

    if not inputs:
        if sys.stdin.isatty():
            raise click.UsageError("say what to ask with --input, or give it on the standard input")
        inputs = [STDIN]
    if sum(each.rpartition("=")[2] == STDIN for each in inputs) > 1:
        raise click.UsageError("only one input can come from the standard input")
    entry: dict[str, Content] = {}
    for each in inputs:
        name, equals, given = each.partition("=")
        if not equals or is_json(each) or Path(each).is_file():
            name, given = "", each
        if name in entry:
            raise click.UsageError(
                f"input '{name}' is given twice" if name else "only one input may have no NAME="
            )
        try:
            entry[name] = read_content(given)
        except InvalidInput as error:
            raise click.ClickException(error.message) from error
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
    values = list(result.values())
    if len(values) == 1 and _is_json(values[0]):
        return _encode(values[0])
    return "{" + ", ".join(f"{json.dumps(name)}: {_encode(value)}" for name, value in result.items()) + "}"


def _is_json(value: Any) -> bool:
    import numpy as np

    return not isinstance(value, np.ndarray)


def _encode(value: Any) -> str:
    from mooring.codecs.tensor_json import encode_json

    return json.dumps(value, ensure_ascii=False) if _is_json(value) else encode_json(value).decode()


def _save_outputs(path: Path, result: Any) -> None:
    import numpy as np

    if any(map(_is_json, result.values())):
        raise click.UsageError(
            "--save writes arrays, and the model answers with JSON; redirect the output instead"
        )
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
