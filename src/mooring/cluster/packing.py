"""Models of this machine as changes for the controller: what a version's files are, and with which options it is read on the nodes.

    FILE.mar FILE.onnx ...   the file
    FOLDER                   the folder, packed; of one with versions only what all of them share and the one version
    FILE.py:NAME MODULE:NAME the file's folder, for it may import what lies beside it: bounded, without what is hidden

Runs in node servers, for models that clients load there, and in ``mooring serve --cluster``.
"""

import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from mooring.cluster.model_files import ModelFileCache
from mooring.cluster.records import ModelFiles, RegisterVersion
from mooring.config.model_options import model_options
from mooring.config.settings import Config
from mooring.core.errors import ModelLoadFailed, Unsupported
from mooring.core.options import Placement
from mooring.core.paths import real_path
from mooring.core.tensors import Parameter
from mooring.repository.fetch import Fetcher, is_remote
from mooring.repository.layout import list_entries, version_folders
from mooring.repository.spec import Defaults, ModelSpec
from mooring.repository.store import Store
from mooring.repository.targets import Target, TargetKind, find_target

MOST_CODE_BYTES = 64 << 20
"""How large the folder of a Python file may be that is named as FILE.py:NAME, in bytes."""

EVERYWHERE: dict[str, object] = {"all_nodes": True}
"""Where an ensemble goes, and what it is made of: its steps must run where it does."""


def pack_models(config: Config, cache: ModelFileCache) -> list[RegisterVersion]:
    """Pack everything that the settings name (targets, model store, repositories); one change for each version, none of which waits.

    Raises ``MooringError`` as a start of a server does, and ``Unsupported`` for a workflow.
    """
    with TemporaryDirectory(prefix="mooring-") as folder:
        fetcher = Fetcher(config.allowed_urls)
        defaults = Defaults(
            options=model_options(config),
            handler=config.default_service_handler,
            settings=config.model_settings,
        )
        found = Store(Path(folder), defaults, fetcher=fetcher).find(config)
        if found.workflows:
            name, archive = found.workflows[0]
            raise Unsupported(
                f"'{archive}' is a workflow ({name or 'of that name'}), and a cluster serves none: serve its models"
            )
        packer = ModelPacker(cache, fetcher, config.model_store, config.targets)
        return packer.pack_versions(found.specs)


class ModelPacker:
    """Finds the files of versions that were read on this machine, and packs them into a cache.

    ``targets`` are the arguments of the command line, ``store`` is the model store.
    """

    def __init__(
        self, cache: ModelFileCache, fetcher: Fetcher, store: Path | None, targets: Sequence[str] = ()
    ) -> None:
        self._cache = cache
        self._fetcher = fetcher
        self._store = store
        self._targets = {target.text: target for target in map(find_target, targets)}

    def pack_versions(self, specs: Sequence[ModelSpec]) -> list[RegisterVersion]:
        """Pack versions; the stages of chains go with their chains. The highest version of each model is to be its default."""
        stages = {stage for spec in specs if spec.ensemble is None for stage in spec.stages}
        steps = {step for spec in specs if spec.ensemble is not None for step in spec.stages}
        whole = [spec for spec in specs if not (spec.chain or spec.name in stages)]
        last = {spec.name: spec.version for spec in whole}  # the lowest comes first
        changes = []
        for spec in whole:
            files, options = self._pack(spec)
            changes.append(
                RegisterVersion(
                    spec.name,
                    spec.version,
                    files,
                    options=options,
                    placement=placement_of(spec, everywhere=spec.name in steps),
                    scaling=scaling_of(spec),
                    make_default=last[spec.name] == spec.version,
                    replace=True,
                    wait=False,
                )
            )
        return changes

    def _pack(self, spec: ModelSpec) -> tuple[ModelFiles, dict[str, Parameter]]:
        target = self._targets.get(spec.url)
        options: dict[str, Parameter] = {"shown": spec.url}
        if target is not None and target.kind is TargetKind.FUNCTION:
            return self._pack_function(target), options | {
                "entry": str(target.place.relative_to(target.root)),
                "function": target.function,
                "module": target.module,
            }
        if target is None and is_remote(spec.url):
            target = next(
                each
                for each in self._targets.values()
                if is_remote(each.text) and each.text.startswith(spec.url)
            )
        if target is not None and target.kind is TargetKind.URL:
            return self._pack_remote(target), options
        if spec.version_policy is not None:
            return self.pack_folder(Path(spec.url), spec.version), options
        place = target.place if target is not None else Path(self._store or ".", spec.url)
        return self._cache.add(real_path(place), name=place.name), options

    def pack_folder(self, folder: Path, version: str) -> ModelFiles:
        """Pack a model's folder with only this one of its versions."""
        others = {each.name for each in version_folders(folder)} - {version}
        return self._cache.add(folder, leave_out=others)

    def _pack_remote(self, target: Target) -> ModelFiles:
        with TemporaryDirectory(prefix="mooring-") as folder:
            files = self._cache.add(self._fetcher.fetch(target.text, Path(folder)), name=target.place.name)
        return msgspec.structs.replace(files, sources=[target.text])

    def _pack_function(self, target: Target) -> ModelFiles:
        root = real_path(target.root)
        installed = any(root == Path(sysconfig.get_path(each)).resolve() for each in ("purelib", "platlib"))
        own = target.place.relative_to(target.root).parts[0]
        leave_out = {
            entry.name
            for entry in list_entries(root)
            if entry.name != own
            and (installed or entry.name.startswith(".") or (entry / "pyvenv.cfg").is_file())
        }
        try:
            return self._cache.add(
                root, name=root.name or "code", leave_out=leave_out, most_bytes=MOST_CODE_BYTES
            )
        except ModelLoadFailed as error:
            raise ModelLoadFailed(
                f"'{target.text}': all that lies beside its file is sent to the nodes, and that cannot be: {error.message}; "
                f"{MOST_CODE_BYTES >> 20} MB are sent at most. Put the file and what it imports into a folder of its own, or serve "
                "that folder, which has no such bound"
            ) from error


def placement_of(spec: ModelSpec, *, everywhere: bool = False) -> dict[str, object]:
    """Where a version's configuration wants it, as JSON types. Ensembles and their steps go everywhere unless they say more."""
    placement = spec.options.placement
    if placement == Placement():
        return EVERYWHERE if everywhere or spec.ensemble is not None else {}
    return dict(_differences(placement))


def scaling_of(spec: ModelSpec) -> dict[str, object]:
    """How long requests should wait at most, and over which times that is judged, as ``core.options.Scaling`` has it; empty without a target."""
    scaling = spec.scaling
    if not scaling.target_queue:
        return {}
    names = ("target_queue", "scaling_window", "cool_down")
    return {name: getattr(scaling, name) for name in names}


def _differences(placement: Placement) -> Iterator[tuple[str, object]]:
    default = Placement()
    for name in placement.__struct_fields__:
        value = getattr(placement, name)
        if value != getattr(default, name):
            yield name, msgspec.to_builtins(value)
