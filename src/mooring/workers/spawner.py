"""What the workers of a version are forked from: a process with the model in it where that is safe, else its libraries."""

import asyncio
import sys
import time

from mooring.core.service import Joining, LoadContext
from mooring.ipc.messages import Load
from mooring.observability.logs import get_logger
from mooring.repository.preloads import fork_unsafe_reason, preload
from mooring.repository.spec import ModelSpec
from mooring.workers.local import LibraryTemplate, LocalProcess, LocalWorkers, ModelTemplate, Template

log = get_logger(__name__)


class Spawner:
    """Where new workers of one version come from. The model is loaded once, when the first of them is wanted."""

    def __init__(self, spec: ModelSpec, workers: LocalWorkers, threads: int) -> None:
        self._spec = spec
        self._local = workers
        self._facts = {"model": spec.name}
        self._threads = threads
        self._alone = self._rule()
        if self._alone:
            log.debug("workers load the model themselves", **self._facts, reason=self._alone)
        self._model: ModelTemplate | None = None
        self._loading = asyncio.Lock()

    async def start(self) -> LocalProcess:
        """A new worker. Raises ``OSError`` when there is no room."""
        async with self._loading:
            template = await self._template()
        return self._local.start(template, self._facts)

    @property
    def pid(self) -> int:
        """Of the process with the model in it; 0 where there is none."""
        return self._model.pid if self._model is not None and not self._model.dead else 0

    def reconsider(self) -> None:
        """The model's files have changed: what its template met while it loaded them says nothing of the new ones."""
        self._alone = self._rule()

    def _rule(self) -> str:
        """Why workers load the model themselves, by what is known of it before."""
        if sys.platform != "linux":
            return "only Linux shows whether loading started threads"
        return fork_unsafe_reason(self._spec, self._threads)

    async def try_joining(self) -> Joining:
        """Whether requests for the model may share its calls. Raises ``OSError`` when there is no room to find out."""
        async with self._loading:
            template = await self._template()
        load = Load(self._spec, LoadContext(threads=self._threads))
        return await self._local.try_joining(template, load, {**self._facts, "trial": "joining"})

    def close(self) -> None:
        """No more workers are wanted; those that are there may end in peace."""
        model, self._model = self._model, None
        if model is not None:
            model.dismiss()

    async def _template(self) -> Template:
        if self._model is not None and not self._model.dead:
            return self._model
        libraries = await self._libraries()
        if self._alone or libraries.dead:
            return libraries
        model = await self._load_once(libraries)
        if model is None and libraries.dead:  # frozen or killed: the model is not to blame
            self._alone = self._rule()
            libraries = await self._libraries()
        return model or libraries

    async def _libraries(self) -> LibraryTemplate:
        """The process with the model's libraries; another one where that is given up while it imports them."""
        libraries = self._local.template(preload(self._spec))
        await libraries.ready()
        if libraries.dead:
            libraries = self._local.template(preload(self._spec))
            await libraries.ready()
        return libraries

    async def _load_once(self, libraries: LibraryTemplate) -> ModelTemplate | None:
        """A process with the model in it; None where the workers are to load it themselves."""
        begin = time.monotonic()
        model = self._model = libraries.fork_model(Load(self._spec, LoadContext()), self._facts)
        try:
            await asyncio.wait_for(model.ready(), self._spec.timeouts.startup_timeout)
        except TimeoutError:
            model.refusal = f"loading took longer than {self._spec.timeouts.startup_timeout:g} s"
            model.kill()
        if not model.refusal:
            log.debug("model loaded before the fork", **self._facts, seconds=time.monotonic() - begin)
            return model
        self._model, self._alone = None, model.refusal
        log.info("workers load the model themselves", **self._facts, reason=self._alone)
        return None
