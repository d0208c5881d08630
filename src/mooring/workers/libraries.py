"""Which processes import libraries for the workers: at a glance at first, and as the models that were found need it."""

import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from mooring.config.settings import Config
from mooring.repository.preloads import likely
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

    def begin(self, modules: tuple[str, ...]) -> None:
        """Have these imported from now on: somebody is going to take the process."""
        if modules not in self._begun:
            self._begun[modules] = self._new(modules)

    def begin_only(self, wanted: AbstractSet[tuple[str, ...]]) -> None:
        """Have these imported, and no others that were begun."""
        for modules in self._begun.keys() - wanted:
            self._begun.pop(modules).end()
        for modules in _slowest_first(wanted):
            self.begin(modules)
        self._end_first()

    def take(self, modules: tuple[str, ...]) -> LibraryProcess:
        """One that is begun, or a new one. It is the caller's to end."""
        return self._begun.pop(modules, None) or self._new(modules)

    def close(self) -> None:
        """End those that nobody took."""
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


def begun(config: Config, first: LibraryProcess | None = None) -> Libraries:
    """Those of a server with these settings; what its models seem to need at a glance is being imported."""
    libraries = Libraries(
        worker_environment(os.environ, hidden=config.blacklist_env_vars, gpus=config.number_of_gpu), first
    )
    for modules in _slowest_first(likely(config)):
        libraries.begin(modules)
    return libraries


def _slowest_first(wanted: AbstractSet[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Those with torch before the others: the process that was begun first is for them."""
    return sorted(wanted, key=lambda modules: ("torch" not in modules, modules))
