"""config.toml (or .pbtxt): what a model of our own repository says of itself -> ``ModelSpec`` of each version.

    NAME/config.toml        name, platform, max_batch_size, [[inputs]], [[outputs]], [batching], [workers], [parameters]
    NAME/1/model.py         the model of version 1

Keys nobody knows are errors: a typo must not pass for a setting.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mooring.core.errors import ModelLoadFailed
from mooring.core.tensors import DATATYPES, Parameter, TensorSpec
from mooring.repository.mar import checked_name, inside
from mooring.repository.spec import BatchMode, Defaults, ModelSpec
from mooring.repository.textproto import Message, parse_textproto

_MOST_BYTES = 1 << 20
_Positive = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0)]

_BACKENDS = {"": "function", "function": "function", "python": "function", "builtin": "builtin"}


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table in which an unknown key is an error."""


class _Tensor(_Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    datatype: str
    shape: list[Annotated[int, Meta(ge=-1)]]
    id: str = ""  # AMD's chains tie tensors together by it; it says nothing of a single model


class _Batching(_Strict, frozen=True):
    max_delay_ms: Annotated[float, Meta(ge=0)] = 0.0
    mode: BatchMode | None = None
    exact_delay: bool | None = None


class _Workers(_Strict, frozen=True):
    min: Annotated[int, Meta(ge=0)] | None = None
    max: _Positive | None = None


class Declaration(_Strict, frozen=True, kw_only=True):
    """A model's config. ``entry`` is the file (``model.py:function``) or the builtin; times are in seconds."""

    name: str = ""
    platform: str = ""
    backend: str = ""
    entry: str = ""
    max_batch_size: _Positive = 1
    inputs: list[_Tensor] = []
    outputs: list[_Tensor] = []
    batching: _Batching = _Batching()
    workers: _Workers = _Workers()
    parameters: dict[str, Parameter] = {}
    queue_size: _Positive | None = None
    response_timeout: _Seconds | None = None
    startup_timeout: _Seconds | None = None
    client_timeout: Annotated[float, Meta(ge=0)] = 0.0
    retry: bool = True
    threads: Annotated[int, Meta(ge=0)] = 0


def find_declaration(folder: Path) -> Path | None:
    """A model's config: config.toml, else any .toml, there or in a folder of the same name in it, else any .pbtxt."""
    nested = folder / folder.name
    for place, pattern in (
        (folder, "config.toml"),
        (folder, "*.toml"),
        (nested, "*.toml"),
        (folder, "*.pbtxt"),
        (nested, "*.pbtxt"),
    ):
        found = sorted(file for file in place.glob(pattern) if not file.name.startswith("."))
        if found:
            return found[0]
    return None


def version_folders(folder: Path) -> list[Path]:
    """The folders 1, 2, 10 … of a model, in this order."""
    found = [
        entry
        for entry in folder.iterdir()
        if entry.name.isdecimal() and entry.name.isascii() and entry.is_dir()
    ]
    return sorted(found, key=lambda entry: (int(entry.name), entry.name))


def read_versions(
    folder: Path, url: str, *, name: str = "", defaults: Defaults | None = None
) -> list[ModelSpec]:
    """Every version of the model in ``folder``, the lowest first. ``name`` wins over the config's own.

    Raises ``ModelLoadFailed`` naming the file that is at fault.
    """
    file = find_declaration(folder)
    declared = read_declaration(file) if file else Declaration()
    where = str(file or folder)
    backend = _backend(declared, where)
    model = checked_name(name or declared.name or folder.name, where, "name")
    versions = version_folders(file.parent if file else folder)
    if backend == "builtin":
        places = [(place.name, place, declared.entry or model) for place in versions]
        places = places or [("1", folder, declared.entry or model)]
    else:
        places = [(place.name, place, _entry(declared, place)) for place in versions]
    if not places:
        raise ModelLoadFailed(
            f"model '{url}' has no version: expected a file such as {folder.name}/1/model.py"
        )
    common = _common(declared, defaults or Defaults())
    if file is not None and file.suffix == ".pbtxt" and declared.batching.mode is None:
        common["batch"] = BatchMode.STACK  # AMD's requests are single samples
    return [
        ModelSpec(
            name=model, version=version, backend=backend, location=str(place), entry=entry, url=url, **common
        )
        for version, place, entry in places
    ]


def read_declaration(file: Path) -> Declaration:
    """A config as it stands. Raises ``ModelLoadFailed`` naming the file and the key."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ModelLoadFailed(f"{file}: larger than a model's config can be ({_MOST_BYTES} bytes)")
        text = file.read_bytes().decode("utf-8-sig")
        table = _from_message(parse_textproto(text)) if file.suffix == ".pbtxt" else tomllib.loads(text)
        if "models" in table:
            raise ModelLoadFailed(f"{file}: chains ([[models]]) are not served yet")
        declared = msgspec.convert(table, Declaration)
        _check(declared, file)
    except OSError as error:
        raise ModelLoadFailed(f"{file}: {error.strerror or error}") from error
    except (ArithmeticError, RecursionError, ValueError) as error:
        raise ModelLoadFailed(f"{file}: {_readable(str(error))}") from error
    return declared


def _check(declared: Declaration, file: Path) -> None:
    for kind, tensors in (("inputs", declared.inputs), ("outputs", declared.outputs)):
        names = [tensor.name for tensor in tensors]
        if len(set(names)) < len(names):
            raise ModelLoadFailed(f"{file}: two of the {kind} have the same name")
        for tensor in tensors:
            if tensor.datatype not in DATATYPES:
                raise ModelLoadFailed(
                    f"{file}: {kind} '{tensor.name}' has the unknown datatype '{tensor.datatype}'; "
                    f"known are {', '.join(sorted(DATATYPES))}"
                )
    workers = declared.workers
    if workers.min is not None and workers.max is not None and workers.min > workers.max:
        raise ModelLoadFailed(f"{file}: workers.min is above workers.max")


def _backend(declared: Declaration, where: str) -> str:
    asked = declared.backend or declared.platform
    backend = _BACKENDS.get(asked)
    if backend is None:
        key = "backend" if declared.backend else "platform"
        known = ", ".join(sorted(filter(None, _BACKENDS)))
        raise ModelLoadFailed(f"{where}: unknown {key} '{asked}'; known are {known}")
    return backend


def _entry(declared: Declaration, place: Path) -> str:
    """The model's file in a version's folder: the one named, model.py, or the only one there is."""
    if declared.entry:
        inside(place, declared.entry.partition(":")[0], str(place))
        return declared.entry
    if (place / "model.py").is_file():
        return "model.py"
    files = [file.name for file in place.glob("*.py")]
    if len(files) != 1:
        raise ModelLoadFailed(f"model '{place}' has no model.py; put it there, or name its file as 'entry'")
    return files[0]


def _common(declared: Declaration, defaults: Defaults) -> dict[str, Any]:
    batching, workers = declared.batching, declared.workers
    least = workers.min if workers.min is not None else min(defaults.workers, workers.max or defaults.workers)
    return {
        "platform": declared.platform or declared.backend,
        "inputs": [TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in declared.inputs],
        "outputs": [TensorSpec(tensor.name, tensor.datatype, tensor.shape) for tensor in declared.outputs],
        "parameters": declared.parameters,
        "batch": batching.mode or BatchMode.CONCAT,
        "max_batch_size": declared.max_batch_size,
        "max_delay": batching.max_delay_ms / 1000,
        "exact_delay": defaults.exact_delay if batching.exact_delay is None else batching.exact_delay,
        "min_workers": least,
        "max_workers": max(workers.max or least, 1),
        "queue_size": declared.queue_size or defaults.queue_size,
        "response_timeout": declared.response_timeout or defaults.response_timeout,
        "startup_timeout": declared.startup_timeout or defaults.startup_timeout,
        "client_timeout": declared.client_timeout,
        "retry": declared.retry,
        "threads": declared.threads,
        "max_response_bytes": defaults.max_response_bytes,
        "decode_input": defaults.decode_input,
        "limit_image_pixels": defaults.limit_image_pixels,
    }


def _from_message(message: Message) -> dict[str, Any]:
    """A text-proto config in the form of a TOML one. AMD's ``versions`` is what the folders say anyway."""
    table: dict[str, Any] = {}
    for key, values in message.items():
        if key in ("inputs", "outputs"):
            table[key] = [_from_tensor(value) for value in values]
        elif key == "parameters":
            table[key] = dict(_from_parameter(value) for value in values)
        elif key in ("batching", "workers"):
            table[key] = {inner: _last(found) for inner, found in _fields(_last(values)).items()}
        elif key != "versions":
            table[key] = _last(values)
    return table


def _from_tensor(value: Any) -> dict[str, Any]:
    return {key: found if key == "shape" else _last(found) for key, found in _fields(value).items()}


def _from_parameter(value: Any) -> tuple[str, Any]:
    """An entry of a map: ``{ key: "size" value { int64_param: 4 } }``."""
    entry = _fields(value)
    held = _last(entry.get("value", []))
    if isinstance(held, dict):
        held = _last([each for found in held.values() for each in found])
    return str(_last(entry.get("key", []))), held


def _fields(value: Any) -> Message:
    if not isinstance(value, dict):
        raise ValueError(f"expected a message in braces, got {value!r}")  # noqa: TRY004 - a fault of the text, as every other
    return value


def _last(values: list[Any]) -> Any:
    """Of a single field that is given twice, protobuf takes the last."""
    if not values:
        raise ValueError("expected a value, got an empty list")
    return values[-1]


def _readable(text: str) -> str:
    """A sentence of msgspec with the path as a user writes it: ``inputs[0].shape``."""
    reason, _, path = text.partition(" - at `$")
    return f"{path.strip('`.')}: {reason[:1].lower()}{reason[1:]}" if path else reason
