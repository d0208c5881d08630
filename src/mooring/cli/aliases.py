"""Small scripts with the names of TorchServe's commands, so that scripts and images that call those stay as they are."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

_MARK = "# Written by mooring torchserve --install-aliases."
_COMMANDS: Mapping[str, str] = {
    "torchserve": "torchserve",
    "torch-model-archiver": "archive",
    "torch-workflow-archiver": "archive --workflow",
}


def install_aliases(folder: Path, *, force: bool = False) -> None:
    """Write a script for each of TorchServe's commands into a folder; each runs the ``mooring`` of this Python.

    Raises ``ClickException`` before anything is written if another program has one of the names and ``force`` is False.
    """
    foreign = [] if force else [name for name in _COMMANDS if _is_foreign(folder / name)]
    if foreign:
        raise click.ClickException(
            f"{folder} has {' and '.join(foreign)} already, and not from here: give another folder, or --force to replace"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, command in _COMMANDS.items():
            _write_script(folder / name, command)
    except OSError as error:
        raise click.ClickException(
            f"{error.filename2 or error.filename or folder}: {error.strerror}"
        ) from error
    click.echo(f"made {', '.join(_COMMANDS)} in {folder}")
    _tell_of_path(folder)


def _is_foreign(script: Path) -> bool:
    try:
        return _MARK not in script.read_text(errors="replace")
    except FileNotFoundError:
        return script.is_symlink()
    except OSError:
        return True


def _write_script(script: Path, command: str) -> None:
    # -P: no file of the folder where the command is run takes the place of a module.
    text = f'#!/bin/sh\n{_MARK}\nexec {shlex.quote(sys.executable)} -P -m mooring {command} "$@"\n'
    descriptor, partial = tempfile.mkstemp(dir=script.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(partial).chmod(0o755)
        Path(partial).replace(script)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _tell_of_path(folder: Path) -> None:
    """Say which program the names run from a shell."""
    found = {name: shutil.which(name) for name in _COMMANDS}
    others = [path for name, path in found.items() if path and not Path(path).samefile(folder / name)]
    if others:
        click.echo(f"PATH has {', '.join(others)} before it: put {folder.absolute()} first", err=True)
    elif None in found.values():
        click.echo(f"{folder.absolute()} is not on PATH", err=True)
