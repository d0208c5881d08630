"""The processes that import libraries for workers: by the names of files at first, then as the models need it."""

import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from mooring.config.settings import Config
from mooring.repository.preloads import guess_modules
from mooring.workers.environment import worker_environment
from mooring.workers.library_process import LibraryProcess


class Libraries:
    """The processes that workers are forked from, by what they import. All see the variables in ``environment``.

    ``first`` was begun before anything was known, and is of use where it sees the same ones.
    """

    def __init__(self, environment: Mapping[str, str], first: LibraryProcess | None = None) -> None:
        self._environment = environment
        self._begun: dict[tuple[str, ...], LibraryProcess] = {}
        self._first = first
        if first is not None and first.environment != dict(environment):
            self._end_first()

    def start_import(self, modules: tuple[str, ...]) -> None:
        """Start a process that imports these modules, unless there is one; ``take_process`` gives it out."""
        if modules not in self._begun:
            self._begun[modules] = self._new(modules)

    def start_only(self, wanted: AbstractSet[tuple[str, ...]]) -> None:
        """Start processes for these sets of modules, and end the others that were started."""
        for modules in self._begun.keys() - wanted:
            self._begun.pop(modules).end()
        for modules in _slowest_first(wanted):
            self.start_import(modules)
        self._end_first()

    def take_process(self, modules: tuple[str, ...]) -> LibraryProcess:
        """The process that imports these modules, or a new one. The caller ends it."""
        return self._begun.pop(modules, None) or self._new(modules)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that all see."""
        return self._environment

    def close(self) -> None:
        """End the processes that were not taken."""
        self._end_first()
        while self._begun:
            self._begun.popitem()[1].end()

    def _new(self, modules: tuple[str, ...]) -> LibraryProcess:
        process, self._first = self._first or LibraryProcess(self._environment), None
        process.load(modules)
        return process

    def _end_first(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            first.end()


def start_libraries(config: Config, first: LibraryProcess | None = None) -> Libraries:
    """The library processes of a server with these settings; those that file names suggest are started."""
    environment = worker_environment(
        os.environ, hidden=config.blacklist_env_vars, gpus=config.number_of_gpu, device=config.device
    )
    libraries = Libraries(environment, first)
    for modules in _slowest_first(guess_modules(config)):
        libraries.start_import(modules)
    return libraries


def _slowest_first(wanted: AbstractSet[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Sets of modules with torch first: they get the process that was started first."""
    return sorted(wanted, key=lambda modules: ("torch" not in modules, modules))
