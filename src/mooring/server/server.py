"""The composition root: builds every part from ``Config``, starts, drains, stops. The only place that knows them all."""

import asyncio
import gc
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import uvloop

from mooring import __version__
from mooring.config.settings import SETTINGS, Config, ConfigError, is_secret
from mooring.config.sources.torchserve import to_properties
from mooring.console.actions import rules_of
from mooring.console.endpoints import ConsoleEndpoints
from mooring.console.live_state import LiveState, ServerFacts, addresses_of
from mooring.console.settings_in_force import list_settings
from mooring.core.errors import ModelNotFound
from mooring.core.example_requests import ExampleRequest, example_request
from mooring.core.memory import BodyMemory
from mooring.core.service import ModelAdministration, ModelState
from mooring.descriptors import highest_limit, raise_limit
from mooring.engine.administration import Administration
from mooring.engine.control import ServerControl
from mooring.engine.engine import Engine, codecs_for
from mooring.engine.graphs.workflows import Workflows
from mooring.engine.model_calls import ModelCallServer
from mooring.engine.monitoring import RepositoryMonitor
from mooring.engine.registry import Unavailable
from mooring.engine.reloading import TargetReloader
from mooring.engine.scale_to_zero import machine_budget, processes_kept
from mooring.engine.snapshots import Snapshots
from mooring.frontends.supervisor import FrontendSupervisor
from mooring.hardware import count_pool_threads
from mooring.ipc.arena import Arena
from mooring.mount.listeners import Listeners
from mooring.mount.observed_service import observe_service
from mooring.mount.routes import (
    Administrative,
    Services,
)
from mooring.observability.log_output.line_writer import LineWriter, is_written
from mooring.observability.logs import ACCESS_LOG, get_logger
from mooring.observability.loop_lag import LoopLag
from mooring.observability.metrics import Metrics
from mooring.observability.metrics_file import read_metrics_file
from mooring.protocols.amd.metrics import AmdMetrics
from mooring.protocols.dialect import dialect_for
from mooring.protocols.kserve.settings import LogSettings, TraceSettings
from mooring.protocols.kserve.triton_metrics import TritonMetrics
from mooring.repository.catalog import Catalog, worker_extensions
from mooring.repository.snapshot import Kind
from mooring.repository.source_files import source_files
from mooring.repository.spec import ModelSpec
from mooring.repository.workflows import WorkflowCatalog
from mooring.server.addresses import Addresses
from mooring.server.examples import example_of
from mooring.server.node_server import NodeServer
from mooring.server.start_failure import check_all_loaded, start_failure
from mooring.server.start_progress import ModelProgress, ProgressView, find_progress
from mooring.server.startup import Startup
from mooring.signals import STOP, asking_to_stop, stop_was_asked
from mooring.tokens import Access, tokens_of
from mooring.web.certificates import RENEWAL, certificates_of
from mooring.workers.capacity import descriptors_needed
from mooring.workers.heartbeat import Deadlines

log = get_logger(__name__)

# Seconds between two looks at the files of tokens, where frontend processes must be told.
_TOKENS_EVERY = 1.0
# Seconds between two looks at how far the models of a start are.
_PROGRESS_EVERY = 0.1
# Seconds after a stop signal in which another one is the same one, sent in another way.
_ECHO = 0.5
_NO_CALL = "no call, since only this machine reaches the addresses"

Started = Callable[[Config, Sequence[ModelState], ExampleRequest | None], None]


def _show_nothing(_listening: Config, _models: Sequence[ModelState], _example: ExampleRequest | None) -> None:
    """Show nothing when the server is up."""


def run(
    config: Config, startup: Startup, *, started: Started = _show_nothing, view: ProgressView | None = None
) -> int:
    """Serve what ``startup`` has found until a signal ends it; the exit status.

    ``started`` is called once, when every model asked for is loaded or has failed to, with the settings as they came
    to be, with the ports that were found where they say 0, and with a request to try. The ``view`` shows how far the models
    are until then. Raises ``MooringError`` for a model that cannot be found,
    opened or, where the start depends on it, loaded, and ``OSError`` for an address that cannot be had; nothing runs on then.
    """
    raise_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_serve(config, startup, started, view))
        finally:
            # The loop lets go of its handlers when it closes, and there is a folder still to be removed.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP)


async def _serve(config: Config, startup: Startup, started: Started, view: ProgressView | None) -> int:
    # First of all: whoever finds an address open may want the server to stop.
    ended = _end_signals()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(count_pool_threads()))
    async with AsyncExitStack() as stack:
        server = Server(config, stack, startup)
        async with _shown(server, view):
            await server.start()
            loaded = await _run_until(ended, server.load())
        if loaded:
            _settle()
            started(server.addresses.listening, server.list_models(), server.example_request())
            await ended.wait()
        ended.clear()
        log.info("stopping", drain_seconds=config.drain_timeout, serving_on_for_seconds=config.pre_stop_delay)
        server.snapshot("shutdown")
        if not await _run_until(ended, server.leave(config.pre_stop_delay, config.drain_timeout)):
            log.warning("stopping at once", reason="a second signal came")
    log.info("stopped")
    return 0


@asynccontextmanager
async def _shown(server: "Server", view: ProgressView | None) -> AsyncIterator[None]:
    """Show how far the models are for as long as they are being loaded."""
    if view is None:
        yield
        return
    showing = asyncio.ensure_future(_every(lambda: view.show(server.list_progress()), _PROGRESS_EVERY))
    try:
        yield
    finally:
        showing.cancel()
        view.finish(server.list_progress())


def _end_signals() -> asyncio.Event:
    """Set by every signal that asks the server to stop, but for those that only say again what one has just said.

    ``timeout`` signals its child and then the group, systemd sends SIGHUP after SIGTERM, a shell and the kernel both
    tell that the terminal is gone: none of them means that nothing should be waited for.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    last = -math.inf

    def end() -> None:
        nonlocal last
        now = loop.time()
        if now - last > _ECHO:
            last = now
            ended.set()

    for number in asking_to_stop():
        loop.add_signal_handler(number, end)
    if stop_was_asked():
        ended.set()
    return ended


async def _run_until(ended: asyncio.Event, work: Coroutine[None, None, None]) -> bool:
    """Do this to its end, and then True; or leave it when ``ended`` is set first, and then False."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(ended.wait())
    await asyncio.wait([doing, waiting], return_when=asyncio.FIRST_COMPLETED)
    finished = doing.done()
    waiting.cancel()
    doing.cancel()
    if finished:
        doing.result()
    return finished


def _settle() -> None:
    """What is there after the start stays: the collector need not look at it again."""
    gc.collect()
    gc.freeze()


class Server:
    """The parts of one running server. ``stack`` closes them in reverse order.

    ``startup`` is what was begun before it was built; without one it begins itself.
    """

    def __init__(self, config: Config, stack: AsyncExitStack, startup: Startup | None = None) -> None:
        self._startup = startup = startup or Startup(config, stack)
        self._config = config
        self._arena = Arena(config.arena_size, memory=BodyMemory(config.max_body_memory))
        self._line_writer = LineWriter()
        stack.callback(self._line_writer.close)
        self._metrics = Metrics(
            config.metrics_mode,
            system=not config.disable_system_metrics,
            writer=self._line_writer,
            access_log=config.access_log and is_written(ACCESS_LOG),
        )
        stack.callback(LoopLag(self._metrics.lag).stop)
        self._budget = machine_budget(config.scale_to_zero_processes, config.scale_to_zero_memory)
        deadlines = Deadlines(config.heartbeat_timeout, config.default_startup_timeout)
        self._frontends = FrontendSupervisor(
            config.frontends - 1, self._arena, self._metrics, deadlines, startup.recent
        )
        self._metrics.server.read_memory(lambda: self._arena.memory_use().plus(self._frontends.memory_use()))
        self.engine = Engine(
            self._arena,
            self._metrics,
            drain_limit=config.unregister_model_timeout,
            libraries=startup.libraries,
            first_worker=config.initial_worker_port,
            frontends=self._frontends,
            budget=self._budget,
            most_workers=config.max_worker_processes,
            codecs=codecs_for() if config.codec_processes is None else config.codec_processes,
            cache_folder=_cache_folder(config),
            strict_readiness=config.strict_readiness,
            deadlines=deadlines,
            cache_size=config.response_cache_size // config.frontends,
            private_folder=str(startup.folder),
        )
        self.engine.readiness.listening = False
        self._stack = stack
        stack.push_async_callback(self.engine.close)
        folder, defaults, self._store = startup.folder, startup.defaults, startup.store
        self._catalog = Catalog(self._store, config, _make_private_dir(folder / "files"), defaults)
        self._snapshots = self._snapshots_in(config.snapshot_folder)
        self._administration = Administration(
            self.engine,
            self._catalog,
            self._metrics,
            on_change=self._changed,
            loading=config.enable_repository_api,
        )
        self._workflows = Workflows(self.engine, WorkflowCatalog(self._store, config, defaults))
        self.node = self._build_node(config.cluster_socket)
        # What clients and the code of models change and ask: of a node, the cluster's models.
        self._models: ModelAdministration = (
            self._administration if self.node is None else self.node.administration
        )
        self._model_calls = ModelCallServer(self.engine, self._models)
        self._tokens = tokens_of(config, self._frontends.set_tokens)
        self._certificates = certificates_of(config)
        if config.dialect == "amd":
            AmdMetrics(self._metrics, self.engine.waiting_requests)
        if config.dialect == "triton":
            TritonMetrics(self._metrics, self.engine.waiting_by_version)
        self.addresses = self._build_addresses(folder / "relay")
        self._loading: list[asyncio.Future[None]] = []
        self._loaded = False

    def _build_addresses(self, relay_socket: Path) -> Addresses:
        config = self._config
        http = Listeners(config, self._metrics, self._arena, self._tokens, self._certificates)
        control = ServerControl()
        console = self._build_console(http, control) if config.console else None
        administrative = Administrative(
            models=self._models,
            server=control,
            workflows=self._workflows,
            metrics=self._metrics,
            log_settings=LogSettings(control, str(config.log_file or "")),
            trace_settings=TraceSettings(),
            worker_extensions=worker_extensions(),
            tokens=self._tokens,
            console=console,
        )
        services = Services(
            inference=observe_service(self.engine.entry, self._metrics.calls),
            responses=http.responses,
            cors=http.cors,
            dialect=dialect_for(config),
            administrative=administrative,
            ping_format=config.ping_format,
            console=http.console,
        )
        return Addresses(
            config,
            self._stack,
            self.engine,
            services,
            administrative,
            http,
            self._frontends,
            self._arena,
            relay_socket,
            self._startup.reservation,
        )

    def _build_node(self, socket: Path | None) -> NodeServer | None:
        if socket is None:
            return None
        return NodeServer(
            socket,
            self._stack,
            self.engine,
            self._arena,
            self._metrics,
            config=self._config,
            local=self._administration,
            catalog=self._catalog,
            find_address=lambda: str(self.addresses.listening.inference_address),
        )

    def _build_console(self, http: Listeners, control: ServerControl) -> ConsoleEndpoints:
        facts = ServerFacts(
            version=__version__, started=round(time.time(), 3), frontends=self._config.frontends
        )
        state = LiveState(
            self.engine.entry,
            self._models,
            self._workflows,
            control,
            self._metrics,
            facts,
            lambda: addresses_of(self.addresses.listening),
        )
        return ConsoleEndpoints(
            http.responses,
            self.engine.entry,
            self._models,
            state,
            self._startup.recent,
            secrets=self._list_secrets,
            settings=lambda: list_settings(self.addresses.listening, self._startup.origins.of),
            find_example=self._find_example,
            rules=rules_of(self._config),
        )

    def _find_example(self, name: str, version: str) -> ExampleRequest:
        """Find a request for a version of this server or, by what it says of itself, of another node."""
        try:
            return example_of(self.engine.registry.find_version(name, version))
        except ModelNotFound:
            return example_request(self.engine.entry.metadata(name, version))

    def _list_secrets(self) -> list[str]:
        """List the texts that no page may show."""
        config = self._config
        fixed = [str(getattr(config, name).text) for name in SETTINGS if is_secret(name)]
        tokens = self._tokens.tokens.values() if self._tokens is not None else ()
        return [*fixed, *(token.key.decode("latin-1") for token in tokens)]

    async def start(self) -> None:
        """Find the models if nobody has, begin to load them and listen. Raises ``MooringError`` or ``OSError``."""
        _check_metrics_file(self._config.metrics_config)
        found = self._startup.find()
        specs = found.specs
        self._catalog.remember_targets(specs)
        for each in found.skipped:
            why = Unavailable(each.url, each.reason, expected=each.expected)
            self.engine.registry.note_missing(each.name, each.version, why)
        for spec in specs:
            self.engine.expect_model(spec)
        self._warn_of_descriptors(specs)
        try:
            self._model_calls.listen(self._startup.folder / "calls")
        except OSError as error:  # such as a path that is too long: most models call no other
            log.warning("models cannot call each other", folder=self._startup.folder, reason=error)
        self._stack.callback(self._model_calls.close)
        # An ensemble looks for its models at once.
        in_order = sorted(specs, key=lambda spec: spec.ensemble is not None)
        going_on = self._config.keep_going or self._config.reload  # the user is about to mend it
        named = set() if going_on else found.named
        self._loading = [
            asyncio.ensure_future(self._deploy(spec, named=(spec.name, spec.version) in named))
            for spec in in_order
        ]
        if found.workflows:
            registering = self._workflows.register_at_start(
                found.workflows, required=self._config.require_models
            )
            self._loading.append(asyncio.ensure_future(registering))
        await asyncio.sleep(0)  # from here on a request for one of them waits for it, and is not told 404
        # Whoever finds the server ready, at whichever address, may ask all others at once, read the key file, and
        # signal it. So nothing is ready before everything is there, and the inference address, which is the first
        # that clients come to, opens last: whatever crowd comes takes no descriptor that the start still needs.
        inference = await self.addresses.listen()
        self._write_metrics()
        self._follow_files(specs)
        if self.node is not None:
            self.node.listen()
        await self.addresses.listen_at(inference)
        # Only a server that has all its addresses writes the key file: it may be that of one that runs already.
        self._log_access_policy()
        self.engine.readiness.listening = True

    async def _deploy(self, spec: ModelSpec, *, named: bool) -> None:
        """Load a model of the start. Raises ``ModelLoadFailed`` for one that a target has ``named``."""
        version = await self.engine.deploy_version(spec, at_startup=True, ends_start=named)
        if named and version.error is not None and not version.ever_loaded:
            raise start_failure(version.spec.name, version.error, self.list_models())

    def _follow_files(self, specs: Sequence[ModelSpec]) -> None:
        """Notice when certificates, tokens and models change on the disk. ``specs`` are those of the start."""
        if self._tokens is not None and self._frontends.processes:  # which cannot notice it by themselves
            reading = asyncio.ensure_future(_every(self._tokens.read_changed, _TOKENS_EVERY))
            self._stack.callback(reading.cancel)
        if self._certificates is not None:
            renewing = asyncio.ensure_future(_every(self._certificates.renew, RENEWAL))
            self._stack.callback(renewing.cancel)
        if self._config.reload:
            self._follow_targets(specs)
        for repository in self._config.model_repository if self._config.repository_monitoring else ():
            monitor = RepositoryMonitor(
                self._administration,
                self._catalog,
                repository,
                polling=self._config.repository_polling,
            )
            monitor.start()
            self._stack.push_async_callback(monitor.close)

    def _follow_targets(self, specs: Sequence[ModelSpec]) -> None:
        """Load the models anew that the command line named, when their files change."""
        # Of one target the last: stages stand before their chain.
        named = {target: spec for spec in specs if (target := self._catalog.target_of(spec.name))}
        sources = {spec.name: files for spec in named.values() if (files := source_files(spec)) is not None}
        if not sources:
            log.warning("nothing to reload", reason="no model of the command line has files on this machine")
            return
        reloader = TargetReloader(self._administration, sources, polling=self._config.repository_polling)
        reloader.start()
        self._stack.push_async_callback(reloader.close)

    def _warn_of_descriptors(self, specs: Sequence[ModelSpec]) -> None:
        """Say at the start what would otherwise be seen when the last of many models do not load."""
        needed, limit = descriptors_needed(processes_kept(specs, self._budget)), highest_limit()
        if needed > limit:
            log.warning(
                "too few file descriptors for all models",
                needed=needed,
                limit=limit,
                remedy="raise the hard limit (ulimit -Hn, LimitNOFILE), or give models fewer workers",
            )

    async def load(self) -> None:
        """Return when every model asked for is loaded, or has failed to and says so in its state.

        Raises ``ModelLoadFailed`` for one that may not fail: at once where a target has named it, and with
        ``exit_on_error`` for any other when all have been tried.
        """
        await asyncio.gather(self._frontends.listening(), *self._loading)
        if self._config.exit_on_error:
            check_all_loaded(self.list_models())
        snapshot = self._config.model_snapshot
        for name, versions in (snapshot.models if snapshot else self._config.model_settings).items():
            for version, settings in versions.items():
                if settings.default_version:
                    with suppress(ModelNotFound):  # it was not asked for after all
                        self.engine.set_default(name, version)
        self._loaded = True
        self.snapshot("startup")

    def list_models(self) -> list[ModelState]:
        """List what could not be loaded, and then every model."""
        return [*self.engine.list_missing(), *self._workflows.missing, *self.engine.models()]

    def list_progress(self) -> list[ModelProgress]:
        """List how far the models are, those that could not be found first."""
        missing = [*self.engine.list_missing(), *self._workflows.missing]
        return find_progress(self.engine.registry, missing)

    def example_request(self) -> ExampleRequest | None:
        """Return a request for a model that is ready, one that can be sent as it is where there is one; None without models."""
        ready = [each for each in self.engine.registry if each.ready]
        examples = [example_of(each) for each in ready if not each.spec.function and not each.spec.chain]
        return min(examples, key=lambda example: not example.body, default=None)

    def snapshot(self, kind: Kind) -> None:
        """Write down what is served, if it is to be and was loaded at all."""
        if self._snapshots is not None and self._loaded:
            self._snapshots.write_snapshot(kind)

    def _changed(self) -> None:
        self.snapshot("snapshot")

    def _snapshots_in(self, folder: Path | None) -> Snapshots | None:
        if folder is None:
            return None
        config = self._config
        # The snapshot names the models itself.
        properties = {key: value for key, value in to_properties(config).items() if key != "load_models"}
        return Snapshots(
            self.engine.registry,
            folder,
            properties,
            lambda spec: self._store.archive_of(spec, config.model_store),
        )

    async def leave(self, delay: float, limit: float) -> None:
        """Say that the server is not ready, serve on for ``delay`` seconds, and then drain."""
        self.engine.readiness.stopping = True
        await asyncio.sleep(delay)
        await self.drain(limit)

    async def drain(self, limit: float) -> None:
        """Take nothing new, answer what was accepted; give up after ``limit`` seconds."""
        end = time.monotonic() + limit
        await self.addresses.drain(limit)
        if not await self.engine.drain(end - time.monotonic()):
            log.warning("requests given up", reason="they were not answered in time", limit_seconds=limit)

    def _write_metrics(self) -> None:
        """Write the metrics of the machine as lines, now and at intervals, where metrics are lines."""
        lines = self._metrics.log
        if lines is not None:
            lines.write_host()
            writing = asyncio.ensure_future(_every(lines.write_host, self._config.metric_time_interval))
            self._stack.callback(writing.cancel)

    def _log_access_policy(self) -> None:
        """Write the key file, and to the log: whether there are tokens and where, and what is not to be had for want of one."""
        config, tokens = self._config, self._tokens
        if tokens is not None:
            demanding = config.demanding_addresses
            managing_only = config.guards_management_alone
            tokens.publish(needed=bool(demanding) and not managing_only, kept=managing_only)
            self._stack.callback(tokens.withdraw)
            needed = [
                kind.value
                for kind in (Access.INFERENCE, Access.MANAGEMENT)
                if tokens.guards(kind) and (demanding or tokens.is_given(kind))
            ]
            if tokens.tokens:
                where = str(tokens.file) if tokens.file is not None else "fixed"
                log.info("tokens are on", needed_for=", ".join(needed) or _NO_CALL, keys=where)
        for address in config.inference_addresses:
            if config.enable_repository_api and not config.guarded(address):
                log.warning(
                    "models are not managed over this address",
                    address=str(address),
                    reason="other machines reach it, and no token guards it, nor a client's certificate",
                    remedy="set management_token_file, MOORING_MANAGEMENT_TOKEN or client_ca_file, or insecure = true",
                )


def _make_private_dir(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


async def _every(work: Callable[[], None], interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        work()


def _check_metrics_file(file: Path | None) -> None:
    """Raises ``ConfigError`` for a metrics.yaml that no handler could use."""
    try:
        for _ in read_metrics_file(file) if file is not None else ():
            pass
    except (OSError, ValueError) as error:
        raise ConfigError(f"metrics_config: {error}") from error


def _cache_folder(config: Config) -> str:
    """Where what was found out about models is kept; empty where the process has no home for it."""
    if config.cache_folder is not None:
        return str(config.cache_folder)
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "")
    if not home:
        return ""
    return str(Path(home, "mooring") if "XDG_CACHE_HOME" in os.environ else Path(home, ".cache", "mooring"))
