"""Starting the processes that import libraries: nothing else is needed for it, so that they can begin before the server does."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from mooring.backends.preloads import likely
from mooring.config import Config
from mooring.workers.environment import worker_environment

_ENVIRONMENT = {
    # numpy starts its threads at import, and a pool in every worker would fight over the cores.
    "OPENBLAS_NUM_THREADS": "1",
    # glibc maps and unmaps every large copy anew, and the kernel clears its pages each time. Kept instead, an echo of
    # 602 KB takes 139 us of CPU, not 396, for 2 MB more memory a worker (make bench, identity).
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "67108864",
}


class LibraryProcess:
    """A process of template.py that imports these modules. ``control`` is the server's end of its control socket."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self.control, theirs = socket.socketpair()
        command = [sys.executable, "-m", "mooring.workers.template", str(theirs.fileno()), str(os.getpid())]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module under our own interpreter
                [*command, *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**_ENVIRONMENT, **environment},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """End it now, with all that it has forked."""
        self.control.close()
        self._process.kill()
        self._process.wait()


class Libraries:
    """The processes that workers are forked from, by what they import. All see the variables in ``environment``."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._begun: dict[tuple[str, ...], LibraryProcess] = {}

    def begin(self, modules: tuple[str, ...]) -> None:
        """Have these imported from now on: somebody is going to take the process."""
        if modules not in self._begun:
            self._begun[modules] = LibraryProcess(modules, self._environment)

    def begin_only(self, wanted: AbstractSet[tuple[str, ...]]) -> None:
        """Have these imported, and no others that were begun."""
        for modules in self._begun.keys() - wanted:
            self._begun.pop(modules).end()
        for modules in wanted:
            self.begin(modules)

    def take(self, modules: tuple[str, ...]) -> LibraryProcess:
        """One that is begun, or a new one. It is the caller's to end."""
        return self._begun.pop(modules, None) or LibraryProcess(modules, self._environment)

    def close(self) -> None:
        """End those that nobody took."""
        while self._begun:
            self._begun.popitem()[1].end()


def begun(config: Config) -> Libraries:
    """Those of a server with these settings; what its models seem to need at a glance is being imported."""
    libraries = Libraries(
        worker_environment(os.environ, hidden=config.blacklist_env_vars, gpus=config.number_of_gpu)
    )
    for modules in likely(config):
        libraries.begin(modules)
    return libraries
