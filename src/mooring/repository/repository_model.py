"""A folder of a model repository -> ``ModelSpec`` of each version that is to be served."""

from pathlib import Path
from typing import Any

import msgspec

from mooring.core.errors import ModelLoadFailed, ModelNotFound
from mooring.core.options import (
    UNDECLARED,
    Batching,
    ModelOptions,
    SequenceOptions,
    declare,
    override,
    resolve_options,
)
from mooring.core.paths import real_path
from mooring.core.tensors import DATATYPE_SPELLINGS, DATATYPES, TensorSpec
from mooring.core.versions import VersionPolicy
from mooring.repository.declaration import (
    Declaration,
    Labels,
    TensorTable,
    TritonDeclaration,
    VersionPolicyTable,
    WarmupTable,
)
from mooring.repository.declaration_reader import read_declaration
from mooring.repository.declaration_rules import check_declaration
from mooring.repository.declared_options import declared_options, option_layers, with_sequences
from mooring.repository.layout import (
    find_declaration,
    find_flat_file,
    find_named_file,
    is_file,
    is_folder,
    no_version_reason,
    padded_versions,
    version_folders,
)
from mooring.repository.mar import check_name
from mooring.repository.platforms import backend_for, backend_of, find_model_file, runs_triton_model
from mooring.repository.spec import Defaults, Ensemble, EnsembleStep, ModelSpec, Warmup, WarmupInput
from mooring.repository.triton import declaration_table
from mooring.repository.triton_config import TritonConfig


class RepositoryModel(msgspec.Struct, frozen=True):
    """The versions of a model's folder that are to be served, the lowest first, and those that cannot be.

    ``faults`` has the reason for each version that should be served and cannot be, ``left_aside`` the versions that
    ``policy`` leaves out, ``padded`` the folders that are not versions since their numbers have leading zeros.
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
    """The versions that a caller wants: ``only`` one, or those of ``policy`` (the model's own without), and ``also`` these."""

    only: str = ""
    also: frozenset[str] = frozenset()
    policy: VersionPolicy | None = None


def read_repository_model(
    folder: Path, *, url: str = "", defaults: Defaults | None = None, choice: VersionChoice | None = None
) -> RepositoryModel:
    """Read the model in a folder of a repository, for the server and for ``mooring doctor`` alike.

    Raises ``ModelLoadFailed`` where nothing of it can be served, saying what is wrong and what to do.
    """
    if not is_folder(folder):
        raise ModelLoadFailed(no_version_reason(folder))
    return _read_folder(
        folder, url or str(folder), "", defaults, choice or VersionChoice(), in_repository=True
    )


def read_versions(
    folder: Path, url: str, *, name: str = "", version: str = "", defaults: Defaults | None = None
) -> list[ModelSpec]:
    """Read the versions to serve of a model that is named by its folder, or one. ``name`` wins over the config's own.

    Raises ``ModelLoadFailed`` naming the file that is at fault.
    """
    found = _read_folder(folder, url, name, defaults, VersionChoice(version), in_repository=False)
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
    declared = read_declaration(file) if file else Declaration(version_policy=VersionPolicyTable(latest=1))
    if in_repository and isinstance(declared, TritonDeclaration) and declared.name not in ("", folder.name):
        raise ModelLoadFailed(
            f"{file}: name is '{declared.name}' and the folder's is '{folder.name}'; Triton's configurations must "
            "have their folder's name: rename one of them, or leave name out"
        )
    policy = choice.policy or _version_policy(declared)
    home = ModelLocation(
        file.parent if file else folder, url, str(file or folder), defaults or Defaults(), policy
    )
    model = check_name(name or declared.name or folder.name, home.where, "name")
    there = _version_folders(declared, home)
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
            found.specs.extend(_read_version(declared, model, version, place, home))
        except ModelLoadFailed as error:
            found.faults[version] = error
        except OSError as error:  # its folder went meanwhile
            reason = f"version '{version}' of '{url}' cannot be read: {error.strerror or error}"
            found.faults[version] = ModelLoadFailed(reason, model=model, version=version)
    if not found.specs and found.first_fault is not None:
        raise found.first_fault
    return found


def _version_folders(declared: "Declaration", home: "ModelLocation") -> dict[str, Path]:
    """The folder of each version, the lowest first. Raises ``ModelLoadFailed`` where there is none."""
    numbered = {place.name: place for place in version_folders(home.folder)}
    if numbered:
        return numbered
    backend = _declared_backend(declared, home.where)
    named = (declared.entry or declared.id).partition(":")[0]
    if declared.models or backend in ("builtin", "ensemble") or (named and is_file(home.folder / named)):
        return {"1": home.folder}
    if find_flat_file(home.folder, backend):
        return {"1": home.folder}
    raise ModelLoadFailed(no_version_reason(home.folder))


def _version_policy(declared: "Declaration") -> VersionPolicy:
    """The version policy of a configuration; without one Triton's serve the latest version and all others every version."""
    said = declared.version_policy
    if said is None:
        return VersionPolicy(latest=1 if isinstance(declared, TritonDeclaration) else 0)
    return VersionPolicy(said.latest or 0, tuple(said.specific))


class ModelLocation(msgspec.Struct, frozen=True):
    """The folder of a model, and what holds for all of its versions. Errors name ``where``."""

    folder: Path
    url: str
    where: str
    defaults: Defaults
    policy: VersionPolicy


def _read_version(
    declared: Declaration, model: str, version: str, place: Path, home: ModelLocation
) -> list[ModelSpec]:
    """Read one version of a model. Of a chain: its stages, and after them the chain that runs them."""
    if not declared.models:
        return [_model_spec(declared, model, version, place, home)]
    stages = []
    for index, stage in enumerate(declared.models):
        name = check_name(stage.name, home.where, "name of a stage")
        spec = _model_spec(stage, name, version, place, home)
        if name == model:  # AMD's chains are asked by the name of their first stage: that is the chain's then
            spec = msgspec.structs.replace(spec, name=f"{model}-{index}", chain=model)
        stages.append(spec)
    if not declared.name:  # as in AMD's: whoever asks for a stage gets what the rest makes of it
        names = [stage.name for stage in stages]
        stages = [
            msgspec.structs.replace(stage, following=names[index:]) for index, stage in enumerate(stages, 1)
        ]
    entry = ModelSpec(
        name=model,
        version=version,
        backend="chain",
        location=str(place),
        url=home.url,
        version_policy=home.policy,
        platform=declared.platform or "chain",
        options=declared_options(declared, "chain", home.defaults),
        inputs=stages[0].inputs,
        outputs=stages[-1].outputs,
        decoupled=declared.decoupled,
        parameters=declared.parameters,
        explain=declared.explain,
        triton=_triton_config(declared),
        stages=[stage.name for stage in stages],
    )
    return [*stages, entry]


def _model_spec(
    declared: Declaration, name: str, version: str, place: Path, home: ModelLocation
) -> ModelSpec:
    """One version of one model."""
    backend = _declared_backend(declared, home.where)
    if backend == "ensemble":
        entry = ""
    elif backend == "builtin":
        entry = _builtin_name(declared, place) or name
    else:
        backend, entry = _model_file(declared, backend, place, home)
    return ModelSpec(
        name=name,
        version=version,
        backend=backend,
        location=str(place),
        entry=entry,
        url=home.url,
        version_policy=home.policy,
        platform=declared.platform or declared.backend,
        options=_with_state_files(declared_options(declared, backend, home.defaults), backend, place, home),
        inputs=_input_specs(declared),
        outputs=_output_specs(declared),
        labels=_read_labels(declared.labels, place, home),
        output_labels=_output_labels(declared, place, home),
        decoupled=declared.decoupled,
        parameters=declared.parameters,
        explain=declared.explain,
        warmup=_warmup_requests(declared, place, home),
        triton=_triton_config(declared),
        **_ensemble_fields(declared),
    )


def _ensemble_fields(declared: Declaration) -> dict[str, Any]:
    """The fields of a spec that only an ensemble has."""
    if declared.ensemble is None:
        return {}
    steps = [
        EnsembleStep(each.model, "" if each.version < 0 else str(each.version), each.inputs, each.outputs)
        for each in declared.ensemble.steps
    ]
    return {
        "ensemble": Ensemble(steps, declared.ensemble.max_inflight_requests),
        "stages": list(dict.fromkeys(step.model for step in steps)),
    }


def apply_triton_config(spec: ModelSpec, config: TritonConfig) -> ModelSpec:
    """Put a configuration of Triton's over a version's own. Raises ``ValueError`` or ``ModelLoadFailed``."""
    theirs = dict(spec.triton)
    for name in ("dynamic_batching", "sequence_batching"):
        if name in config:
            theirs.pop("sequence_batching" if name == "dynamic_batching" else "dynamic_batching", None)
    theirs |= config
    batching = spec.batching
    batched = batching.max_batch_size > 1 if batching.batch_dimension is None else batching.batch_dimension
    table = declaration_table(theirs, batched=batched)
    declared = msgspec.convert({**table, "configuration": theirs}, TritonDeclaration)
    where = f"version {spec.version}"
    check_declaration(declared, where)
    named = _declared_backend(declared, where) if declared.backend != spec.backend else ""
    # Python is the name of two backends, and which one it is shows in the file.
    if named not in ("", spec.backend, _generic_name(spec.backend)):
        raise ValueError(f"backend: the model is run by {spec.backend}, which cannot be changed")
    place = Path(spec.location)
    home = ModelLocation(place.parent, spec.url, where, Defaults(), VersionPolicy())
    # Defaults that a configuration implies must not replace what was declared before.
    implied = declare(
        Batching,
        mode=UNDECLARED if {"inputs", "outputs"} & table.keys() else batching.mode,
        batch_dimension=UNDECLARED if "max_batch_size" in table else batching.batch_dimension,
    )
    options = with_sequences(
        resolve_options(spec.options, *option_layers(declared), implied), declared.sequences
    )
    changes: dict[str, Any] = {
        "triton": theirs,
        "options": _with_state_files(options, spec.backend, place, home),
    }
    if "inputs" in table:
        changes["inputs"] = _input_specs(declared)
    if "outputs" in table:
        changes["outputs"] = _output_specs(declared)
        changes["output_labels"] = _output_labels(declared, place, home)
    if "decoupled" in table:
        changes["decoupled"] = declared.decoupled
    if "warmup" in table:
        changes["warmup"] = _warmup_requests(declared, place, home)
    changes |= _ensemble_fields(declared)
    if "entry" in table:
        changes["entry"] = _model_file(declared, spec.backend, place, home)[1]
    return msgspec.structs.replace(spec, **changes)


def _input_specs(declared: Declaration) -> list[TensorSpec]:
    return [
        TensorSpec(each.name, _datatype_of(each), each.shape, each.optional, reshape=each.reshape)
        for each in declared.inputs
    ]


def _output_specs(declared: Declaration) -> list[TensorSpec]:
    return [
        TensorSpec(each.name, _datatype_of(each), each.shape, reshape=each.reshape)
        for each in declared.outputs
    ]


def _datatype_of(declared: TensorTable) -> str:
    return DATATYPE_SPELLINGS.get(declared.datatype, declared.datatype)


def _triton_config(declared: Declaration) -> TritonConfig:
    """The configuration that clients are shown; empty where it is not written for Triton."""
    return declared.configuration if isinstance(declared, TritonDeclaration) else {}


def _declared_backend(declared: Declaration, where: str) -> str:
    """The backend that the configuration names; empty where the files must tell."""
    if declared.backend:
        return backend_for(declared.backend, "backend", where)
    return backend_for(declared.platform, "platform", where) if declared.platform else ""


def _model_file(declared: Declaration, backend: str, place: Path, home: ModelLocation) -> tuple[str, str]:
    """Find the backend and the model's file in a version's folder."""
    entry = declared.entry or declared.id
    if not entry and place == real_path(home.folder):
        entry = find_flat_file(place, backend)
    if not entry:
        backend, entry = find_model_file(place, backend)
        return _python_backend(backend, place / entry), entry
    file = find_named_file(place, entry.partition(":")[0], str(place))
    backend = backend or backend_of(file) or "function"
    return _python_backend(backend, file), entry


def _generic_name(backend: str) -> str:
    return "function" if backend == "triton_python" else backend


def _python_backend(backend: str, file: Path) -> str:
    """The backend of a model, which is another one for a Python file that is written for Triton's."""
    return "triton_python" if backend == "function" and runs_triton_model(file) else backend


def _builtin_name(declared: Declaration, place: Path) -> str:
    """The name of a builtin. AMD's repositories have a shared library of that name, which is not run here."""
    if declared.entry or not (declared.id or declared.platform == "amdinfer_cpp"):
        return declared.entry
    files = [declared.id] if declared.id else sorted(file.name for file in place.glob("*.so"))
    return files[0].removesuffix(".so").removeprefix("lib") if files else ""


def _read_labels(labels: Labels, place: Path, home: ModelLocation) -> dict[str, Any]:
    """Read the name of the class for each index. A file is JSON (TorchServe's index_to_name.json) or has a name per line."""
    if isinstance(labels, dict):
        return dict(labels)
    if isinstance(labels, list):
        return {str(index): label for index, label in enumerate(labels)}
    if not labels:
        return {}
    file = find_named_file(place if (place / labels).is_file() else home.folder, labels, home.where)
    try:
        data = file.read_bytes()
        if file.suffix == ".json":
            return _read_labels(
                msgspec.json.decode(data, type=list[str] | dict[str, str | list[str]]), place, home
            )
        return _read_labels(data.decode().splitlines(), place, home)
    except (OSError, ValueError) as error:
        raise ModelLoadFailed(f"{file}: these are not labels: {error}") from error


def _output_labels(declared: Declaration, place: Path, home: ModelLocation) -> dict[str, dict[str, Any]]:
    return {each.name: _read_labels(each.labels, place, home) for each in declared.outputs if each.labels}


def _with_state_files(options: ModelOptions, backend: str, place: Path, home: ModelLocation) -> ModelOptions:
    """Find the files of initial states in the version's folder, in the model's, or in ``initial_state``, where Triton has them.

    Raises ``ModelLoadFailed`` where there is none, and for a backend whose calls have no slots of sequences.
    """
    sequence = options.sequence
    if backend == "handler" and (sequence.direct or sequence.states):
        raise ModelLoadFailed(
            f"{home.where}: a handler keeps the state of its sequences itself; the direct strategy and states are for "
            "models of tensors"
        )
    if not any(each.initial for each in sequence.states):
        return options
    states = tuple(
        msgspec.structs.replace(each, initial=_find_data_file(each.initial, "initial_state", place, home))
        if each.initial
        else each
        for each in sequence.states
    )
    return override(options, declare(SequenceOptions, states=states))


def _find_data_file(name: str, folder: str, place: Path, home: ModelLocation) -> str:
    """Return the path of a file in the version's folder, in the model's, or in this folder of it."""
    folders = (place, home.folder, home.folder / folder)
    found = next((each for each in folders if (each / name).is_file()), place)
    return str(real_path(find_named_file(found, name, home.where)))


def _warmup_requests(declared: Declaration, place: Path, home: ModelLocation) -> list[Warmup]:
    return [_warmup_request(each, index, place, home) for index, each in enumerate(declared.warmup, 1)]


def _warmup_request(declared: WarmupTable, number: int, place: Path, home: ModelLocation) -> Warmup:
    """Find the files of a warm-up request in the version's folder, in the model's, or in ``warmup``, where Triton has them."""
    if declared.body and declared.inputs:
        raise ModelLoadFailed(f"{home.where}: warmup '{declared.name or number}' has a body and inputs")

    def file_path(name: str) -> str:
        return _find_data_file(name, "warmup", place, home)

    inputs = []
    for each in declared.inputs:
        if each.datatype not in DATATYPES:
            raise ModelLoadFailed(
                f"{home.where}: warmup input '{each.name}' has the unknown datatype '{each.datatype}'"
            )
        data = each.data if each.data in ("zero", "random") else file_path(each.data)
        inputs.append(WarmupInput(each.name, each.datatype, each.shape, data))
    return Warmup(
        name=declared.name or str(number),
        count=declared.count,
        rows=declared.rows,
        body=file_path(declared.body) if declared.body else "",
        content_type=declared.content_type,
        inputs=inputs,
        data=declared.data,
    )
