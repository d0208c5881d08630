"""``mooring containerize``: writes a folder from which ``docker build`` makes an image with models in it.

Runs in the command's process.
"""

import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click
import msgspec

from mooring.core.errors import MooringError

if TYPE_CHECKING:
    from mooring.repository.spec import ModelSpec
    from mooring.repository.targets import Target

_MARK = "# Written by mooring containerize"
_MODELS = "models"
# Where the models are in the image, and what is installed there (deploy/Dockerfile).
_PLACE = PurePosixPath("/models")
_INSTALLED = "/opt/mooring/requirements.txt"
# In a Dockerfile a $ is a variable, and a space ends a path.
_PLAIN_NAME = re.compile(r"[\w.+-]+")


class _Contents(msgspec.Struct):
    """What goes into the image. All paths in it are those of the image.

    ``targets`` are the arguments of ``mooring serve`` there, ``requirements`` the files that pip installs, ``folder`` the
    working directory, empty for that of the base. ``copied`` has where each file and folder of this machine went.
    """

    targets: list[str]
    requirements: list[str]
    folder: str
    copied: dict[Path, PurePosixPath]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR",
    help="the folder to write: a new one, or one that this command has written",
)  # fmt: skip
@click.option(
    "--base", default="mooring", show_default=True, metavar="IMAGE",
    help="the image of the server, as deploy/Dockerfile makes it",
)  # fmt: skip
def containerize(targets: Sequence[str], output: Path, base: str) -> None:
    """Write a Dockerfile and the models that TARGET names into a folder, ready for docker build.

    TARGET is what `mooring serve` takes; its files are copied. Of a function, that is the folder of its file, without
    hidden files and virtual environments. The image has what the models' requirements.txt name.
    """
    try:
        contents = write_image_folder(targets, output, base)
    except MooringError as error:
        raise click.ClickException(error.message) from error
    except (OSError, shutil.Error) as error:
        raise click.ClickException(_explain(error)) from error
    size = sum(file.stat().st_size for file in (output / _MODELS).rglob("*") if file.is_file())
    installed = f", {len(contents.requirements)} requirements.txt" if contents.requirements else ""
    click.echo(f"made {output}: Dockerfile, {_MODELS}/ ({size / 1e6:.1f} MB){installed}")
    click.echo(f"Next:\n  docker build -t my-models {output}\n  docker run --rm -p 8080:8080 my-models")


def write_image_folder(targets: Sequence[str], output: Path, base: str) -> _Contents:
    """Write the folder, and return what is in it.

    Raises ``MooringError`` for a target that ``mooring serve`` would refuse, ``ClickException`` for one that cannot be
    copied and for a folder that holds something else, ``OSError`` and ``shutil.Error`` where files cannot be copied.
    """
    from mooring.repository.targets import find_target

    found = [find_target(target) for target in targets]
    for each in found:
        _check_copied(each)
    _check_output(output)
    with tempfile.TemporaryDirectory(prefix="mooring-containerize-") as unpacked:
        specs = _read_models(targets, Path(unpacked))
        output.mkdir(parents=True, exist_ok=True)
        dockerfile = output / "Dockerfile"
        dockerfile.write_text(f"{_MARK}, which has failed before its end.\n")
        models = output / _MODELS
        if models.exists():
            shutil.rmtree(models)
        models.mkdir()
        contents = _Contents([], [], "", {})
        for target, each in zip(targets, found, strict=True):
            contents.targets.append(_add_target(contents, target, each, output))
        for spec in specs:
            _add_requirements(contents, spec, models)
    contents.folder = _working_folder(contents, found)
    dockerfile.write_text(_dockerfile(contents, targets, base))
    return contents


def _read_models(targets: Sequence[str], unpacked: Path) -> "list[ModelSpec]":
    """Read the models as ``mooring serve`` does, which refuses what cannot be served."""
    from mooring.config.settings import Config
    from mooring.repository.store import Store

    logging.disable(
        logging.WARNING
    )  # a server warns that requirements are not installed; the image installs them
    try:
        return Store(unpacked).find(Config(targets=tuple(targets))).specs
    finally:
        logging.disable(logging.NOTSET)


def _check_output(output: Path) -> None:
    """Raise ``ClickException`` for a folder that somebody else has written into."""
    if output.exists() and not output.is_dir():
        raise click.ClickException(f"'{output}' is a file; give the name of a new folder")
    file = output / "Dockerfile"
    if file.exists() and file.read_text(errors="replace").startswith(_MARK):
        return
    if output.is_dir() and any(output.iterdir()):
        raise click.ClickException(
            f"'{output}' is not empty, and this command has not written it; give the name of a new folder"
        )


def _check_copied(target: "Target") -> None:
    """Raise ``ClickException`` for what is not copied: addresses, installed modules, a home folder as a project."""
    from mooring.repository.targets import TargetKind

    if target.kind is TargetKind.URL:
        raise click.ClickException(
            f"'{target.text}' is not fetched for an image: download it, and name the file"
        )
    if target.module and not target.place.resolve().is_relative_to(Path.cwd()):
        raise click.ClickException(
            f"'{target.text}' is an installed module, {target.place}: write a file that imports it, name its package in a "
            "requirements.txt beside that file, and give the file"
        )
    source = _source_of(target).resolve()
    if not _PLAIN_NAME.fullmatch(source.name):
        raise click.ClickException(
            f"'{target.text}': {source.name!r} cannot be copied by a Dockerfile under this name; rename it to letters, digits, "
            "dots, - and _"
        )
    if source.is_dir() and source in (Path.home(), *Path.home().parents):
        raise click.ClickException(
            f"'{target.text}': the folder {source} would be copied whole; put the model's files into a folder of their own"
        )


def _source_of(target: "Target") -> Path:
    """Return the file or folder that has to be copied."""
    from mooring.repository.targets import TargetKind

    return target.root if target.kind is TargetKind.FUNCTION else target.place


def _add_target(contents: _Contents, text: str, target: "Target", output: Path) -> str:
    """Copy what a target names, once; return the target in the image."""
    from mooring.repository.targets import TargetKind, split_target

    source = _source_of(target).resolve()
    if source not in contents.copied:
        contents.copied[source] = _copy(source, output, contents.copied.values())
    place = contents.copied[source]
    if target.kind is TargetKind.FUNCTION:
        function = f":{target.function}" if target.function else ""
        # A module is imported by its dotted name from the working directory.
        named = f"{target.module}{function}" if target.module else f"{place / target.place.name}{function}"
    else:
        named = str(place)
    name, _ = split_target(text)
    return f"{name}={named}" if name else named


def _copy(source: Path, output: Path, taken: Iterable[PurePosixPath]) -> PurePosixPath:
    """Copy a file or folder under its own name, which models may be named after; return its place in the image."""
    place = _PLACE / source.name
    number = 1
    while place in taken:
        number += 1
        place = _PLACE / str(number) / source.name
    copy = output / _MODELS / place.relative_to(_PLACE)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(
            source, copy, ignore=lambda folder, names: _left_out(Path(folder), names, output.resolve())
        )
    else:
        shutil.copyfile(source, copy)
    _let_everybody_read(copy)
    return place


def _left_out(folder: Path, names: Sequence[str], output: Path) -> set[str]:
    """Return what of a folder is no part of a model: hidden files, caches, environments, the folder that is being written."""
    from mooring.repository.source_files import is_source

    return {
        name
        for name in names
        if not is_source(name) or (folder / name / "pyvenv.cfg").exists() or folder / name == output
    }


def _let_everybody_read(copy: Path) -> None:
    """The server in the image is another user than the one who has the files here."""
    for each in [copy, *(copy.rglob("*") if copy.is_dir() else ())]:
        mode = stat.S_IMODE(each.stat().st_mode)
        each.chmod(mode | (0o555 if each.is_dir() or mode & stat.S_IXUSR else 0o444))


def _add_requirements(contents: _Contents, spec: "ModelSpec", models: Path) -> None:
    """Note the requirements.txt of a model: the one that its archive names, or that lies in its folder."""
    named = spec.manifest["model"].get("requirementsFile", "") if spec.manifest else "requirements.txt"
    file = Path(spec.location, named)
    if not named or not file.is_file():
        return
    place = next(
        (
            place / file.relative_to(source)
            for source, place in contents.copied.items()
            if file.is_relative_to(source)
        ),
        None,
    )
    if place is None:  # of an archive, which is copied as it is
        place = _PLACE / f"{spec.name}-{spec.version}.requirements.txt"
        shutil.copyfile(file, models / place.name)
        _let_everybody_read(models / place.name)
    if str(place) not in contents.requirements:
        contents.requirements.append(str(place))


def _working_folder(contents: _Contents, targets: "Sequence[Target]") -> str:
    """Return the folder that the server is started in: that of modules, or of the only functions that there are.

    Code of theirs may open files by paths of the folder in which it has been started here.
    """
    from mooring.repository.targets import TargetKind

    modules = {_source_of(each).resolve() for each in targets if each.module}
    functions = {_source_of(each).resolve() for each in targets if each.kind is TargetKind.FUNCTION}
    for roots in (modules, functions):
        if len(roots) == 1:
            return str(contents.copied[roots.pop()])
    return ""


def _dockerfile(contents: _Contents, targets: Sequence[str], base: str) -> str:
    lines = [
        f"{_MARK}. Its targets were: {json.dumps(list(targets))}",
        "",
        f"ARG BASE={base}",
        "FROM ${BASE}",
        f"COPY {_MODELS} {_PLACE}",
    ]
    if contents.requirements:
        files = " ".join(f"-r {json.dumps(each)}" for each in contents.requirements)
        lines += [
            "# What the server itself needs keeps its version; a requirement that contradicts it ends the build.",
            "USER 0",
            f"RUN python3 -m pip install --no-cache-dir --root-user-action=ignore --constraint {_INSTALLED} {files}",
            "USER 1000:1000",
        ]
    if contents.folder:
        lines.append(f"WORKDIR {contents.folder}")
    lines.append(f"CMD {json.dumps(['serve', *contents.targets])}")
    return "\n".join(lines) + "\n"


def _explain(error: Exception) -> str:
    """Name the file of an error of copying; of many, the first."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        source, _, reason = error.args[0][0]
        return f"{source}: {reason}"
    if isinstance(error, OSError) and error.filename:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return str(error)
