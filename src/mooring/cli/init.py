"""``mooring init``: writes a small project that can be served at once, from one of the templates beside this file."""

from pathlib import Path

import click

TEMPLATES = Path(__file__).with_name("templates")
# What each template is, in the order of the help.
KINDS = {
    "function": "a class and a function in plain Python, which take and give JSON",
    "onnx": "a model file of ONNX Runtime, and the script that made it",
    "handler": "a TorchServe handler, and how its archive is made",
    "llm": "a language model of the transformers library that streams its answer",
}
# The word in a template that stands for the project's name.
_NAME = "PROJECT"


@click.command()
@click.argument("folder", metavar="NAME", type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--template",
    type=click.Choice(list(KINDS)),
    default="function",
    show_default=True,
    help="; ".join(f"{name}: {what}" for name, what in KINDS.items()),
)
def init(folder: Path, template: str) -> None:
    """Write a small project into the new folder NAME: a model, a test of it, and a README with the commands."""
    try:
        written = write_project(folder, template)
    except OSError as error:
        raise click.ClickException(f"{folder}: {error.strerror or error}") from error
    click.echo(f"made {folder}: {', '.join(written)}")
    click.echo("\n".join(["Next:", f"  cd {_quoted(folder)}", *_commands(folder)]))


def write_project(folder: Path, template: str) -> list[str]:
    """Write the files of a template into a folder that is new or empty, and return their names.

    Raises ``ClickException`` for a folder that holds something, ``OSError`` where it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise click.ClickException(f"'{folder}' is a file; give the name of a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise click.ClickException(f"'{folder}' is not empty; give the name of a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(file for file in (TEMPLATES / template).iterdir() if file.is_file())
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".md":
            content = content.replace(_NAME.encode(), folder.resolve().name.encode())
        (folder / file.name).write_bytes(content)
    return [file.name for file in files]


def _commands(folder: Path) -> list[str]:
    """Return the commands of the project's README, those of its first console block."""
    block = (folder / "README.md").read_text(encoding="utf-8").split("```console\n")[1].partition("```")[0]
    return [f"  {line.removeprefix('$ ')}" for line in block.splitlines() if line.startswith("$ ")]


def _quoted(folder: Path) -> str:
    text = str(folder)
    return f"'{text}'" if " " in text else text
