"""What a start does before the server itself is even imported: find the models, and have their libraries imported.

Those take longer than everything else together, torch 0.7 s of CPU (docs/decisions/0021-models-loaded-once.md).
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack

from mooring.config.model_options import model_options
from mooring.config.settings import Config
from mooring.config.sources.origins import Origins
from mooring.hardware import CPU, count_cores, find_devices
from mooring.observability.recent import RecentRecords
from mooring.repository.fetch import Fetcher
from mooring.repository.preloads import preload
from mooring.repository.server_folder import server_folder
from mooring.repository.spec import Defaults
from mooring.repository.store import StartupModels, Store
from mooring.server.reservation import Reservation
from mooring.workers.libraries import Libraries, start_libraries

# Of a model that nobody gives a number of workers.
_MOST_WORKERS = 4


class Startup:
    """The store of a server, in a ``folder`` of its own, and the libraries of its workers. ``stack`` closes both.

    ``reservation`` holds the addresses that were bound before; without it they are bound when they are listened on.
    ``recent`` has what has been logged, ``origins`` where each setting was set.
    """

    def __init__(
        self,
        config: Config,
        stack: ExitStack | AsyncExitStack,
        libraries: Libraries | None = None,
        reservation: Reservation | None = None,
        recent: RecentRecords | None = None,
        origins: Origins | None = None,
    ) -> None:
        self._config = config
        self.origins = origins or Origins()
        self.recent = recent or RecentRecords()
        self.reservation = reservation or Reservation(config)
        stack.callback(self.reservation.close)
        self.libraries = libraries or start_libraries(config)
        stack.callback(self.libraries.close)
        self.folder = stack.enter_context(server_folder(config.temporary_folder))
        self.defaults = _defaults(config)
        archives = self.folder / "archives"
        archives.mkdir(mode=0o700)
        self.store = Store(archives, self.defaults, fetcher=Fetcher(config.allowed_urls))
        self._found: StartupModels | None = None

    def find(self) -> StartupModels:
        """The models that the settings ask for, found at the first call. Raises ``MooringError``, as ``Store.find``."""
        if self._found is None:
            self._found = self.store.find(self._config)
            self.libraries.start_only({preload(spec) for spec in self._found.specs})
        return self._found


def workers_for(machine: Mapping[str, int]) -> int:
    """How many workers a model gets that is loaded once for all of them; ``machine`` is ``hardware.find_devices()``.

    One for each core up to four, and they divide the cores among them: several calls of one thread do more than one of
    several threads, which wait for each other as soon as anybody else wants a core (decision 30). Accelerators' memory
    is not shared.
    """
    return min(machine[CPU], _MOST_WORKERS) if machine.keys() == {CPU} else 1


def _defaults(config: Config) -> Defaults:
    machine = {CPU: count_cores()} if config.device == "cpu" else find_devices()
    return Defaults(
        options=model_options(config),
        sharing_workers=0 if config.default_workers_per_model else workers_for(machine),
        handler=config.default_service_handler,
        install_requirements=config.install_py_dep_per_model,
        settings=config.model_settings,
    )
