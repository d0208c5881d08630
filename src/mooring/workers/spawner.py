"""Starting the workers of a version: from a template with the model in it where that is safe, else with its libraries."""

import asyncio
import sys
import time

from mooring.core.service import Joining, LoadContext
from mooring.ipc.messages import Load
from mooring.ipc.template_protocol import LOADING_FAILED
from mooring.observability.logs import get_logger
from mooring.repository.preloads import fork_unsafe_reason, preload
from mooring.repository.spec import ModelSpec
from mooring.workers.local import LibraryTemplate, LocalProcess, LocalWorkers, ModelTemplate, Template
from mooring.workers.output import shows_debug

log = get_logger(__name__)


class Spawner:
    """Starts the workers of one version. A template loads the model once, when the first worker is wanted."""

    def __init__(self, spec: ModelSpec, workers: LocalWorkers, threads: int) -> None:
        self._spec = spec
        self._local = workers
        self._facts = {"model": spec.name, "version": spec.version}
        self._threads = threads
        self._fork_unsafe_reason = self._find_fork_unsafe_reason()
        if self._fork_unsafe_reason:
            log.debug("workers load the model themselves", **self._facts, reason=self._fork_unsafe_reason)
        self._model: ModelTemplate | None = None
        self._loading = asyncio.Lock()

    async def start_worker(self) -> LocalProcess:
        """Start a worker process.

        Raises ``OSError`` when the machine has no room for it, and ``ModelLoadFailed`` where the environment that the model
        brings cannot run one.
        """
        async with self._loading:
            template = await self._choose_template()
        return self._local.start(template, self._facts)

    @property
    def pid(self) -> int:
        """The pid of the template with the model in it; 0 without one."""
        return self._model.pid if self._model is not None and not self._model.dead else 0

    def recheck_fork_safety(self) -> None:
        """Decide anew whether a template may load the model, since its files have changed."""
        self._fork_unsafe_reason = self._find_fork_unsafe_reason()

    def _find_fork_unsafe_reason(self) -> str:
        """The reason why workers load the model themselves, as far as it is known before loading; empty for none."""
        if sys.platform != "linux":
            return "only Linux shows whether loading started threads"
        return fork_unsafe_reason(self._spec, self._threads)

    async def try_joining(self) -> Joining:
        """Try whether requests for the model may share its calls. Raises ``OSError`` without room for the process."""
        async with self._loading:
            template = await self._choose_template()
        load = Load(self._spec, LoadContext(threads=self._threads))
        return await self._local.try_joining(template, load, {**self._facts, "trial": "joining"})

    async def complete_config(self) -> str:
        """Return what the model's code completes of its configuration, as JSON text.

        Raises ``ModelLoadFailed``, and ``OSError`` without room for the process.
        """
        async with self._loading:
            template = await self._choose_template()
        load = Load(self._spec, LoadContext(threads=self._threads, debug=shows_debug()))
        return await self._local.complete_config(template, load, self._facts)

    def close(self) -> None:
        """Dismiss the template: it ends when its last worker has."""
        model, self._model = self._model, None
        if model is not None:
            model.dismiss()

    async def _choose_template(self) -> Template:
        if self._model is not None and not self._model.dead:
            return self._model
        libraries = await self._load_libraries()
        if self._fork_unsafe_reason or libraries.dead:
            return libraries
        model = await self._load_once(libraries)
        if model is None and libraries.dead:  # frozen or killed: the model is not to blame
            self._fork_unsafe_reason = self._find_fork_unsafe_reason()
            libraries = await self._load_libraries()
        return model or libraries

    async def _load_libraries(self) -> LibraryTemplate:
        """The template with the model's libraries; a second one if the first is given up while it imports."""
        env = await self._local.prepare_environment(self._spec)
        libraries = self._local.template(preload(self._spec), env)
        await libraries.ready()
        if libraries.dead:
            libraries = self._local.template(preload(self._spec), env)
            await libraries.ready()
        return libraries

    async def _load_once(self, libraries: LibraryTemplate) -> ModelTemplate | None:
        """A template that has loaded the model; None where the workers must load it themselves."""
        begin = time.monotonic()
        model = self._model = libraries.fork_model(
            Load(self._spec, LoadContext(debug=shows_debug())), self._facts
        )
        try:
            await asyncio.wait_for(model.ready(), self._spec.timeouts.startup_timeout)
        except TimeoutError:
            model.refusal = f"loading took longer than {self._spec.timeouts.startup_timeout:g} s"
            model.kill()
        if not model.refusal:
            log.debug("model loaded before the fork", **self._facts, seconds=time.monotonic() - begin)
            return model
        self._model, self._fork_unsafe_reason = None, model.refusal
        # What no process can load is reported by the workers.
        tell = log.debug if model.refusal.startswith(LOADING_FAILED) else log.info
        tell("workers load the model themselves", **self._facts, reason=model.refusal)
        return None
