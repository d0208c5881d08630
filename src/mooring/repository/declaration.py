"""config.toml (or .pbtxt): what a model of our own repository says of itself -> ``ModelSpec`` of each version.

    NAME/config.toml        name, platform, max_batch_size, [[inputs]], [[outputs]], [batching], [workers], [parameters]
    NAME/1/model.py         the model of version 1; which file it is, platforms.py says

A config with ``[[models]]`` is a chain: every stage is a model of its own, and the chain one that runs them in order.
Keys nobody knows are errors: a typo must not pass for a setting.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mooring.core.errors import ModelLoadFailed, ModelNotFound
from mooring.core.paths import real_path
from mooring.core.tensors import DATATYPES, Parameter, TensorSpec
from mooring.core.versions import VersionPolicy
from mooring.repository.layout import (
    find_declaration,
    flat_file,
    is_file,
    is_folder,
    named_file,
    padded_versions,
    version_folders,
    why_no_version,
)
from mooring.repository.mar import checked_name
from mooring.repository.platforms import (
    AMD_PLATFORMS,
    DEFAULT_BATCH,
    LIBRARIES,
    backend_named,
    backend_of,
    loads_alone,
    model_in,
)
from mooring.repository.spec import (
    MOST_CONCURRENT,
    BatchMode,
    Control,
    ControlKind,
    Defaults,
    ModelSpec,
    QueuePolicy,
    SequenceSettings,
    WaitPolicy,
    Warmup,
    WarmupInput,
)
from mooring.repository.textproto import Message, parse_textproto
from mooring.repository.triton import declaration_of, has_keys_of_its_own, is_amd, is_triton
from mooring.repository.triton_config import TritonConfig, config_from_text, is_key, unknown_key

_MOST_BYTES = 1 << 20
# The largest whole number that messages and answers can carry. The longest time holds the 2^64 microseconds that Triton's
# configurations may say, in milliseconds as well.
_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1
_LONGEST = 2e13
_Positive = Annotated[int, Meta(ge=1, le=_LARGEST)]
_Size = Annotated[int, Meta(ge=-1, le=_LARGEST)]
_Count = Annotated[int, Meta(ge=0, le=_LARGEST)]
_Seconds = Annotated[float, Meta(gt=0, le=_LONGEST)]
_Wait = Annotated[float, Meta(ge=0, le=_LONGEST)]

_WHOLE = ("INT32", "UINT32", "INT64", "UINT64")
_FLAGS = ("BOOL", "INT32", "FP32")
# What a model of our own may have at a time where it does not say; TorchServe's and Triton's say.
_SEQUENCES = 1000

_Labels = str | list[str] | dict[str, str | list[str]]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table in which an unknown key is an error."""


class _Tensor(_Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    datatype: str
    shape: list[_Size]
    id: str = ""  # AMD's chains tie tensors together by it; it says nothing of a single model
    reshape: list[_Size] | None = None


class _Input(_Tensor, frozen=True):
    optional: bool = False


class _Output(_Tensor, frozen=True):
    labels: _Labels = []


class _Batching(_Strict, frozen=True):
    max_delay_ms: Annotated[float, Meta(ge=0, le=_LONGEST * 1000)] = 0.0
    mode: BatchMode | None = None
    exact_delay: bool | None = None


class _Workers(_Strict, frozen=True):
    min: _Count | None = None
    max: _Positive | None = None
    max_requests: _Count | None = None
    memory_limit: _Count | None = None


class _WaitPolicy(_Strict, frozen=True):
    queue_size: _Count = 0
    timeout: _Wait = 0.0
    timeout_action: Literal["reject", "delay"] = "reject"


class _QueuePolicy(_WaitPolicy, frozen=True):
    priority_levels: _Count = 0
    default_priority_level: _Count = 0
    preserve_ordering: bool = False
    by_priority: dict[str, _WaitPolicy] = {}


class _Control(_Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    kind: ControlKind
    datatype: str = "INT32"
    values: tuple[float, float] = (0, 1)


class _Sequences(_Strict, frozen=True):
    max: _Positive | None = None
    per_worker: _Count = 0
    queue_size: _Positive = 1000
    max_idle: _Wait = 0.0
    timeout: _Wait = 0.0
    controls: list[_Control] = []


class _WarmupInput(_Strict, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    datatype: str
    shape: list[_Count]
    data: str = "zero"


class _Warmup(_Strict, frozen=True):
    name: str = ""
    count: _Positive = 1
    rows: _Positive = 1
    body: str = ""
    content_type: str = ""
    inputs: list[_WarmupInput] = []
    data: Literal["zero", "random"] = "zero"


class _VersionPolicy(_Strict, frozen=True):
    latest: Annotated[int, Meta(ge=1, lt=1 << 32)] | None = None
    all: bool = False
    specific: list[Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]] = []


class Declaration(_Strict, frozen=True, kw_only=True):
    """A model's config. ``entry`` is the file (``model.py:function``) or the builtin; times are in seconds.

    ``id`` is AMD's name for the file. ``labels`` are names of classes, or the file that has them. ``explain`` is judged
    where the model is loaded (explain/settings.py). A model whose own
    file shows a batch dimension, and whose rows are shown to be independent, is batched although ``max_batch_size`` is
    left out (platforms.DEFAULT_BATCH).
    """

    name: str = ""
    platform: str = ""
    backend: str = ""
    entry: str = ""
    id: str = ""
    version_policy: _VersionPolicy | None = None
    max_batch_size: _Positive | None = None
    inputs: list[_Input] = []
    outputs: list[_Output] = []
    decoupled: bool = False
    batching: _Batching = _Batching()
    workers: _Workers = _Workers()
    sequences: _Sequences | None = None
    parameters: dict[str, Parameter] = {}
    labels: _Labels = []
    explain: dict[str, Any] = {}
    models: list["Declaration"] = []
    queue_size: _Positive | None = None
    queue_policy: _QueuePolicy = _QueuePolicy()
    concurrency: _Positive = MOST_CONCURRENT
    job_ticket: bool = False
    response_timeout: _Seconds | None = None
    startup_timeout: _Seconds | None = None
    client_timeout: _Wait = 0.0
    retry: bool = True
    threads: _Count = 0
    warmup: list[_Warmup] = []
    preload: bool | None = None
    optimize: bool = True
    channels_last: bool = False


class TritonDeclaration(Declaration, frozen=True, kw_only=True):
    """One that is written for Triton, whose rules hold for what it leaves open; ``configuration`` is it as it stands."""

    configuration: TritonConfig = {}

    @property
    def batch_dimension(self) -> bool | None:
        """Whether shapes have a batch dimension, None where nothing is said."""
        said = "max_batch_size" in self.configuration or "input" in self.configuration
        return self.configuration.get("max_batch_size", 0) > 0 if said else None


# Keys that tell a text proto of our own form, or AMD's, from Triton's.
_OURS_ALONE = frozenset(Declaration.__struct_fields__) - {
    "name",
    "platform",
    "backend",
    "max_batch_size",
    "parameters",
    "version_policy",
}


class RepositoryModel(msgspec.Struct, frozen=True):
    """What was read of a model's folder: the versions to serve, the lowest first, and those that cannot be.

    ``faults`` has the reason of each version that is to be served and cannot be, ``left_aside`` the versions that
    ``policy`` leaves out, ``padded`` the folders that are no versions since their numbers have leading zeros.
    """

    specs: list[ModelSpec]
    policy: VersionPolicy
    faults: dict[str, ModelLoadFailed] = {}
    left_aside: list[str] = []
    padded: list[str] = []

    @property
    def first_fault(self) -> ModelLoadFailed | None:
        """Why the lowest version that cannot be served cannot be."""
        return next(iter(self.faults.values()), None)


class VersionChoice(msgspec.Struct, frozen=True):
    """Which versions somebody asks for: ``only`` one, or as ``policy`` (or else the model's own) says, and ``also`` these."""

    only: str = ""
    also: frozenset[str] = frozenset()
    policy: VersionPolicy | None = None


def read_repository_model(
    folder: Path, *, url: str = "", defaults: Defaults | None = None, choice: VersionChoice | None = None
) -> RepositoryModel:
    """The model in a folder of a repository. This is the verdict of the server and of ``mooring doctor`` alike.

    Raises ``ModelLoadFailed`` where nothing of it can be served, saying what is wrong and what to do.
    """
    if not is_folder(folder):
        raise ModelLoadFailed(why_no_version(folder))
    return _read_folder(
        folder, url or str(folder), "", defaults, choice or VersionChoice(), in_repository=True
    )


def read_versions(
    folder: Path, url: str, *, name: str = "", defaults: Defaults | None = None
) -> list[ModelSpec]:
    """The versions to serve of a model that somebody names by its folder. ``name`` wins over the config's own.

    Raises ``ModelLoadFailed`` naming the file that is at fault.
    """
    found = _read_folder(folder, url, name, defaults, VersionChoice(), in_repository=False)
    if found.first_fault is not None:
        raise found.first_fault
    return found.specs


def _read_folder(
    folder: Path,
    url: str,
    name: str,
    defaults: Defaults | None,
    choice: VersionChoice,
    *,
    in_repository: bool,
) -> RepositoryModel:
    file = find_declaration(folder)
    declared = read_declaration(file) if file else Declaration(version_policy=_VersionPolicy(latest=1))
    if in_repository and isinstance(declared, TritonDeclaration) and declared.name not in ("", folder.name):
        raise ModelLoadFailed(
            f"{file}: name is '{declared.name}' and the folder's is '{folder.name}'; Triton's configurations must "
            "have their folder's name: rename one of them, or leave name out"
        )
    policy = choice.policy or _policy(declared)
    home = _Home(file.parent if file else folder, url, str(file or folder), defaults or Defaults(), policy)
    model = checked_name(name or declared.name or folder.name, home.where, "name")
    there = _places(declared, home)
    chosen = policy.choose(list(there), choice.also) if not choice.only else [choice.only]
    if choice.only and choice.only not in there:
        raise ModelNotFound(f"model '{model}' has no version '{choice.only}' in the repository", model=model)
    if not chosen:
        raise ModelLoadFailed(
            f"model '{url}' has no version that its version_policy serves ({policy}); there is {', '.join(there)}"
        )
    found = RepositoryModel(
        [], policy, {}, [each for each in there if each not in chosen], padded_versions(home.folder)
    )
    for version in chosen:
        try:
            place = real_path(there[version])
            found.specs.extend(_version(declared, model, version, place, home))
        except ModelLoadFailed as error:
            found.faults[version] = error
        except OSError as error:  # its folder went meanwhile
            reason = f"version '{version}' of '{url}' cannot be read: {error.strerror or error}"
            found.faults[version] = ModelLoadFailed(reason, model=model, version=version)
    if not found.specs and found.first_fault is not None:
        raise found.first_fault
    return found


def _places(declared: "Declaration", home: "_Home") -> dict[str, Path]:
    """The folder of each version, the lowest first. Raises ``ModelLoadFailed`` where there is none."""
    numbered = {place.name: place for place in version_folders(home.folder)}
    if numbered:
        return numbered
    backend = _backend(declared, home.where)
    named = (declared.entry or declared.id).partition(":")[0]
    if declared.models or backend == "builtin" or (named and is_file(home.folder / named)):
        return {"1": home.folder}
    if flat_file(home.folder, backend):
        return {"1": home.folder}
    raise ModelLoadFailed(why_no_version(home.folder))


def _policy(declared: "Declaration") -> VersionPolicy:
    """What a configuration says of its versions; one of Triton's that says nothing serves the latest, any other all."""
    said = declared.version_policy
    if said is None:
        return VersionPolicy(latest=1 if isinstance(declared, TritonDeclaration) else 0)
    return VersionPolicy(said.latest or 0, tuple(said.specific))


class _Home(msgspec.Struct, frozen=True):
    """Where a model's versions lie, and what goes for all of them. ``where`` is named in errors."""

    folder: Path
    url: str
    where: str
    defaults: Defaults
    policy: VersionPolicy


def _version(declared: Declaration, model: str, version: str, place: Path, home: _Home) -> list[ModelSpec]:
    """One version of a model; of a chain its stages, and after them the chain that runs them."""
    if not declared.models:
        return [_spec(declared, model, version, place, home)]
    stages = []
    for index, stage in enumerate(declared.models):
        name = checked_name(stage.name, home.where, "name of a stage")
        # AMD's chains are asked by the name of their first stage: that is the chain's then.
        name = f"{model}-{index}" if name == model else name
        stages.append(_spec(stage, name, version, place, home))
    if not declared.name:  # as in AMD's: whoever asks for a stage gets what the rest makes of it
        names = [stage.name for stage in stages]
        stages = [
            msgspec.structs.replace(stage, following=names[index:]) for index, stage in enumerate(stages, 1)
        ]
    common = {
        **_common(declared, home.defaults, home.defaults.workers),
        "platform": declared.platform or "chain",
        "inputs": stages[0].inputs,
        "outputs": stages[-1].outputs,
    }
    entry = ModelSpec(
        name=model,
        version=version,
        backend="chain",
        location=str(place),
        url=home.url,
        version_policy=home.policy,
        stages=[stage.name for stage in stages],
        **common,
    )
    return [*stages, entry]


def _spec(declared: Declaration, name: str, version: str, place: Path, home: _Home) -> ModelSpec:
    """One version of one model."""
    backend = _backend(declared, home.where)
    if backend == "builtin":
        entry = _builtin(declared, place) or name
    else:
        backend, entry = _file(declared, backend, place, home)
    rows: dict[str, Any] = {}
    if declared.max_batch_size is None and backend in LIBRARIES:
        rows = {"max_batch_size": DEFAULT_BATCH, "batch_is_default": True}
    workers = home.defaults.workers_of(sharing=_shares(declared, backend))
    common = {**_common(declared, home.defaults, workers), **rows}
    labels = _labels(declared.labels, place, home)
    output_labels = _output_labels(declared, place, home)
    warmup = [_warmup(each, index, place, home) for index, each in enumerate(declared.warmup, 1)]
    return ModelSpec(
        name=name,
        version=version,
        backend=backend,
        location=str(place),
        entry=entry,
        url=home.url,
        version_policy=home.policy,
        labels=labels,
        output_labels=output_labels,
        warmup=warmup,
        **common,
    )


_FIELDS: Mapping[str, tuple[str, ...]] = {
    "max_batch_size": ("max_batch_size", "batch_dimension"),
    "inputs": ("inputs", "batch"),
    "outputs": ("outputs", "batch"),
    "decoupled": ("decoupled",),
    "queue_size": ("queue_size",),
    "queue_policy": ("queue_policy",),
    "workers": ("min_workers", "max_workers", "workers_by_default"),
    "sequences": ("sequence", "retry"),
}
"""What a key of a configuration decides in a ``ModelSpec``, apart from what needs files."""


def reconfigured(spec: ModelSpec, config: TritonConfig) -> ModelSpec:
    """A version with a configuration of Triton's over its own. Raises ``ValueError`` or ``ModelLoadFailed``."""
    theirs = dict(spec.triton)
    for name in ("dynamic_batching", "sequence_batching"):
        if name in config:
            theirs.pop("sequence_batching" if name == "dynamic_batching" else "dynamic_batching", None)
    theirs |= config
    batched = spec.max_batch_size > 1 if spec.batch_dimension is None else spec.batch_dimension
    table = declaration_of(theirs, batched=batched)
    declared = msgspec.convert({**table, "configuration": theirs}, TritonDeclaration)
    where = f"version {spec.version}"
    _check(declared, where)
    if declared.backend != spec.backend and _backend(declared, where) not in ("", spec.backend):
        raise ValueError(f"backend: the model is run by {spec.backend}, which cannot be changed")
    place = Path(spec.location)
    home = _Home(place.parent, spec.url, where, Defaults(), VersionPolicy())
    common = _common(declared, home.defaults, spec.min_workers)
    changes = {field: common[field] for key in table for field in _FIELDS.get(key, ())}
    changes["triton"] = theirs
    if "max_batch_size" in table:
        changes["batch_is_default"] = False
    if "max_delay_ms" in table["batching"]:
        changes["max_delay"] = common["max_delay"]
    if "outputs" in table:
        changes["output_labels"] = _output_labels(declared, place, home)
    if "warmup" in table:
        changes["warmup"] = [
            _warmup(each, index, place, home) for index, each in enumerate(declared.warmup, 1)
        ]
    if "entry" in table:
        changes["entry"] = _file(declared, spec.backend, place, home)[1]
    return msgspec.structs.replace(spec, **changes)


def read_declaration(file: Path) -> Declaration:
    """A config as it stands. Raises ``ModelLoadFailed`` naming the file and the key."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ModelLoadFailed(f"{file}: larger than a model's config can be ({_MOST_BYTES} bytes)")
        text = file.read_bytes().decode("utf-8-sig")
        declared = (
            _from_text(parse_textproto(text))
            if file.suffix == ".pbtxt"
            else msgspec.convert(tomllib.loads(text), Declaration)
        )
        _check(declared, file)
    except OSError as error:
        raise ModelLoadFailed(f"{file}: {error.strerror or error}") from error
    except (ArithmeticError, RecursionError, ValueError) as error:
        raise ModelLoadFailed(f"{file}: {_readable(str(error))}") from error
    return declared


def _check(declared: Declaration, file: object) -> None:
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
            if tensor.reshape is not None:
                _check_reshape(tensor, declared, f"{file}: {kind} '{tensor.name}'")
    for control in declared.sequences.controls if declared.sequences else ():
        fits = ("BYTES", *_WHOLE) if control.kind is ControlKind.ID else _FLAGS
        if control.datatype not in fits:
            raise ModelLoadFailed(
                f"{file}: control '{control.name}' has the datatype '{control.datatype}'; one of kind "
                f"{control.kind} is {', '.join(fits)}"
            )
        if control.name in {tensor.name for tensor in declared.inputs}:
            raise ModelLoadFailed(f"{file}: '{control.name}' is a control and an input")
        if control.datatype == "INT32" and not all(_is_int32(value) for value in control.values):
            raise ModelLoadFailed(f"{file}: control '{control.name}' has values that are no INT32")
    for key in ("parameters", "explain"):
        path = _too_large(getattr(declared, key), key)
        if path:
            raise ModelLoadFailed(
                f"{file}: {path} is a whole number of more than 64 bits; write it as a text"
            )
    policy = declared.version_policy
    if policy is not None and [policy.latest is not None, policy.all, bool(policy.specific)].count(True) != 1:
        raise ModelLoadFailed(f"{file}: version_policy has one of latest = N, all = true and specific = [N]")
    _check_queue(declared, file)
    workers = declared.workers
    if workers.min is not None and workers.max is not None and workers.min > workers.max:
        raise ModelLoadFailed(f"{file}: workers.min is above workers.max")
    names = [stage.name for stage in declared.models]
    if len(set(names)) < len(names):
        raise ModelLoadFailed(f"{file}: two of the models of the chain have the same name")
    for stage in declared.models:
        if stage.models:
            raise ModelLoadFailed(f"{file}: model '{stage.name}' of the chain is a chain itself")
        _check(stage, file)


def _is_int32(value: float) -> bool:
    return float(value).is_integer() and -(1 << 31) <= value < 1 << 31


def _too_large(value: object, path: str) -> str:
    """Where in a value there is a whole number that no message to a worker can hold; "" where there is none."""
    if isinstance(value, Mapping):
        parts = ((f"{path}.{key}", each) for key, each in value.items())
    elif isinstance(value, list):
        parts = ((f"{path}[{index}]", each) for index, each in enumerate(value))
    else:
        return path if isinstance(value, int) and not _SMALLEST <= value <= _LARGEST else ""
    return next((found for name, each in parts if (found := _too_large(each, name))), "")


def _check_reshape(tensor: _Tensor, declared: Declaration, where: str) -> None:
    if declared.batching.mode is BatchMode.STACK:
        raise ModelLoadFailed(f"{where} has a reshape, which batching.mode 'stack' has not; choose 'concat'")
    if _chunks(tensor.reshape or []) != _chunks(tensor.shape):
        raise ModelLoadFailed(
            f"{where} has the reshape {tensor.reshape}, which does not hold as many elements as its shape {tensor.shape}"
        )


def _chunks(shape: Sequence[int]) -> list[int]:
    """The elements between the open sizes: two shapes hold the same ones where these are equal.

    >>> _chunks([2, 4, -1, 6]) == _chunks([8, -1, 1, 6])
    True
    """
    found = [1]
    for size in shape:
        if size == -1:
            found.append(1)
        else:
            found[-1] *= size
    return found


def _check_queue(declared: Declaration, file: object) -> None:
    """What contradicts itself is refused, as Triton refuses it."""
    policy = declared.queue_policy
    levels, default = policy.priority_levels, policy.default_priority_level
    if (levels or default) and not 1 <= default <= levels:
        raise ModelLoadFailed(
            f"{file}: default_priority_level must be from 1 to priority_levels, which is {levels}, and is {default}"
        )
    for level in policy.by_priority:
        if not level.isdecimal() or not 1 <= int(level) <= levels:
            raise ModelLoadFailed(
                f"{file}: there is no priority '{level}' to have a policy; priority_levels is {levels}"
            )
    delays = any(
        each.timeout and each.timeout_action == "delay" for each in (policy, *policy.by_priority.values())
    )
    if policy.preserve_ordering and (levels > 1 or delays):
        raise ModelLoadFailed(
            f"{file}: preserve_ordering cannot be kept by several priority_levels, nor by the timeout_action delay"
        )
    if declared.sequences is not None and policy != _QueuePolicy():
        raise ModelLoadFailed(
            f"{file}: a model with sequences has no queue_policy; the steps of each wait in their own order"
        )


def _backend(declared: Declaration, where: str) -> str:
    """What the config says; empty where the files must tell."""
    if declared.backend:
        return backend_named(declared.backend, "backend", where)
    return backend_named(declared.platform, "platform", where) if declared.platform else ""


def _file(declared: Declaration, backend: str, place: Path, home: _Home) -> tuple[str, str]:
    """The backend and the model's file in a version's folder."""
    entry = declared.entry or declared.id
    if not entry and place == real_path(home.folder):
        entry = flat_file(place, backend)
    if not entry:
        return model_in(place, backend)
    file = named_file(place, entry.partition(":")[0], str(place))
    return backend or backend_of(file) or "function", entry


def _builtin(declared: Declaration, place: Path) -> str:
    """A builtin's name. AMD's repositories have a shared library of that name, which is not run here."""
    if declared.entry or not (declared.id or declared.platform == "amdinfer_cpp"):
        return declared.entry
    files = [declared.id] if declared.id else sorted(file.name for file in place.glob("*.so"))
    return files[0].removesuffix(".so").removeprefix("lib") if files else ""


def _labels(labels: _Labels, place: Path, home: _Home) -> dict[str, Any]:
    """The class's name for each index. A file is JSON such as TorchServe's index_to_name.json, or a name per line."""
    if isinstance(labels, dict):
        return dict(labels)
    if isinstance(labels, list):
        return {str(index): label for index, label in enumerate(labels)}
    if not labels:
        return {}
    file = named_file(place if (place / labels).is_file() else home.folder, labels, home.where)
    try:
        data = file.read_bytes()
        if file.suffix == ".json":
            return _labels(
                msgspec.json.decode(data, type=list[str] | dict[str, str | list[str]]), place, home
            )
        return _labels(data.decode().splitlines(), place, home)
    except (OSError, ValueError) as error:
        raise ModelLoadFailed(f"{file}: these are no labels: {error}") from error


def _output_labels(declared: Declaration, place: Path, home: _Home) -> dict[str, dict[str, Any]]:
    return {each.name: _labels(each.labels, place, home) for each in declared.outputs if each.labels}


def _warmup(declared: _Warmup, number: int, place: Path, home: _Home) -> Warmup:
    """A warm-up request with its files found: in the version's folder, in the model's, or where Triton has them."""
    if declared.body and declared.inputs:
        raise ModelLoadFailed(f"{home.where}: warmup '{declared.name or number}' has a body and inputs")

    def found(name: str) -> str:
        folders = (place, home.folder, home.folder / "warmup")
        folder = next((each for each in folders if (each / name).is_file()), place)
        return str(real_path(named_file(folder, name, home.where)))

    inputs = []
    for each in declared.inputs:
        if each.datatype not in DATATYPES:
            raise ModelLoadFailed(
                f"{home.where}: warmup input '{each.name}' has the unknown datatype '{each.datatype}'"
            )
        data = each.data if each.data in ("zero", "random") else found(each.data)
        inputs.append(WarmupInput(each.name, each.datatype, each.shape, data))
    return Warmup(
        name=declared.name or str(number),
        count=declared.count,
        rows=declared.rows,
        body=found(declared.body) if declared.body else "",
        content_type=declared.content_type,
        inputs=inputs,
        data=declared.data,
    )


def _shares(declared: Declaration, backend: str) -> bool:
    """Whether so many workers as the machine has cores for are cheap: they share the model, and are not told their threads."""
    if declared.threads or declared.sequences is not None:
        return False
    module = bool(declared.parameters.get("module"))
    return not loads_alone(backend, module=module, preload=declared.preload)


def _common(declared: Declaration, defaults: Defaults, usual: int) -> dict[str, Any]:
    """``usual`` is the number of workers where the config has none."""
    batching, workers = declared.batching, declared.workers
    least = workers.min if workers.min is not None else min(usual, workers.max or usual)
    most = max(workers.max or least, 1)
    return {
        "platform": declared.platform or declared.backend,
        "inputs": [
            TensorSpec(each.name, each.datatype, each.shape, each.optional, reshape=each.reshape)
            for each in declared.inputs
        ],
        "outputs": [
            TensorSpec(each.name, each.datatype, each.shape, reshape=each.reshape)
            for each in declared.outputs
        ],
        "decoupled": declared.decoupled,
        **_as_triton_has_it(declared),
        "parameters": declared.parameters,
        "explain": declared.explain,
        "batch": batching.mode or _usual_mode(declared),
        "max_batch_size": declared.max_batch_size or 1,
        "max_delay": batching.max_delay_ms / 1000,
        "exact_delay": defaults.exact_delay if batching.exact_delay is None else batching.exact_delay,
        "min_workers": least,
        "max_workers": most,
        "workers_by_default": workers.min is None and workers.max is None,
        "queue_size": declared.queue_size or defaults.queue_size,
        "queue_policy": _queue_policy(declared.queue_policy),
        "concurrency": declared.concurrency,
        "job_ticket": declared.job_ticket,
        "response_timeout": declared.response_timeout or defaults.response_timeout,
        "startup_timeout": declared.startup_timeout or defaults.startup_timeout,
        "client_timeout": declared.client_timeout,
        "retry": declared.retry and declared.sequences is None,
        "sequence": _sequence(declared.sequences, most) if declared.sequences else None,
        "sequence_headers": defaults.sequence_headers,
        "threads": declared.threads,
        "recycling": defaults.recycling.changed(workers.max_requests, workers.memory_limit),
        "preload": declared.preload,
        "optimize": declared.optimize,
        "channels_last": declared.channels_last,
        "max_response_bytes": defaults.max_response_bytes,
        "json_nan": defaults.json_nan,
        "decode_input": defaults.decode_input,
        "limit_image_pixels": defaults.limit_image_pixels,
    }


def _as_triton_has_it(declared: Declaration) -> dict[str, Any]:
    if not isinstance(declared, TritonDeclaration):
        return {}
    return {"batch_dimension": declared.batch_dimension, "triton": declared.configuration}


def _queue_policy(declared: _QueuePolicy) -> QueuePolicy | None:
    """None where the policy asks for nothing that a queue does not do anyway."""
    found = QueuePolicy(
        policy=_wait_policy(declared),
        levels=declared.priority_levels,
        default_level=declared.default_priority_level,
        by_level={int(level): _wait_policy(each) for level, each in declared.by_priority.items()},
        ordered=declared.preserve_ordering,
    )
    waits = found.levels or found.ordered or found.policy.timeout or found.policy.queue_size
    return found if waits else None


def _wait_policy(declared: _WaitPolicy) -> WaitPolicy:
    return WaitPolicy(declared.queue_size, declared.timeout, declared.timeout_action == "delay")


def _sequence(declared: _Sequences, workers: int) -> SequenceSettings:
    return SequenceSettings(
        most=declared.max or declared.per_worker * workers or _SEQUENCES,
        per_worker=declared.per_worker,
        waiting=declared.queue_size,
        max_idle=declared.max_idle,
        timeout=declared.timeout,
        controls=tuple(
            Control(each.name, each.kind, each.datatype, each.values) for each in declared.controls
        ),
    )


def _usual_mode(declared: Declaration) -> BatchMode:
    """AMD's requests are single samples, unless a shape shows the batch itself."""
    shapes = [tensor.shape for tensor in (*declared.inputs, *declared.outputs)]
    amd = declared.platform in AMD_PLATFORMS and not any(shape[:1] == [-1] for shape in shapes)
    return BatchMode.STACK if amd else BatchMode.CONCAT


def _from_text(message: Message) -> Declaration:
    """The declaration of a text proto: Triton's, or AMD's and ours."""
    ours = is_amd(message) or bool(_OURS_ALONE & message.keys() and not has_keys_of_its_own(message))
    if ours or not is_triton(message):
        kind = Declaration if ours else TritonDeclaration
        return msgspec.convert(_from_message(message, {"batching": {"mode": "stack"}}), kind)
    config = config_from_text({key: values for key, values in message.items() if is_key(key)})
    own = {key: values for key, values in message.items() if not is_key(key)}
    for key in own.keys() - set(Declaration.__struct_fields__):
        raise ValueError(unknown_key(key))
    table = _from_message(own, declaration_of(config))
    return msgspec.convert({**table, "configuration": config}, TritonDeclaration)


def _from_message(message: Message, table: dict[str, Any]) -> dict[str, Any]:
    """A text-proto config in the form of a TOML one, over what ``table`` says. AMD's ``versions`` is what the folders say."""
    for key, values in message.items():
        if key in ("inputs", "outputs"):
            table[key] = [_from_tensor(value) for value in values]
        elif key == "parameters":
            table[key] = dict(_from_parameter(value) for value in values)
        elif key in ("batching", "workers"):
            fields = {inner: _last(found) for inner, found in _fields(_last(values)).items()}
            table[key] = {**table.get(key, {}), **fields}
        elif key == "version_policy":
            table[key] = {
                inner: found if inner == "specific" else _last(found)
                for inner, found in _fields(_last(values)).items()
            }
        elif key == "explain":
            table[key] = {
                inner: found if len(found) > 1 else _last(found)
                for inner, found in _fields(_last(values)).items()
            }
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


_TABLES: Mapping[str, type[_Strict]] = {
    "": Declaration,
    "inputs": _Input,
    "outputs": _Output,
    "batching": _Batching,
    "workers": _Workers,
    "queue_policy": _QueuePolicy,
    "queue_policy.by_priority": _WaitPolicy,
    "sequences": _Sequences,
    "sequences.controls": _Control,
    "version_policy": _VersionPolicy,
    "warmup": _Warmup,
    "warmup.inputs": _WarmupInput,
}
"""The tables of a configuration by their paths, those of a chain's stages by what they are of a single model."""


def _readable(text: str) -> str:
    """A sentence of msgspec with the path as a user writes it: ``inputs[0].shape``."""
    reason, _, path = text.partition(" - at `$")
    path = path.strip("`.")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", reason):
        table = re.sub(r"\[[^]]*\]", "", path).removeprefix("models").removeprefix(".")
        known = _TABLES[table].__struct_fields__ if table in _TABLES else ()
        close = get_close_matches(unknown[1], known, 1)
        reason = f"unknown field `{unknown[1]}`" + (f"; did you mean '{close[0]}'?" if close else "")
    return f"{path}: {reason[:1].lower()}{reason[1:]}" if path else reason
