"""``mooring archive``: packs a model as torch-model-archiver does, with its flags."""

from pathlib import Path
from typing import Any

import click

from mooring.core.errors import MooringError

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model-name", required=True, help="name of the model and of the archive")
@click.option("-v", "--version", required=True, help="version of the model")
@click.option("--handler", required=True, help="a handler's file, or the name of a default handler")
@click.option("--serialized-file", type=_FILE, help="weights, TorchScript or ONNX file")
@click.option("--model-file", type=_FILE, help="Python file with the one class of the model")
@click.option("--extra-files", default="", metavar="FILES", help="files, folders and globs, comma-separated")
@click.option("-r", "--requirements-file", type=_FILE, help="requirements.txt of the model")
@click.option("-c", "--config-file", type=_FILE, help="model-config.yaml")
@click.option(
    "--runtime", type=click.Choice(["python", "python3", "LSP"]), default="python", show_default=True
)
@click.option(
    "--export-path",
    type=_FILE,
    default=Path(),
    help="folder for the archive; the working directory by default",
)
@click.option(
    "--archive-format",
    type=click.Choice(["default", "tgz", "no-archive", "zip-store"]),
    default="default",
    show_default=True,
    help="default and zip-store make a .mar, tgz a .tar.gz, no-archive a folder",
)
@click.option("-f", "--force", is_flag=True, help="replace an archive of the same name")
def archive(**options: Any) -> None:
    """Pack a model, its handler and its files into an archive that `mooring serve` and TorchServe load."""
    from mooring.archiver import Options
    from mooring.archiver import archive as pack

    try:
        made = pack(Options(**options))
    except (MooringError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"made {made}")
