"""Writes down what is served after every change, so that the next start can go on from there."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from mooring.config.settings import ModelSettings
from mooring.engine.registry import Registry
from mooring.observability.logs import get_logger
from mooring.repository.snapshot import Kind, save_snapshot, snapshot_settings
from mooring.repository.spec import ModelSpec

log = get_logger(__name__)


class Snapshots:
    """``archive_of`` says where a version can be had again; one of which it says nothing is left out."""

    def __init__(
        self,
        registry: Registry,
        folder: Path,
        properties: Mapping[str, str],
        archive_of: Callable[[ModelSpec], str],
    ) -> None:
        self._registry = registry
        self._folder = folder
        self._properties = properties
        self._archive_of = archive_of

    def write(self, kind: Kind = "snapshot") -> None:
        """Write what is served now. A snapshot that cannot be written is an error in the log, and no more."""
        models: dict[str, dict[str, ModelSettings]] = {}
        for version in self._registry:
            spec = version.spec
            archive = self._archive_of(spec)
            if archive:
                is_default = self._registry.models[spec.name].default == spec.version
                settings = snapshot_settings(spec, archive, is_default=is_default)
                models.setdefault(spec.name, {})[spec.version] = settings
        try:
            place = save_snapshot(self._folder, kind, datetime.now().astimezone(), self._properties, models)
        except OSError as error:
            log.error("snapshot not written", folder=self._folder, reason=error)  # noqa: TRY400 - the reason says it all
        else:
            log.debug("snapshot written", file=place)
