"""Environments that models bring with them (Triton's EXECUTION_ENV_PATH): the interpreter of one runs its workers.

    parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }

It is a folder, or a tar file as conda-pack and venv-pack make them. Mooring's own code and what that needs are added to its
import path where they are not in it: libraries that are compiled for one version of Python, so that an environment of
another version must have them itself.
"""

import asyncio
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

import mooring
from mooring.core.errors import ModelLoadFailed
from mooring.repository.platforms import runs_python
from mooring.repository.spec import ModelSpec

PARAMETER = "EXECUTION_ENV_PATH"
_MODEL_DIRECTORY = "$$TRITON_MODEL_DIRECTORY"

_LOWEST = (3, 11)
# What a worker imports, by its distribution's name: the names of its modules and files beside each other.
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "msgspec": ("msgspec",),
    "numpy": ("numpy", "numpy.libs"),
    "orjson": ("orjson",),
    "pysimdjson": ("simdjson", "csimdjson"),
}
_PROBE = """
import importlib.util, json, sys
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps([sys.implementation.name, list(sys.version_info[:2]), missing]))
"""
# What it prints: the implementation, the version, and which of the modules of _NEEDS are missing.
_PROBED = tuple[str, list[int], list[Literal["msgspec", "numpy", "orjson", "simdjson"]]]
_PROBE_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class ExecutionEnv:
    """An environment that is ready: its ``interpreter``, and what the processes of the model see."""

    interpreter: str
    variables: dict[str, str]


def names_environment(spec: ModelSpec) -> bool:
    """Whether a model brings an environment of its own."""
    return bool(spec.parameters.get(PARAMETER)) and runs_python(spec.backend)


class ExecutionEnvs:
    """The environments that were prepared, each once; tar files are unpacked in ``folder``."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._ready: dict[tuple[str, int], ExecutionEnv] = {}
        self._preparing = asyncio.Lock()

    async def prepare(self, spec: ModelSpec, variables: Mapping[str, str]) -> ExecutionEnv | None:
        """Return the environment of a model; None where it has none. Raises ``ModelLoadFailed`` naming what is wrong."""
        if not names_environment(spec):
            return None
        path = environment_path(spec)
        async with self._preparing:
            try:
                key = (str(path), path.stat().st_mtime_ns)
            except OSError as error:
                raise ModelLoadFailed(
                    f"{PARAMETER} of model '{spec.name}': {path}: {error.strerror}", model=spec.name
                ) from error
            if key not in self._ready:
                folder = Path(self._folder, hashlib.sha256(repr(key).encode()).hexdigest()[:16])
                try:
                    self._ready[key] = await asyncio.to_thread(prepare_environment, path, folder, variables)
                except ModelLoadFailed as error:
                    raise ModelLoadFailed(
                        f"{PARAMETER} of model '{spec.name}': {error.message}", model=spec.name
                    ) from error
            return self._ready[key]


def environment_path(spec: ModelSpec) -> Path:
    """Return the path that the parameter names. ``$$TRITON_MODEL_DIRECTORY`` is the model's folder."""
    place = Path(spec.location)
    model = place.parent if place.name == spec.version else place
    return Path(model, str(spec.parameters[PARAMETER]).replace(_MODEL_DIRECTORY, str(model)))


def prepare_environment(path: Path, folder: Path, variables: Mapping[str, str]) -> ExecutionEnv:
    """Unpack an environment below ``folder`` unless it is one already, and check that its interpreter runs a worker.

    Raises ``ModelLoadFailed``. Blocks.
    """
    place = path
    if path.is_file():
        place = folder / "env"
        if not place.is_dir():
            _unpack(path, place)
    interpreter = next(
        (each for each in (place / "bin/python", place / "bin/python3") if each.exists()), None
    )
    if interpreter is None:
        raise ModelLoadFailed(f"{path} has no bin/python: expected an environment of conda-pack or of venv")
    own = {name: value for name, value in variables.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    own["PYTHONNOUSERSITE"] = "1"  # what the user has installed elsewhere is for another Python
    own["PATH"] = f"{place / 'bin'}{os.pathsep}{own.get('PATH', os.defpath)}"
    links = folder / "own"
    _link_needs(links, _find_missing(path, interpreter, own))
    return ExecutionEnv(str(interpreter), {**own, "PYTHONPATH": str(links)})


def _unpack(archive: Path, place: Path) -> None:
    import lzma  # noqa: PLC0415 - few models bring an environment
    import tarfile  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    if not hasattr(tarfile, "tar_filter"):
        raise ModelLoadFailed(f"{archive} cannot be unpacked by this Python; unpack it, and name the folder")
    unfinished = place.with_name("unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)

    def choose_filter(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        # Environments have symbolic links to the interpreter that they were made with. Through a hard link a file of
        # the archive would be written over one that is outside of it.
        plain = member.isreg() or member.isdir() or member.issym()
        return (tarfile.tar_filter if plain else tarfile.data_filter)(member, folder)

    try:
        with tarfile.open(archive) as file:
            file.extractall(unfinished, filter=choose_filter)  # noqa: S202 - it is filtered
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise ModelLoadFailed(f"{archive} cannot be unpacked: {error}") from error
    unfinished.rename(place)


def _find_missing(path: Path, interpreter: Path, variables: Mapping[str, str]) -> list[str]:
    """Return what a worker needs and the environment lacks. Raises ``ModelLoadFailed`` where it cannot be added."""
    modules = {files[0]: name for name, files in _NEEDS.items()}
    try:
        done = subprocess.run(  # noqa: S603 - the model's own interpreter, which its owner names
            [interpreter, "-c", _PROBE, *modules], cwd="/", env=dict(variables), capture_output=True,
            stdin=subprocess.DEVNULL, timeout=_PROBE_TIMEOUT, check=False,
        )  # fmt: skip
        kind, version, missing = msgspec.json.decode(done.stdout, type=_PROBED)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelLoadFailed(f"the interpreter of {path} does not start: {error}") from error
    except msgspec.DecodeError as error:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ModelLoadFailed(
            f"the interpreter of {path} does not work: {said or 'it says nothing'}"
        ) from error
    lacks = [modules[each] for each in missing]
    own = sys.version_info[:2]
    if tuple(version) < _LOWEST:
        raise ModelLoadFailed(
            f"{path} has Python {_dotted(version)}, and workers need Python {_dotted(_LOWEST)} or later: build it with "
            f"Python {_dotted(own)}"
        )
    if lacks and (kind, tuple(version)) != (sys.implementation.name, own):
        raise ModelLoadFailed(
            f"{path} has Python {_dotted(version)} without {', '.join(lacks)}, which a worker needs; the server's are for "
            f"Python {_dotted(own)}: add them to the environment, or build it with Python {_dotted(own)}"
        )
    return lacks


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _link_needs(links: Path, missing: Sequence[str]) -> None:
    """Link Mooring's own package and these distributions into a folder for the import path."""
    links.mkdir(parents=True, exist_ok=True)
    sources = [Path(mooring.__file__).parent]
    for distribution in missing:
        for name in _NEEDS[distribution]:
            sources += _find_files(name)
    for source in sources:
        link = links / source.name
        if not link.is_symlink():
            link.symlink_to(source)


def _find_files(name: str) -> list[Path]:
    """The package, the module or the folder of libraries of this name, in the server's own environment."""
    if name.endswith(".libs"):
        (package,) = _find_files(name.removesuffix(".libs"))
        beside = package.with_name(name)
        return [beside] if beside.is_dir() else []
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return []
    origin = Path(spec.origin)
    return [origin.parent if spec.submodule_search_locations else origin]
