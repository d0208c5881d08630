"""Finding what is to be served and making it ready to load: archives are unpacked, configurations read.

    a target of ``mooring serve``      FILE.mar · FILE.py:function · FILE.onnx · FILE.pt2 · FILE.pt · a model's folder;
                                       with NAME= in front it is called so
    the model store                    archives and model folders, named one by one or "all"
    the model repository               NAME/config.toml and NAME/1/model.py

A model that the user named must be there, unless ``require_models`` is off. A broken one that was only found (in all of
a store, in a repository) is logged with the reason and skipped, and the others are served. Store and repository are the
operator's, and so are the links in them: they are followed. Names that come from clients may not lead out (``..``, absolute
paths), and what an archive holds is unpacked without any link.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from mooring.config.settings import Config, Snapshot
from mooring.core.errors import ModelExists, ModelLoadFailed, ModelNotFound, MooringError, SourceRefused
from mooring.core.options import Batching, declare
from mooring.core.paths import leads_out, real_path
from mooring.observability.logs import get_logger
from mooring.repository.archives import UnpackLimits, find_model_root, remove_folder, unpack
from mooring.repository.fetch import Fetcher, is_remote, url_for_log
from mooring.repository.layout import (
    PADDED,
    find_declaration,
    is_dangling_link,
    is_file,
    is_folder,
    list_entries,
    may_read,
    model_folders,
    version_folders,
)
from mooring.repository.mar import MANIFEST, SUFFIXES, check_name, model_name_of, read_model
from mooring.repository.platforms import DEFAULT_BATCH, FUNCTION, LIBRARIES, backend_of, runs_triton_model
from mooring.repository.repository_model import (
    RepositoryModel,
    VersionChoice,
    read_repository_model,
    read_versions,
)
from mooring.repository.snapshot import restore_settings
from mooring.repository.spec import Defaults, ModelSpec
from mooring.repository.targets import (
    Target,
    TargetKind,
    explain_folder,
    find_model_in_folder,
    find_target,
    refuse_url,
)
from mooring.repository.workflow_spec import Workflow, read_workflow

log = get_logger(__name__)

_Result = TypeVar("_Result")


@contextmanager
def _told_as_load_failure(source: str) -> Iterator[None]:
    """Say of a source that the system does not let us read that it cannot be loaded: others may well be."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ModelLoadFailed(
            f"'{source}' cannot be read: {where}{error.strerror or error}; the server runs as user {os.geteuid()}"
        ) from None


class Store:
    """Reads what is to be served into ``ModelSpec``s, and owns the files that it unpacks for them.

    How this works: every ``read_`` method finds one kind of source (a target of the command line, an archive of the
    store or of a URL, a folder of a repository), unpacks archives into a folder of their own below ``unpacked``, which
    nobody else writes to, and has the reader of that kind make the specs (mar.py, repository_model.py,
    workflow_spec.py). Whatever a reader refuses is removed at once; ``release`` removes one model's files, ``close`` all
    of them. ``find`` goes through the settings of a start in this way.
    """

    def __init__(
        self,
        unpacked: Path,
        defaults: Defaults | None = None,
        limits: UnpackLimits | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        self._unpacked = unpacked.resolve()
        self._defaults = defaults or Defaults()
        self._limits = limits
        self._fetcher = fetcher or Fetcher()

    def find(self, config: Config) -> "StartupModels":
        """Find every model that the settings name, in this order: targets, model store, model repository.

        Raises ``ModelNotFound`` or ``ModelLoadFailed`` for one that was named, and ``ModelExists`` where two of
        those are the same version of the same model.
        """
        found = StartupModels(config.require_models)
        found.workflows = [_split_name(each) for each in config.models if _names_workflow(each)]
        for target in config.targets:
            with found.skip_target(target) if config.keep_going else nullcontext():
                found.add(self.read_target(target), named=True)
        if config.model_snapshot is not None:
            self._find_of_snapshot(config.model_store, config.model_snapshot, found)
        elif config.models:
            self._find_in_store(config.model_store, config.models, found)
        # An operator's folders may be on other nodes of a cluster.
        named = [each for each in config.model_repository if config.cluster_socket is None or each.is_dir()]
        folders = [_existing_folder(each, "model repository") for each in named]
        repositories = list(dict.fromkeys(folders))  # one that was named twice is one
        if config.repository_load_existing:
            self._find_in_repositories(repositories, config.startup_models, found)
        return found

    def read_target(self, target: str) -> list[ModelSpec]:
        """Read what one argument of ``mooring serve`` names: one model, or every version of one."""
        with _told_as_load_failure(url_for_log(target)):
            return self._read_target(target)

    def _read_target(self, target: str) -> list[ModelSpec]:
        found = find_target(target)
        name, place, text = found.name, found.place, found.text
        if found.kind is TargetKind.URL:
            return [self._fetch_target(found)]
        if found.kind is TargetKind.FOLDER:
            return self._open_folder(real_path(place), text, name)
        if found.kind is TargetKind.FUNCTION:
            return [self._function(found)]
        if found.kind is TargetKind.FILE:
            return [self._file(place, text, name or place.stem)]
        return [self._unpack(place, text, name)]

    def read_place(
        self, place: Path, url: str, *, name: str = "", version: str = "", defaults: Defaults | None = None
    ) -> list[ModelSpec]:
        """Read what lies at a path and is known by another ``url``: an archive, a model file or a folder.

        Of a folder with versions only ``version`` is read, where it is one of them. Raises ``ModelLoadFailed`` or ``ModelNotFound``.
        """
        with _told_as_load_failure(url):
            if not place.is_dir():
                if backend_of(place):
                    return [self._file(place, url, name or place.stem)]
                return [self._unpack(place, url, name, defaults)]
            if find_declaration(place) is None and not version_folders(place):
                root = find_model_root(place)
                if (root / MANIFEST).is_file() or (root / "handler.py").is_file():
                    return [self._read_folder(root, url, name, place, defaults)]
                return self._open_folder(place, url, name)
            numbered = {each.name for each in version_folders(place)}
            chosen = version if version in numbered else ""
            return read_versions(place, url, name=name, version=chosen, defaults=self._defaults)

    def read_function(
        self, folder: Path, entry: str, url: str, *, name: str, function: str, module: str
    ) -> ModelSpec:
        """Read a function of the Python file ``entry`` in a folder, or with a ``module`` as part of that package."""
        if leads_out(entry):
            raise SourceRefused(f"'{entry}' leads out of its folder")
        kind = TargetKind.FUNCTION
        target = Target(
            kind=kind, text=url, place=folder / entry, name=name, function=function, module=module
        )
        with _told_as_load_failure(url):
            return self._function(target)

    def read_archive(
        self, store: Path, archive: str, *, name: str = "", defaults: Defaults | None = None
    ) -> ModelSpec:
        """Read a model of the store by the name of its archive or folder there, or by a URL from the allow-list.

        Raises ``ModelNotFound`` or ``ModelLoadFailed``; of a name, a link or a URL that leads elsewhere
        ``SourceRefused``, of an archive that does not come ``FetchFailed``.
        """
        if is_remote(archive):
            return self.read_remote(archive, name=name, defaults=defaults, keep_in=store)
        place = place_in_store(store, archive)
        with _told_as_load_failure(archive):
            if place.is_dir():
                return self._read_folder(find_model_root(real_path(place)), archive, name, place, defaults)
            return self._unpack(place, archive, name, defaults)

    def read_remote(
        self, url: str, *, name: str = "", defaults: Defaults | None = None, keep_in: Path | None = None
    ) -> ModelSpec:
        """Read a model whose archive lies at a URL, and keep the archive in the model store ``keep_in``.

        Raises as ``read_archive``.
        """
        with self.open_fetched(url, keep_in) as archive:
            return self._unpack(archive, url_for_log(url), name, defaults)

    def read_workflow_archive(self, store: Path, url: str, *, name: str = "") -> Workflow:
        """Read a workflow by the name of its archive in the store, or by a URL; as ``read_archive``."""
        if is_remote(url):
            with self._fetched(url) as archive:
                return self._unpack_workflow(archive, url_for_log(url), name)
        return self._unpack_workflow(place_in_store(store, url), url, name)

    def read_from_repository(
        self, repository: Path, name: str, choice: VersionChoice | None = None
    ) -> RepositoryModel:
        """Read a model of the repository: the versions to serve, the lowest first.

        Raises ``SourceRefused`` for a name that leads out, ``ModelNotFound`` where there is no such folder and
        ``ModelLoadFailed`` where nothing of it can be served.
        """
        place = place_in_store(repository, name)
        with _told_as_load_failure(str(place)):
            return read_repository_model(place, defaults=self._defaults, choice=choice)

    def release(self, spec: ModelSpec) -> None:
        """Remove what was unpacked for a model; a folder of the user's own stays."""
        location = Path(spec.location)
        for folder in (location, location.parent):
            if folder.parent == self._unpacked:
                remove_folder(folder)

    def close(self) -> None:
        """Remove everything that was unpacked."""
        for folder in self._unpacked.iterdir():
            remove_folder(folder)

    def _find_in_store(self, folder: Path | None, wanted: Sequence[str], found: "StartupModels") -> None:
        if folder is None:
            raise ModelLoadFailed("models are named but no model store to find them in: give --model-store")
        store = _existing_folder(folder, "model store")
        for each in wanted:
            if _names_workflow(each):
                continue
            if each.lower() == "all":
                for archive in archives_in(store):
                    with found.skip_broken(model_name_of(store / archive), archive):
                        found.add([self.read_archive(store, archive)])
                continue
            name, archive = _split_name(each)
            with found.skip_named(name or model_name_of(Path(archive)), archive):
                found.add([self.read_archive(store, archive, name=name)])

    def _find_in_repositories(
        self, repositories: Sequence[Path], wanted: Sequence[str], found: "StartupModels"
    ) -> None:
        """Find the models of all repositories, or those that are ``wanted`` with the models of ensembles, each name once."""
        places: dict[str, list[Path]] = {}
        for repository in repositories:
            for name in model_folders(repository):
                places.setdefault(name, []).append(repository)
        names = [*(dict.fromkeys(wanted) or places)]
        for name in names:  # which grows
            before = len(found.specs)
            where = places.get(name, [])
            if len(where) == 1:
                with found.skip_broken(name, str(where[0] / name)):
                    self._find_in_repository(where[0], name, found)
            elif where:
                found.skip(SkippedModel(name, "", str(where[0] / name), several_places(name, where)))
            else:
                reason = f"there is no folder '{name}' in the model repository"
                found.skip(SkippedModel(name, "", name, reason))
            steps = dict.fromkeys(
                stage for spec in found.specs[before:] if spec.ensemble is not None for stage in spec.stages
            )
            names += [step for step in steps if step in places and step not in names]

    def _find_in_repository(self, repository: Path, name: str, found: "StartupModels") -> None:
        model = self.read_from_repository(repository, name)
        found.add(model.specs)
        url = str(repository / name)
        for version, error in model.faults.items():
            found.skip(SkippedModel(model.specs[-1].name, version, url, error.message))
        if model.padded:
            log.warning("folders that are not versions", url=url, folders=model.padded, reason=PADDED)

    def _find_of_snapshot(self, folder: Path | None, snapshot: Snapshot, found: "StartupModels") -> None:
        """Find the models of a snapshot, their default versions first. A missing one is an error that names it."""
        if folder is None:
            raise ModelLoadFailed(
                "a snapshot names models but no model store to find them in: give --model-store"
            )
        store = _existing_folder(folder, "model store")
        for name, versions in snapshot.models.items():
            for version in sorted(versions, key=lambda version: not versions[version].default_version):
                settings = versions[version]
                try:
                    spec = self.read_archive(store, settings.mar_name, name=name)
                except MooringError as error:
                    text = f"model '{name}' version '{version}' of the snapshot: {error.message}"
                    raise ModelLoadFailed(text, model=name, version=version) from error
                if spec.version != version:
                    raise ModelLoadFailed(
                        f"model '{name}' version '{version}' of the snapshot: '{settings.mar_name}' in the model"
                        f" store is version '{spec.version}'",
                        model=name,
                        version=version,
                    )
                found.add([restore_settings(spec, settings)])

    def archive_of(self, spec: ModelSpec, folder: Path | None) -> str:
        """The name with which ``read_archive`` finds a model again; empty for one of a workflow or of any other source."""
        if spec.workflow:
            return ""
        if is_remote(spec.url):
            return spec.url if spec.backend == "handler" else ""  # a model file is fetched for a start alone
        if folder is None or not spec.url or spec.backend != "handler":
            return ""
        return str(spec.url) if not leads_out(spec.url) and _exists(folder / spec.url) else ""

    @contextmanager
    def open_fetched(self, url: str, keep_in: Path | None) -> Iterator[Path]:
        """Fetch an archive for as long as the context lasts; one that was of use is kept in the folder ``keep_in``."""
        with self._fetched(url) as archive:
            yield archive
            if keep_in is not None:
                _keep_archive(archive, keep_in)

    @contextmanager
    def _fetched(self, url: str) -> Iterator[Path]:
        """Fetch an archive, and keep it for as long as it is read."""
        self._fetcher.check(url)
        folder = self._unpacked / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        try:
            yield self._fetcher.fetch(url, folder)
        finally:
            remove_folder(folder)

    def _unpack_workflow(self, archive: Path, url: str, name: str) -> Workflow:
        def read(folder: Path) -> Workflow:
            return read_workflow(find_model_root(folder), url, name=name, fallback=archive.stem)

        return self._unpack_to(archive, read)

    def _unpack(self, archive: Path, url: str, name: str, defaults: Defaults | None = None) -> ModelSpec:
        return self._unpack_to(
            archive, lambda folder: self._read_folder(find_model_root(folder), url, name, archive, defaults)
        )

    def _unpack_to(self, archive: Path, read: Callable[[Path], _Result]) -> _Result:
        """Unpack an archive for ``read``. Nothing is left of one that it refuses."""
        if is_dangling_link(archive):
            raise ModelLoadFailed(
                f"'{archive}' is a link that leads nowhere: {archive.readlink()} is not there"
            )
        if not archive.is_file():
            raise ModelLoadFailed(f"'{archive}' is neither a file nor a folder")
        folder = self._unpacked / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        try:
            unpack(archive, folder, self._limits)
            return read(folder)
        except MooringError:
            remove_folder(folder)
            raise

    def _read_folder(
        self, folder: Path, url: str, name: str, origin: Path, defaults: Defaults | None = None
    ) -> ModelSpec:
        fallback = model_name_of(origin)
        return read_model(folder, url, name=name, fallback=fallback, defaults=defaults or self._defaults)

    def _fetch_target(self, target: Target) -> ModelSpec:
        """Fetch an archive or a model file from a URL that is allowed."""
        if not self._fetcher.allows(target.text):
            self._fetcher.check_form(target.text)
            raise refuse_url(target.text)
        backend = backend_of(target.place)
        if not backend:
            return self.read_remote(target.text, name=target.name)
        folder = self._unpacked / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        try:
            file = self._fetcher.fetch(target.text, folder)
            return self._file(file, url_for_log(target.text), target.name or file.stem)
        except MooringError:
            remove_folder(folder)
            raise

    def _open_folder(self, folder: Path, url: str, name: str) -> list[ModelSpec]:
        if find_declaration(folder) is not None or version_folders(folder):
            return read_versions(folder, url, name=name, defaults=self._defaults)
        root = find_model_root(folder)
        if (root / MANIFEST).is_file() or (root / "handler.py").is_file():
            return [self._read_folder(root, url, name, folder)]
        file = find_model_in_folder(folder)
        if file is None:
            raise ModelLoadFailed(explain_folder(folder, url))
        if file.suffix == ".py":
            target = find_target(str(file))
            return [self._function(msgspec.structs.replace(target, text=url, name=name or folder.name))]
        return [self._file(file, url, name or folder.name)]

    def _file(self, file: Path, url: str, name: str) -> ModelSpec:
        """Make a model of one file that itself declares its inputs and outputs."""
        if not file.is_file():
            raise ModelLoadFailed(f"'{file}' is not a file")
        spec = self._undeclared_model(file, url, check_name(name, url, "name"), backend_of(file), file.name)
        return spec.with_options(declare(Batching, max_batch_size=DEFAULT_BATCH, size_by_default=True))

    def _function(self, target: Target) -> ModelSpec:
        """Make a model of a function, or without its name of the file's own ``infer`` or ``Model``."""
        file, function = target.place, target.function
        # Of the link, where it is one: caches of models keep their files under other names.
        root, entry = str(real_path(target.root)), str(file.relative_to(target.root))
        name = check_name(target.name or file.stem, target.text, "name")
        backend = "triton_python" if not function and runs_triton_model(file) else FUNCTION
        spec = self._undeclared_model(
            file, target.text, name, backend, f"{entry}:{function}" if function else entry
        )
        spec = msgspec.structs.replace(spec, location=root, module=target.module)
        return spec.with_options(declare(Batching, size_by_default=True)) if backend == FUNCTION else spec

    def _undeclared_model(self, file: Path, url: str, name: str, backend: str, entry: str) -> ModelSpec:
        """Make a model of a file without a configuration: the server's defaults hold."""
        return ModelSpec(
            name=name,
            version="1",
            backend=backend,
            # Of the link, where it is one: caches of models keep their files under other names.
            location=str(real_path(file.parent)),
            entry=entry,
            url=url,
            options=self._defaults.options_for(sharing=backend in LIBRARIES),
        )


class SkippedModel(msgspec.Struct, frozen=True):
    """A model, or with ``version`` one version of it, that was found and cannot be served.

    ``expected`` is whether the start counts on it; it does not count on a second copy of a model that is served.
    """

    name: str
    version: str
    url: str
    reason: str
    expected: bool = True


class StartupModels:
    """The models of a start, each version once, and those that had to be skipped.

    ``workflows`` are the names and archives of workflows to register once the models are being loaded. Where the models
    are not ``required``, one that was named is skipped, too, and the start counts on none of those that are skipped.
    """

    def __init__(self, required: bool = True) -> None:
        self.specs: list[ModelSpec] = []
        self.skipped: list[SkippedModel] = []
        self.workflows: list[tuple[str, str]] = []
        self.named: set[tuple[str, str]] = set()  # name and version of those that targets name
        self._required = required

    def add(self, specs: list[ModelSpec], *, named: bool = False) -> None:
        """Add these models, which a target may have ``named``. Raises ``ModelExists`` for a version that is there already."""
        for spec in specs:
            for other in self.specs:
                if (other.name, other.version) == (spec.name, spec.version):
                    raise ModelExists(
                        f"'{other.url}' and '{spec.url}' are both version '{spec.version}' of model '{spec.name}'; "
                        "name one of them differently, as in NAME=FILE"
                    )
            self.specs.append(spec)
            if named:
                self.named.add((spec.name, spec.version))

    def skip(self, model: SkippedModel) -> None:
        """Log that a model cannot be served, and remember it."""
        log.error("model left out", url=model.url, version=model.version or "all", reason=model.reason)
        self.skipped.append(model)

    @contextmanager
    def skip_target(self, target: str) -> Iterator[None]:
        """Skip the model inside, which a target names, where it cannot be read."""
        try:
            yield
        except MooringError as error:
            self.skip(SkippedModel(_split_name(target)[0] or target, "", target, error.message))

    @contextmanager
    def skip_broken(self, name: str, url: str) -> Iterator[None]:
        """Skip the model inside, which nobody named, where it cannot be served; the others are."""
        try:
            yield
        except ModelNotFound as error:  # it went between the listing and the look
            log.warning("model gone", url=url, reason=error.message)
        except MooringError as error:
            if not self._required:
                self._leave_out(name, url, error.message)
                return
            self.skip(SkippedModel(name, "", url, error.message, expected=not isinstance(error, ModelExists)))

    @contextmanager
    def skip_named(self, name: str, url: str) -> Iterator[None]:
        """Skip the model inside, which the user named, where it cannot be served and is not required."""
        try:
            yield
        except MooringError as error:
            if self._required:
                raise
            self._leave_out(name, url, error.message)

    def _leave_out(self, name: str, url: str, reason: str) -> None:
        log.warning(f"Failed to load model: {url}", reason=reason)  # noqa: G004 - TorchServe's line
        self.skipped.append(SkippedModel(name, "", url, reason, expected=False))


def several_places(name: str, repositories: Sequence[Path]) -> str:
    """Say that several repositories have a model of one name, of which none is served."""
    folders = " and ".join(f"'{each / name}'" for each in repositories)
    return f"model '{name}' is in several model repositories: {folders}; name one of them differently"


def archives_in(store: Path) -> list[str]:
    """List the archives and the model folders of a store, by name."""
    return sorted(entry.name for entry in list_entries(store) if is_archive(entry))


def is_archive(place: Path) -> bool:
    """Whether an entry of a store is an archive or an unpacked one."""
    if place.name.startswith("."):
        return False
    if not is_folder(place):
        return place.name.endswith(SUFFIXES)
    try:
        return is_file(find_model_root(place) / MANIFEST)
    except OSError:  # it went meanwhile, or is not ours to read
        return False


def _names_workflow(named: str) -> bool:
    return named.endswith(".war")


def _split_name(named: str) -> tuple[str, str]:
    """Split NAME=ARCHIVE, where the archive may be a URL with a = of its own."""
    name, equals, archive = named.partition("=")
    return (name, archive) if equals and "/" not in name else ("", named)


def _existing_folder(folder: Path, what: str) -> Path:
    if not folder.is_dir():
        raise ModelLoadFailed(f"{what} '{folder}' is not a folder")
    if not may_read(folder):
        raise ModelLoadFailed(
            f"{what} '{folder}' cannot be read: permission denied; the server runs as user {os.geteuid()}"
        )
    return real_path(folder)


def place_in_store(store: Path, name: str) -> Path:
    """Find something in a store. Its name may not lead out; links are the operator's own, and are followed."""
    if leads_out(name):
        raise SourceRefused(f"'{name}': a relative path is not allowed; name a file of the model store")
    place = store / name
    if place == store or not (_exists(place) or is_dangling_link(place)):
        known = ", ".join(
            entry.name for entry in sorted(list_entries(store))[:10] if not entry.name.startswith(".")
        )
        raise ModelNotFound(f"no '{name}' in '{store}'; there is {known or 'nothing'}")
    return place


def _keep_archive(archive: Path, store: Path) -> None:
    """Keep a fetched archive in the model store, under its own name, as TorchServe does; a file of that name stays."""
    part = store / f".{uuid.uuid4().hex}.part"
    try:
        if (store / archive.name).exists():
            return
        shutil.copyfile(archive, part)
        with suppress(FileExistsError):
            (store / archive.name).hardlink_to(part)
    except OSError as error:
        log.warning("archive not kept in the model store", archive=archive.name, reason=str(error))
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except (OSError, ValueError):  # a name too long, or one that no file system can hold
        return False
