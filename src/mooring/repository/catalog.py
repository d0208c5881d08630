"""Models that can be loaded while the server runs: those of the repository and the store, by name, also as a caller changes them."""

import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from mooring.config.settings import Config
from mooring.core.errors import InvalidInput, ModelLoadFailed, ModelNotFound, MooringError
from mooring.core.options import (
    Batching,
    BatchMode,
    Scaling,
    Timeouts,
    declare,
    or_undeclared,
    override,
    resolve_options,
)
from mooring.core.paths import leads_out, real_path
from mooring.core.service import Registration
from mooring.core.tensors import DATATYPES, Parameter, TensorSpec
from mooring.core.versions import VersionPolicy
from mooring.repository.archives import remove_folder
from mooring.repository.fetch import is_remote, url_for_log
from mooring.repository.layout import (
    find_declaration,
    find_flat_file,
    is_dangling_link,
    is_folder,
    list_entries,
    model_folders,
    version_folders,
)
from mooring.repository.mar import check_name, model_name_of
from mooring.repository.repository_model import VersionChoice, apply_triton_config
from mooring.repository.spec import Defaults, ModelSpec
from mooring.repository.store import Store, archives_in, is_archive, place_in_store, several_places
from mooring.repository.targets import split_target
from mooring.repository.triton import parse_version_policy
from mooring.repository.triton_config import config_from_json

# Worker names of AMD's server -> the backend that does the same here.
WORKERS: Mapping[str, str] = {
    "cplusplus": "builtin",
    "fake": "builtin",
    "migraphx": "onnx",
    "ptzendnn": "pytorch",
}


PARAMETER = "parameter:"
"""Stands before the names of a model's parameters among the options of an assignment."""

# TorchServe's, but for the one that is C++.
_RUNTIMES = ("python", "python2", "python3")

# What AMD's clients look for before they load a worker -> the library that runs it here.
_LIBRARIES: Mapping[str, str] = {"migraphx": "onnxruntime", "ptzendnn": "torch"}


def worker_extensions() -> list[str]:
    """The names of AMD's workers that can be loaded here, since their library is installed."""
    return [worker for worker, library in _LIBRARIES.items() if find_spec(library) is not None]


class Available(msgspec.Struct, frozen=True):
    """A model that could be loaded by its name; its versions would have this ``url``."""

    name: str
    url: str


class ServedVersions(msgspec.Struct, frozen=True):
    """Versions to load, and the reasons for those that cannot be loaded.

    ``whole`` says that these are all versions to serve: others of the same place are to be unloaded. ``target`` is the
    argument of the command line that they come from, empty for any other.
    """

    specs: list[ModelSpec]
    faults: dict[str, ModelLoadFailed] = {}
    whole: bool = False
    target: str = ""


class Catalog:
    """The models that can be loaded while the server runs, by name.

    How this works: a name is looked for in the model repository, then in the model store, then among what the server was
    started with. Nothing is kept but the names of the last: every call reads the disk, so that what an operator puts
    there or takes away counts at once. Files that a caller sends along are written to ``folder``, as a model of a
    repository with that one model. A caller's configuration is laid over what was read.
    """

    def __init__(self, store: Store, config: Config, folder: Path, defaults: Defaults) -> None:
        self.defaults = defaults
        self._store = store
        self._repositories = list(dict.fromkeys(map(real_path, config.model_repository)))
        self._urls: dict[str, str] = {}  # of models that a repository had when they were last looked for
        self._archives = config.model_store
        self._folder = folder.resolve()
        self._named = [(target, *split_target(target)) for target in config.targets]
        self._targets: dict[str, str] = {}
        # What a registration that does not say has: none, unless the settings name a number (TorchServe's rule).
        self._workers = config.default_workers_per_model

    def remember_targets(self, specs: Iterable[ModelSpec]) -> None:
        """Remember what the server was started with, so that it can be loaded again wherever it lies."""
        self._targets = {spec.name: target for spec in specs if (target := self._target_of(spec))}

    def target_of(self, model: str) -> str:
        """Return the argument of the command line that a model comes from; empty for any other."""
        return self._targets.get(model, "")

    def add_names(self, target: str, specs: Iterable[ModelSpec]) -> None:
        """Remember the names that a target's models have now: its configuration may have changed them."""
        self._targets |= {spec.name: target for spec in specs}

    def comes_from(self, spec: ModelSpec, target: str) -> bool:
        """Whether a version was read from a target of the command line."""
        return self._targets.get(spec.name) == target and spec.url == split_target(target)[1]

    def _target_of(self, spec: ModelSpec) -> str:
        """Return the argument that names this model: by its name where several name one file, stages by their chain's."""
        found = [(name, target) for target, name, text in self._named if text == spec.url]
        return next((target for name, target in found if name == spec.name), found[0][1] if found else "")

    def list_available(self) -> list[Available]:
        """List every model of the repository, of the store and of the start, by name.

        An archive of the store has its file's name.
        """
        found = {name: Available(name, split_target(target)[1]) for name, target in self._targets.items()}
        if self._archives is not None:
            for archive in archives_in(self._archives):
                name = model_name_of(self._archives / archive)
                found[name] = Available(name, archive)
        for repository in reversed(self._repositories):
            for name in model_folders(repository):
                found[name] = Available(name, str(repository / name))
        return [found[name] for name in sorted(found)]

    def has_folder(self, model: str) -> bool:
        """Whether a repository has a folder of that name, or a link. No other folder is looked at."""
        return bool(self._repositories_of(model))

    def _repositories_of(self, model: str) -> list[Path]:
        if not _is_entry(model):
            return []
        return [
            repository
            for repository in self._repositories
            if is_folder(repository / model) or is_dangling_link(repository / model)
        ]

    def url_of(self, model: str) -> str:
        """The ``url`` of all versions of a model of the repository, also where its folder has gone since."""
        places = self._repositories_of(model)
        if places:
            self._urls[model] = str(places[0] / model)
            return self._urls[model]
        return self._urls.get(model) or (str(self._repositories[0] / model) if self._repositories else "")

    def has_no_version(self, model: str) -> bool:
        """Whether the repository has the model's folder, but no version in it."""
        folders = [repository / model for repository in self._repositories_of(model)]
        return bool(folders) and all(
            find_declaration(folder) is None
            and not version_folders(folder)
            and not find_flat_file(folder, "")
            for folder in folders
        )

    def is_uploaded(self, spec: ModelSpec) -> bool:
        """Whether a model's files came with the request to load it."""
        return any(folder.parent == self._folder for folder in Path(spec.location).parents)

    def list_symlinked(self) -> list[str]:
        """The models of the repository whose folders are links."""
        return [
            name
            for repository in self._repositories
            for name in model_folders(repository)
            if (repository / name).is_symlink()
        ]

    def read_versions(
        self,
        model: str,
        version: str = "",
        *,
        also: Collection[str] = (),
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> ServedVersions:
        """Read the versions of a model that its policy serves and those of ``also``, or the one that is named.

        Stages stand before the chain that they belong to.

        Raises ``ModelNotFound``, ``ModelLoadFailed`` or, for a config or files that cannot be used, ``InvalidInput``.
        """
        choice = VersionChoice(version, frozenset(also), _policy_of_config(config or {}, model))
        found = self._from_files(model, files, choice) if files else self._find(model, choice)
        specs = found.specs
        if version:
            specs = [spec for spec in specs if spec.version == version or spec.name != model]
            if not any(spec.name == model for spec in specs):
                raise ModelNotFound(
                    f"model '{model}' has no version '{version}' in the repository", model=model
                )
        changed = [override_config(spec, config or {}, parameters or {}) for spec in specs]
        return ServedVersions(changed, found.faults, whole=found.whole and not version, target=found.target)

    def read_registration(self, registration: Registration, place: Path | None = None) -> ModelSpec:
        """Read the model that an operator registers: an archive or folder of the store, an archive at a URL, or what lies at ``place``.

        Raises ``ModelNotFound``, ``ModelLoadFailed`` and its kinds or, for a runtime there is not, ``InvalidInput``.
        """
        runtime, handler = registration.runtime, registration.handler
        if runtime and runtime not in _RUNTIMES:
            raise InvalidInput(f"Invalid RuntimeType value: {runtime}")
        workers = self._workers if registration.workers is None else registration.workers
        options = override(
            self.defaults.options,
            declare(Scaling, min_workers=workers, max_workers=max(workers, 1)),
            declare(
                Timeouts,
                response_timeout=or_undeclared(registration.response_timeout),
                startup_timeout=or_undeclared(registration.startup_timeout),
            ),
        )
        defaults = msgspec.structs.replace(self.defaults, options=options)
        if place is None:
            spec = self._open(registration.url, registration.name, defaults)
        else:
            spec = self._store.read_place(place, registration.url, name=registration.name, defaults=defaults)[
                -1
            ]
        model = spec.manifest.get("model", {}) | ({"handler": handler} if handler else {})
        manifest = spec.manifest | {"model": model} | ({"runtime": runtime} if runtime else {})
        own = declare(
            Batching,
            max_batch_size=or_undeclared(registration.batch_size),
            max_delay=or_undeclared(registration.max_delay),
        )
        return msgspec.structs.replace(
            spec, entry=handler or spec.entry, handler_override=handler, manifest=manifest
        ).with_options(own)

    @contextmanager
    def open_registered(self, registration: Registration) -> Iterator[tuple[ModelSpec, Path]]:
        """What an operator registers, and where its file or folder lies for as long as the context lasts. Raises as ``read_registration``."""
        shown = url_for_log(registration.url) if is_remote(registration.url) else registration.url
        with self._open_source(registration.url) as place:
            spec = self.read_registration(msgspec.structs.replace(registration, url=shown), place)
            try:
                yield spec, place
            finally:
                self.release(spec)

    @contextmanager
    def _open_source(self, url: str) -> Iterator[Path]:
        if is_remote(url):
            with self._store.open_fetched(url, self._archives) as archive:
                yield archive
            return
        if not url or self._archives is None or not self._archives.is_dir():
            raise ModelNotFound(f"no '{url}': there is no model store" if url else "")
        yield place_in_store(real_path(self._archives), url)

    def read_assigned(
        self,
        place: Path,
        model: str,
        version: str,
        options: Mapping[str, Parameter],
        config: Mapping[str, Any],
    ) -> list[ModelSpec]:
        """Read a version that this node of a cluster is to serve, whose files lie at ``place``; its stages stand before it.

        ``options`` are those of a ``Registration`` where there is a ``url`` among them. With ``worker`` the model is what AMD's worker of
        that name runs; with ``entry`` it is a ``function`` of that Python file, or of the ``module`` that the file is. ``parameter:NAME``
        is a parameter of the model. Raises ``ModelLoadFailed``, ``ModelNotFound`` or ``InvalidInput``.
        """
        text = {key: value for key, value in options.items() if isinstance(value, str)}
        parameters = {
            key.removeprefix(PARAMETER): value for key, value in options.items() if key.startswith(PARAMETER)
        }
        if "worker" in text:
            spec = worker_spec(text["worker"], model, {**parameters, "model": str(place)}, self.defaults)
            return [msgspec.structs.replace(spec, url=text.get("shown", place.name))]
        if "entry" in text:
            function, module = text.get("function", ""), text.get("module", "")
            url = text.get("shown", place.name)
            specs = [
                self._store.read_function(
                    place, text["entry"], url, name=model, function=function, module=module
                )
            ]
        elif "url" in text:
            known = {key: value for key, value in options.items() if key in Registration.__struct_fields__}
            registration = msgspec.convert({**known, "name": model}, Registration)
            specs = [self.read_registration(registration, place)]
        else:
            url = text.get("shown", place.name)
            specs = self._store.read_place(place, url, name=model, version=version, defaults=self.defaults)
        served = [override_config(spec, config, parameters) for spec in specs]
        main = next((spec for spec in served if spec.name == model), served[-1])
        # A file without a configuration calls every version of itself 1.
        return [
            msgspec.structs.replace(spec, version=version) if spec.version == main.version else spec
            for spec in served
        ]

    def _open(self, url: str, name: str, defaults: Defaults) -> ModelSpec:
        if is_remote(url):
            return self._store.read_remote(url, name=name, defaults=defaults, keep_in=self._archives)
        if not url or self._archives is None or not self._archives.is_dir():
            raise ModelNotFound(f"no '{url}': there is no model store" if url else "")
        return self._store.read_archive(real_path(self._archives), url, name=name, defaults=defaults)

    def release(self, spec: ModelSpec) -> None:
        """Remove what was unpacked or written for a model; a folder of the user's own stays, and a workflow's."""
        if spec.function:
            return
        self._store.release(spec)
        for folder in Path(spec.location).parents if self.is_uploaded(spec) else ():
            if folder.parent == self._folder:
                remove_folder(folder)

    def _find(self, model: str, choice: VersionChoice) -> ServedVersions:
        """Find the model of that name without a look at others: one of them may go meanwhile."""
        places = self._repositories_of(model)
        if len(places) > 1:
            raise ModelLoadFailed(several_places(model, places), model=model)
        if places:
            found = self._store.read_from_repository(places[0], model, choice)
            return ServedVersions(found.specs, found.faults, whole=True)
        if self._archives is not None:
            for entry in list_entries(self._archives):
                if model in (entry.name, model_name_of(entry)) and is_archive(entry):
                    return ServedVersions([self._store.read_archive(real_path(self._archives), entry.name)])
        if model in self._targets:
            target = self._targets[model]
            return ServedVersions(self._store.read_target(target), whole=True, target=target)
        raise ModelNotFound(f"model '{model}' is not in the repository", model=model)

    def _from_files(self, model: str, files: Mapping[str, bytes], choice: VersionChoice) -> ServedVersions:
        folder = self._folder / uuid.uuid4().hex / check_name(model, model, "name")
        try:
            for name, content in files.items():
                place = PurePosixPath(name.removeprefix("file:"))
                if leads_out(str(place)) or not place.name:
                    raise InvalidInput(
                        f"file '{name}' of model '{model}' must be a path below the model's folder"
                    )
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                (folder / place).write_bytes(content)
            found = self._store.read_from_repository(folder.parent, model, choice)
        except MooringError:
            remove_folder(folder.parent)
            raise
        except (OSError, ValueError) as error:
            # Two of the names, or one of them, are more than a file system takes.
            remove_folder(folder.parent)
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput(f"the files of model '{model}' cannot be written: {reason}") from None
        if found.first_fault is not None:
            remove_folder(folder.parent)
            raise found.first_fault
        return ServedVersions(found.specs, whole=True)


def override_config(
    spec: ModelSpec, config: Mapping[str, Any], parameters: Mapping[str, Parameter]
) -> ModelSpec:
    """Put a caller's configuration over a model's own: Triton's names (a model configuration as JSON) or ours.

    A key of Triton's means what it means in config.pbtxt. The parameters ``batch_size`` and ``timeout`` (milliseconds)
    are AMD's for how requests are joined. Raises ``InvalidInput`` naming one that is unknown, wrong or refused.
    """
    own = {**spec.parameters, **_plain_parameters(config.get("parameters", {})), **parameters}
    changes: dict[str, Any] = {"parameters": own}
    theirs = {key: value for key, value in config.items() if key not in ("parameters", "inputs", "outputs")}
    try:
        if theirs:
            spec = apply_triton_config(spec, config_from_json(theirs))
        for key in ("inputs", "outputs"):
            if config.get(key):
                changes[key] = [_parse_tensor(tensor) for tensor in config[key]]
    except (ModelLoadFailed, ValueError, AttributeError, TypeError, KeyError) as error:
        raise InvalidInput(f"config of model '{spec.name}': {error}", model=spec.name) from None
    spec = msgspec.structs.replace(spec, **changes)
    return spec if spec.stages else spec.with_options(_batching_of_parameters(parameters))


def _batching_of_parameters(parameters: Mapping[str, Parameter]) -> Batching:
    """Return how requests are joined, as far as AMD's parameters of a load say it."""
    size = _number_parameter(parameters, "batch_size", 0, least=1) if "batch_size" in parameters else None
    delay = _number_parameter(parameters, "timeout", 0, least=0) / 1e3 if "timeout" in parameters else None
    return declare(Batching, max_batch_size=or_undeclared(size), max_delay=or_undeclared(delay))


def _policy_of_config(config: Mapping[str, Any], model: str) -> VersionPolicy | None:
    """The version policy in a caller's configuration, in Triton's form; None where it has none."""
    if "version_policy" not in config:
        return None
    try:
        return parse_version_policy(
            config_from_json({"version_policy": config["version_policy"]})["version_policy"]
        )
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"config of model '{model}': {error}", model=model) from None


def worker_spec(
    worker: str, endpoint: str, parameters: Mapping[str, Parameter], defaults: Defaults
) -> ModelSpec:
    """Make the model that a worker of AMD's server is with these parameters. Raises ``InvalidInput``."""
    backend = WORKERS.get(worker)
    if backend is None:
        raise InvalidInput(f"unknown worker '{worker}'; known are {', '.join(sorted(WORKERS))}")
    model = _text_parameter(parameters, "model", "fake" if worker == "fake" else "")
    if not model:
        raise InvalidInput("No model specified")
    if backend == "builtin":
        location, entry = ".", Path(model).name.removeprefix("lib").removesuffix(".so")
    else:
        place = Path(model)
        if not place.is_file():
            raise InvalidInput(f"worker '{worker}': no such file '{model}'")
        location, entry = str(place.resolve().parent), place.name
    return ModelSpec(
        name=endpoint,
        version="1",
        backend=backend,
        location=location,
        entry=entry,
        url=model,
        options=resolve_options(
            defaults.options,
            declare(
                Batching,
                mode=BatchMode.STACK if backend != "onnx" else BatchMode.CONCAT,
                max_batch_size=_number_parameter(parameters, "batch_size", 1, least=1),
                max_delay=_number_parameter(parameters, "timeout", 100, least=0) / 1e3,
            ),
            declare(Scaling, min_workers=1, max_workers=1),
        ),
        parameters={
            key: value for key, value in parameters.items() if key not in ("model", "share", "worker")
        },
    )


def _is_entry(name: str) -> bool:
    """Whether a name is that of an entry of a folder, and not of one elsewhere or hidden."""
    return PurePosixPath(name).name == name and not name.startswith(".") and "\0" not in name


def _plain_parameters(parameters: Any) -> dict[str, Parameter]:
    """Unwrap parameters: Triton writes {"key": {"string_value": "text"}}, all others {"key": value}."""
    if not isinstance(parameters, Mapping):
        raise InvalidInput("config: 'parameters' must be an object")
    plain: dict[str, Parameter] = {}
    for key, value in parameters.items():
        found = value.get("string_value") if isinstance(value, Mapping) else value
        if not isinstance(found, bool | int | float | str):
            raise InvalidInput(
                f"config: parameter '{key}' must be text, a number, true or false: {json.dumps(value)}"
            )
        plain[key] = found
    return plain


def _parse_tensor(tensor: Mapping[str, Any]) -> TensorSpec:
    datatype = str(tensor.get("datatype", ""))
    if datatype not in DATATYPES:
        raise InvalidInput(f"config: tensor '{tensor['name']}' has no known data type: '{datatype}'")
    shape = msgspec.convert(tensor.get("shape", []), list[int], strict=False)
    return TensorSpec(msgspec.convert(tensor["name"], str), datatype, shape)


def _text_parameter(parameters: Mapping[str, Parameter], name: str, default: str) -> str:
    value = parameters.get(name, default)
    if not isinstance(value, str):
        raise InvalidInput(f"parameter '{name}' must be text, not {value!r}")
    return value


def _number_parameter(parameters: Mapping[str, Parameter], name: str, default: int, *, least: int) -> int:
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < least:
        raise InvalidInput(f"parameter '{name}' must be a whole number of at least {least}, not {value!r}")
    return int(value)
