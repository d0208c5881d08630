"""What an argument of ``mooring serve`` means: a file, a function of a module, a folder or an address.

    FILE.mar                a TorchServe archive; also .zip and .tar.gz
    FILE.onnx FILE.pt2 ...  a model that is one file
    FILE.py                 the file's Model or infer, else its only function or class that can be a model
    FILE.py:NAME            that function or class
    MODULE:NAME             the same by the name of its module, found beside the current folder or installed (app:Model, pkg.mod:fn)
    FOLDER                  the model in a folder
    https://...             an archive or a model file elsewhere, where allowed_urls names its address

NAME= in front gives the model its name. Server and doctor ask here. None of a model's code is run: Python files are read
as text, and modules are found by their files.
"""

import enum
import importlib.util
import os
import re
import stat
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from mooring.core.errors import ModelLoadFailed, ModelNotFound, SourceRefused
from mooring.repository.fetch import is_remote, url_for_log
from mooring.repository.layout import (
    find_declaration,
    is_dangling_link,
    is_file,
    is_folder,
    list_entries,
    model_folders,
    version_folders,
)
from mooring.repository.mar import SUFFIXES as ARCHIVE_SUFFIXES
from mooring.repository.platforms import LIBRARIES, SUFFIXES, backend_of, runs_triton_model
from mooring.repository.python_source import (
    SourceUnreadable,
    binds_name,
    find_models,
    may_define,
    names_bound,
    read_source,
)

# Files that are fetched: archives, and models that run no code of their own.
FETCHED_SUFFIXES = (*ARCHIVE_SUFFIXES, ".onnx", ".pt2")
_MODEL_SUFFIXES = tuple(suffix for backend in LIBRARIES for suffix in SUFFIXES[backend])
_SETTINGS_SUFFIXES = (".toml", ".properties", ".cfg")
_SERVED_SUFFIXES = (".py", *_MODEL_SUFFIXES, *ARCHIVE_SUFFIXES)
# How an address of such a kind is copied to this machine.
_BUCKETS = {
    "s3": "aws s3 cp",
    "gs": "gcloud storage cp",
    "az": "azcopy copy",
    "abfs": "azcopy copy",
    "abfss": "azcopy copy",
}
_HUBS = ("huggingface.co", "hf.co")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
# Names of functions and classes that say nothing: the model is called as its file.
_GENERIC = frozenset({"", "Model", "infer"})
_MOST_LISTED = 8


class TargetKind(enum.Enum):
    """What a target is."""

    ARCHIVE = enum.auto()
    FOLDER = enum.auto()
    FUNCTION = enum.auto()  # or a class, of a Python file
    FILE = enum.auto()  # a model that is one file
    URL = enum.auto()


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What a target is and where it lies. ``text`` is what the user wrote, without NAME=.

    ``name`` is the model's, empty where what lies there says it. Of a ``FUNCTION``, ``function`` is its name, empty for a
    file's own Model or infer, and ``module`` the dotted name by which its file is imported, empty for a file that is
    imported by itself. Of a ``URL``, ``place`` is its last part.
    """

    kind: TargetKind
    text: str
    place: Path
    name: str = ""
    function: str = ""
    module: str = ""

    @property
    def root(self) -> Path:
        """The folder that ``module`` is imported from, or the folder of the file."""
        parts = self.module.count(".") + (self.place.name == "__init__.py") if self.module else 0
        return self.place.parents[parts]


def find_target(target: str) -> Target:
    """Find what a target means.

    Raises ``ModelNotFound``, ``ModelLoadFailed`` or ``SourceRefused``, which say what would be understood.
    """
    name, text = split_target(target)
    if is_remote(text):
        return _remote_target(name, text)
    if not text:
        raise ModelNotFound(
            f"target '{target}' names nothing to serve: give a file, FILE.py:NAME, a folder or a URL"
        )
    place = Path(text)
    if not _exists(place):
        path, colon, function = text.rpartition(":")
        if colon and path.endswith(".py"):
            return _function_target(name, text, Path(path), function)
        if colon and _MODULE.fullmatch(path):
            return _module_target(name, text, path, function)
        raise ModelNotFound(_explain_missing(text))
    if is_folder(place):
        kind = TargetKind.FOLDER
    elif place.suffix == ".py":
        return _function_target(name, text, place, "")
    elif place.suffix in _SETTINGS_SUFFIXES:
        raise ModelLoadFailed(
            f"'{text}' is a file of settings, not a model: mooring serve --config {text} starts with it"
        )
    elif backend_of(place):
        kind = TargetKind.FILE
    elif place.name.endswith(ARCHIVE_SUFFIXES) or _is_packed(place):
        kind = TargetKind.ARCHIVE
    else:
        raise ModelLoadFailed(
            f"'{text}' is not a model: files that can be served end in {', '.join(_SERVED_SUFFIXES)}"
        )
    return Target(kind=kind, text=text, place=place, name=name)


def split_target(target: str) -> tuple[str, str]:
    """Split NAME=PATH. A path may hold a = itself."""
    name, equals, path = target.partition("=")
    if not equals or "/" in name or _exists(Path(target)):
        return "", target
    return name, path


def choose_function(file: Path) -> str:
    """Choose what a Python file serves where the target names nothing; empty where it has a Model or infer, or cannot be read.

    Raises ``ModelLoadFailed`` that lists the names to choose from.
    """
    try:
        tree = read_source(file)
    except SourceUnreadable:  # who imports it says what is wrong, with the line
        return ""
    if binds_name(tree, "Model") or binds_name(tree, "infer"):
        return ""
    found = find_models(tree)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelLoadFailed(
            f"'{file}' defines no function or class that can be a model: write a function, or a class with a "
            "method infer, and name it as FILE.py:NAME"
        )
    raise ModelLoadFailed(
        f"'{file}' defines several functions and classes: {_listed(found)}; name the one to serve, as in {file}:{found[0]}"
    )


def find_model_in_folder(folder: Path) -> Path | None:
    """Find the one file of a plain folder that is its model: model.py, app.py or model.onnx and the like, or the only model file.

    A Python file is a model where its text shows one.
    """
    for name in ("model.py", "app.py"):
        file = folder / name
        if is_file(file) and (runs_triton_model(file) or _serves_alone(file)):
            return file
    files = [each for each in list_entries(folder) if is_file(each) and backend_of(each) in LIBRARIES]
    named = [each for suffix in _MODEL_SUFFIXES for each in files if each.name == f"model{suffix}"]
    if named or len(files) == 1:
        return (named or files)[0]
    file = folder / "model.py"  # of which who loads it says what is wrong
    return file if is_file(file) else None


def _serves_alone(file: Path) -> bool:
    try:
        tree = read_source(file)
    except SourceUnreadable:
        return False
    return binds_name(tree, "Model") or binds_name(tree, "infer") or len(find_models(tree)) == 1


def suggest_targets(folder: Path, shown: Path) -> list[tuple[str, str]]:
    """Return what of a folder's own files can be a target: the file's name, and the target behind ``mooring serve``.

    ``shown`` is the folder as the user names it.
    """
    found: list[tuple[str, str]] = []
    for file in sorted(each for each in list_entries(folder) if is_file(each)):
        if file.name.startswith(".") or not file.name.endswith(_SERVED_SUFFIXES):
            continue
        text = str(shown / file.name)
        if file.suffix != ".py" or runs_triton_model(file):
            found.append((file.name, text))
            continue
        try:
            tree = read_source(file)
        except SourceUnreadable:
            continue
        if {"Model", "infer"} & set(names_bound(tree)):
            found.append((file.name, text))
        else:
            found += [(file.name, f"{text}:{each}") for each in find_models(tree)]
    return found


def explain_folder(folder: Path, shown: str) -> str:
    """Say why a folder is not one model, what is in it, and what to do."""
    models = [
        each
        for each in model_folders(folder)
        if find_declaration(folder / each) or version_folders(folder / each)
    ]
    if models:
        return (
            f"folder '{shown}' holds models in folders of their own ({_listed(models)}): it is a model repository; serve it with "
            f"mooring serve --model-repository {shown}"
        )
    targets = [text for _, text in suggest_targets(folder, Path(shown))]
    if targets:
        return (
            f"folder '{shown}' holds no model of its own, but files that can be served: {_listed(targets)}; "
            f"name one, as in mooring serve {targets[0]}"
        )
    names = sorted(each.name for each in list_entries(folder) if not each.name.startswith("."))
    return (
        f"folder '{shown}' holds no model: there is {_listed(names) if names else 'nothing'}; expected one of model.onnx, "
        "model.pt2, model.py, 1/model.onnx, config.toml or MAR-INF/MANIFEST.json"
    )


def refuse_url(url: str) -> SourceRefused:
    """Say that a URL is on no allow-list, with the flag that allows it."""
    shown = url_for_log(url)
    folder = re.escape(shown.rpartition("/")[0])
    return SourceRefused(
        f"'{shown}' is not fetched, since its address is not allowed; allow it by --allowed-urls '{folder}/.*', or "
        "allowed_urls in a file of settings: a regular expression that the whole URL must match"
    )


def _remote_target(name: str, url: str) -> Target:
    scheme = url.partition("://")[0].lower()
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SourceRefused(f"'{url_for_log(url)}' is not a URL") from None
    host = (parts.hostname or "").lower()
    file = Path(unquote(parts.path))
    direct = file.name.endswith(FETCHED_SUFFIXES)
    if scheme == "hf" or (any(host == each or host.endswith(f".{each}") for each in _HUBS) and not direct):
        model = url.partition("://")[2] if scheme == "hf" else parts.path.strip("/")
        raise SourceRefused(_explain_hub("/".join(model.split("/")[:2])))
    if scheme in _BUCKETS:
        copied = file.name or "."
        raise SourceRefused(
            f"'{url_for_log(url)}' is not read from there; copy it to this machine first, as in "
            f"{_BUCKETS[scheme]} {url_for_log(url)} {copied}, and serve the copy, or name it by an https:// URL"
        )
    if scheme == "file":
        raise SourceRefused(f"'{url_for_log(url)}' is a file of this machine; name it by its path: {file}")
    if scheme not in ("http", "https"):
        raise SourceRefused(
            f"'{url_for_log(url)}' has the unknown scheme {scheme}; http:// and https:// URLs are fetched"
        )
    if not direct:
        raise SourceRefused(
            f"'{url_for_log(url)}' is not a file that is served from elsewhere: those end in "
            f"{', '.join(FETCHED_SUFFIXES)}"
        )
    return Target(kind=TargetKind.URL, text=url, place=Path(file.name), name=name)


def _function_target(name: str, text: str, file: Path, function: str) -> Target:
    if not is_file(file):
        raise ModelNotFound(_explain_missing_file(file))
    if function and not function.isidentifier():
        owner, dot, method = function.partition(".")
        hint = (
            f"; of a class name the class alone, as in {file}:{owner}"
            if dot and method.isidentifier()
            else ""
        )
        raise ModelLoadFailed(f"'{text}': '{function}' cannot be the name of a function{hint}")
    stem = file.parent.name if file.name == "__init__.py" else file.stem
    chosen = name or (stem if function in _GENERIC else function)
    if function:
        _check_defined(file, function)
    elif not runs_triton_model(file):
        function = choose_function(file)
    return Target(kind=TargetKind.FUNCTION, text=text, place=file, name=chosen, function=function)


def _module_target(name: str, text: str, module: str, function: str) -> Target:
    """Find a function by the name of its module, which is looked for and not imported."""
    file = _find_module(module)
    if file is None:
        raise ModelNotFound(
            f"no module '{module}' for '{text}': there is no {module.replace('.', '/')}.py in {Path.cwd()}, and none is "
            f"installed{_suggest_module(module)}"
        )
    found = _function_target(name, text, file, function)
    dotted = module if "." in module or file.name == "__init__.py" else ""
    return msgspec.structs.replace(found, module=dotted)


def _find_module(module: str) -> Path | None:
    """Find the file of a module, in the current folder or installed; no package on the way is imported."""
    places: Iterable[str] = [str(Path.cwd()), *(each for each in sys.path if each)]
    first, *_ = parts = module.split(".")
    origin: str | None = None
    for part in parts:
        origin, inside = _find_in(places, part)
        if origin is None and not inside and part == first:
            origin, inside = _find_installed(part)
        if origin is None and not inside:
            return None
        places = inside
    return Path(origin) if origin is not None and origin.endswith(tuple(SOURCE_SUFFIXES)) else None


def _find_in(places: Iterable[str], part: str) -> tuple[str | None, Sequence[str]]:
    """Find a module or package by its last name: its file, and the folders of what is in it."""
    spaces: list[str] = []
    for place in places:
        spec = FileFinder(place, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(part)
        if spec is None:
            continue
        if spec.loader is not None:
            return spec.origin, list(spec.submodule_search_locations or ())
        spaces += spec.submodule_search_locations or ()  # a package without __init__.py
    return None, spaces


def _find_installed(name: str) -> tuple[str | None, Sequence[str]]:
    """Ask the finders of installed packages, editable ones among them. A top-level name makes them import nothing."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None, ()
    if spec is None:
        return None, ()
    return spec.origin, list(spec.submodule_search_locations or ())


def _check_defined(file: Path, function: str) -> None:
    """Raise ``ModelLoadFailed`` where a file defines no such name, as far as its text tells."""
    try:
        tree = read_source(file)
    except SourceUnreadable:  # who imports it says what is wrong, with the line
        return
    if may_define(tree, function):
        return
    close = get_close_matches(function, names_bound(tree), 1)
    known = find_models(tree)
    hint = f"; did you mean {close[0]}?" if close else f"; there is {_listed(known)}" if known else ""
    raise ModelLoadFailed(f"{file} defines no function or class '{function}'{hint}")


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except (OSError, ValueError):  # a name too long, or one that no file system can hold
        return False


def _is_packed(file: Path) -> bool:
    """Whether a file is a zip or a gzipped one, whatever it is called; also where it cannot be read, which is told later."""
    try:
        if not is_file(file):  # a pipe or a device, which may block
            return False
        with file.open("rb") as opened:
            return opened.read(2) in (b"PK", b"\x1f\x8b")
    except OSError:
        return True


def _explain_missing(text: str) -> str:
    """Say that there is no such target, and what may have been meant."""
    if special := _explain_unusable(Path(text)):
        return special
    if _HUB_NAME.fullmatch(text) and not text.endswith(_SERVED_SUFFIXES) and not Path(text).parent.exists():
        return f"no such file or folder: '{text}'; if the Hugging Face hub is meant: {_explain_hub(text)}"
    if is_file(Path(f"{text}.py")):
        return f"no such file or folder: '{text}'; did you mean {text}.py?"
    if text.isidentifier():
        meant = [target for _, target in suggest_targets(Path(), Path()) if target.endswith(f".py:{text}")]
        if meant:
            return f"no such file or folder: '{text}'; did you mean {meant[0]}?"
    path, colon, function = text.rpartition(":")
    if colon and is_file(Path(f"{path}.py")):
        return f"no such file or folder: '{text}'; did you mean {path}.py:{function}?"
    return f"no such file or folder: '{text}'{_suggest_file(Path(text))}"


def _explain_missing_file(file: Path) -> str:
    return _explain_unusable(file) or f"no such file: '{file}'{_suggest_file(file)}"


def _explain_unusable(place: Path) -> str:
    """Say why a path is nothing to serve although there is something, or may be; empty where there is nothing."""
    if is_dangling_link(place):
        return f"'{place}' is a link that leads nowhere: {place.readlink()} is not there"
    try:
        mode = place.stat().st_mode
    except PermissionError:
        return f"'{place}' cannot be read: permission denied; the server runs as user {os.geteuid()}"
    except (OSError, ValueError):
        return ""
    return f"'{place}' is a {'folder' if stat.S_ISDIR(mode) else 'pipe or a device'}, not a file"


def _explain_hub(model: str) -> str:
    named = f"'{model}'" if model else "this"
    start = f", and start it with MODEL={model}" if model else ""
    return (
        f"{named} is a model of the Hugging Face hub, which is not served by its name: a class in Python loads it; "
        f"write one by `mooring init NAME --template llm`{start}"
    )


def _suggest_file(file: Path) -> str:
    folder = file.parent
    if not is_folder(folder):
        return f"; there is no folder '{folder}'"
    names = sorted(
        each.name
        for each in list_entries(folder)
        if not each.name.startswith(".") and (each.name.endswith(_SERVED_SUFFIXES) or each.is_dir())
    )
    close = get_close_matches(file.name, names, 1)
    if close:
        return f"; did you mean {folder / close[0]}?"
    served = [each for each in names if each.endswith(_SERVED_SUFFIXES)]
    return f"; there is {_listed(served)}" if served else ""


def _suggest_module(module: str) -> str:
    close = get_close_matches(
        f"{module.replace('.', '/')}.py", [str(each) for each in Path().glob("*.py")], 1
    )
    return f"; did you mean {close[0].removesuffix('.py')}?" if close else ""


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
