"""Keeping what is served in step with the model repository while the server runs."""

import asyncio
from contextlib import suppress
from pathlib import Path

from mooring.core.errors import ModelNotFound, MooringError
from mooring.core.service import ModelAdministration
from mooring.observability.logs import get_logger
from mooring.repository.catalog import Catalog
from mooring.repository.watch import changed_models

log = get_logger(__name__)


class RepositoryMonitor:
    """Loads what is added to the repository, loads anew what changes, unloads what is removed.

    A model that cannot be loaded is logged with its reason and tried again when its folder changes again.
    """

    def __init__(
        self,
        administration: ModelAdministration,
        catalog: Catalog,
        repository: Path,
        *,
        polling: bool = False,
    ) -> None:
        self._administration = administration
        self._catalog = catalog
        self._repository = repository.resolve()
        self._polling = polling
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch from now on."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Return when nothing is being loaded or unloaded any more."""
        self._ended.set()
        if self._task is not None:
            await self._task

    async def _watch(self) -> None:
        async for names in changed_models(self._repository, self._ended, polling=self._polling):
            for name in sorted(names):
                await self._follow(name)

    def _read_from(self, folder: str) -> list[str]:
        """What is loaded from a folder: a config may call its model otherwise, and a chain has many."""
        url = str(self._repository / folder)
        loaded = {state.name for state in self._administration.index() if state.version}
        return [name for name in sorted(loaded) if self._administration.describe(name)[0].url == url]

    async def _follow(self, name: str) -> None:
        try:
            if name in self._catalog.names():
                await self._administration.load(name)
                log.info("model loaded from the repository", model=name)
            else:
                for model in self._read_from(name):
                    with suppress(ModelNotFound):  # somebody else unloaded it meanwhile
                        await self._administration.unload(model)
        except ModelNotFound:
            pass  # it is half removed: the next change will say more
        except MooringError as error:
            log.error("model of the repository not loaded", model=name, reason=error.message)  # noqa: TRY400
        except Exception:  # the supervisor: one model must not end the watch over all others
            log.exception("repository monitoring failed", model=name)
