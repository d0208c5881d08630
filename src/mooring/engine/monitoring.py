"""Watches the model repository while the server runs, and loads and unloads models as it changes."""

import asyncio
from pathlib import Path

from mooring.core.errors import ModelNotFound, MooringError
from mooring.core.paths import real_path
from mooring.engine.administration import Administration
from mooring.observability.logs import get_logger
from mooring.repository.catalog import Catalog
from mooring.repository.watch import changed_models

log = get_logger(__name__)

# Seconds that a load gets to finish when the server ends.
_LAST_WAIT = 1
_CONFIG_MAP = "..data"


class RepositoryMonitor:
    """Loads what is added to the repository, loads anew what changes, unloads what is removed.

    A model that cannot be loaded is logged with its reason and tried again when its folder changes again.
    """

    def __init__(
        self,
        administration: Administration,
        catalog: Catalog,
        repository: Path,
        *,
        polling: bool = False,
    ) -> None:
        self._administration = administration
        self._catalog = catalog
        self._repository = real_path(repository)
        self._polling = polling
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on."""
        self._task = asyncio.get_running_loop().create_task(self._watch_repository())

    async def close(self) -> None:
        """Return when nothing is being loaded or unloaded any more. What takes longer than a second is given up."""
        self._ended.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_LAST_WAIT)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch_repository(self) -> None:
        async for names in changed_models(self._repository, self._ended, polling=self._polling):
            # Kubernetes changes a mounted ConfigMap by one link, beside the links that lead through it.
            linked = self._catalog.list_symlinked() if _CONFIG_MAP in names else ()
            for name in sorted({*names, *linked}):
                await self._sync_model(name)

    async def _sync_model(self, name: str) -> None:
        if name.startswith("."):
            return
        try:
            if await self._administration.sync_folder(name):
                log.info("model loaded from the repository", model=name)
        except ModelNotFound:
            pass  # it is half removed: another change of the folder follows
        except MooringError as error:
            log.error("model of the repository not loaded", model=name, reason=error.message)  # noqa: TRY400
        except Exception:  # the supervisor: one model must not end the watch over all others
            log.exception("repository monitoring failed", model=name)
