"""A model's own requirements: installed by pip into a folder of its own, and never into the server's.

    MODEL/.packages/<digest>/      what a requirements.txt asked for; its worker imports from there first
    MODEL/.packages/<digest>-venv  a link to a virtual environment (useVenv), which has only what the server has not

The digest is of what was asked for, so that a model of the user's own folder is installed once and not at every start,
and a change of the file never touches packages that a running worker imports from.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections import deque
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mooring.core.errors import RequirementsFailed
from mooring.observability.logs import Throttle, get_logger

log = get_logger(__name__)

_PACKAGES = ".packages"
_LINES_KEPT = 30
_ERRORS_SHOWN = 3
_LINES_A_SECOND = 2
_PIP = (
    sys.executable,
    "-P",  # a model may have a json.py; pip is to import the real one
    "-m",
    "pip",
)
_INSTALL = (
    "install",
    "--disable-pip-version-check",
    "--no-input",
    "--no-color",
    "--progress-bar=off",
)


def install_requirements(requirements: Path, folder: Path, model: str) -> Path:
    """Install a requirements file into a folder, and return that folder; pip is not run where it is there already.

    Paths in the file are relative to the model's ``folder``, so that an archive may carry its wheels. Blocks for as long
    as pip takes. Raises ``RequirementsFailed``, which has pip's reason; then nothing is left behind.
    """
    try:
        return _install_once(requirements, folder, model)
    except OSError as error:
        raise _install_error(model, f"{error.strerror or error}: {error.filename or folder}") from error


def _install_once(requirements: Path, folder: Path, model: str) -> Path:
    home = folder / _PACKAGES
    target = home / _digest_of(requirements, folder)
    if target.is_dir():
        log.info("requirements are installed already", model=model, file=requirements.name)
        return target
    _demand_pip(model)
    home.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=home))
    try:
        _run_pip(requirements, folder, (), ("--target", str(partial)), model)
        partial.chmod(0o755)
        if not target.is_dir():  # another server of the same folder may have been faster
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def install_in_venv(requirements: Path, folder: Path, model: str) -> Path:
    """Install a requirements file into a virtual environment, and return that; else as ``install_requirements``.

    It sees the packages of the server, so that only what is missing there, or is another version, is installed.
    """
    try:
        return _make_venv(requirements, folder, model)
    except OSError as error:
        raise _install_error(model, f"{error.strerror or error}: {error.filename or folder}") from error


def packages_of(environment: Path) -> Path:
    """The folder of a virtual environment's packages."""
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _make_venv(requirements: Path, folder: Path, model: str) -> Path:
    home = folder / _PACKAGES
    # A link to it: an environment cannot be moved, and only a whole one may be found under this name.
    link = home / f"{_digest_of(requirements, folder)}-venv"
    if link.is_dir():
        log.info("requirements are installed already", model=model, file=requirements.name)
        return link.resolve()
    _demand_pip(model)
    home.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="venv-", dir=home))
    try:
        venv.create(made, symlinks=True)
        seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (packages_of(made) / "server.pth").write_text("\n".join(seen))
        _run_pip(requirements, folder, ("--python", str(made)), (), model)
        made.chmod(0o755)
        link.symlink_to(made.name)
    except FileExistsError:  # another server of the same folder was faster
        shutil.rmtree(made, ignore_errors=True)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return link.resolve()


def _demand_pip(model: str) -> None:
    if find_spec("pip") is None:
        raise _install_error(model, f"{sys.executable} has no pip; run it with -m ensurepip")


def _run_pip(
    requirements: Path, folder: Path, first: Sequence[str], target: Sequence[str], model: str
) -> None:
    began = time.monotonic()
    log.info("installing requirements", model=model, file=requirements.name)
    command = (*_PIP, *first, *_INSTALL, *target, "-r", str(requirements))
    last: deque[str] = deque(maxlen=_LINES_KEPT)
    throttle = Throttle(_LINES_A_SECOND)
    with subprocess.Popen(  # noqa: S603 - this interpreter's pip, on the model's own file
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            last.append(line.rstrip())
            if line.strip() and throttle.allow_line(time.monotonic()):
                log.info("installing", model=model, pip=line.strip())
    if pip.returncode:
        raise _install_error(model, _reason_of(last), "\n".join(last))
    seconds = round(time.monotonic() - began, 1)
    log.info("requirements installed", model=model, seconds=seconds, lines_left_out=throttle.left_out)


def _digest_of(requirements: Path, folder: Path) -> str:
    digest = hashlib.sha256(sys.version.encode())
    digest.update(requirements.read_bytes())
    for wheel in sorted(folder.rglob("*.whl")):
        state = wheel.stat()
        digest.update(
            f"{wheel.relative_to(folder)} {state.st_size} {state.st_mtime_ns}\n".encode(errors="replace")
        )
    return digest.hexdigest()[:16]


def _reason_of(lines: Sequence[str]) -> str:
    """Say why pip failed, from its last lines.

    >>> _reason_of(["Collecting x", "ERROR: No matching distribution found for x", ""])
    'ERROR: No matching distribution found for x'
    """
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if line.lower().startswith("error:")] or said[-1:]
    offline = any("after connection broken by" in line for line in said)
    hint = ["pip did not reach its package index"] if offline else []
    return "; ".join([*errors[-_ERRORS_SHOWN:], *hint]) or "pip said nothing"


def _install_error(model: str, reason: str, detail: str = "") -> RequirementsFailed:
    log.error("requirements not installed", model=model, reason=reason)
    # TorchServe's text, which its users search for.
    text = f"Custom pip package installation failed for model {model}: {reason}"
    return RequirementsFailed(text, model=model, detail=detail or reason)
