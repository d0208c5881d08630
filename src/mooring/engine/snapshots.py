"""Snapshots of the served models, written after every change, from which the next start can resume."""

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
    """Writes the models of a registry to snapshot files in ``folder``.

    ``archive_of`` returns the URL from which a version can be loaded again; a version without one is left out.
    """

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

    def write_snapshot(self, kind: Kind = "snapshot") -> None:
        """Write the models that are served now. Where that fails the error is logged and nothing is raised."""
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
