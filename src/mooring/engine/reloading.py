"""Loads the models of the command line anew when their files change: what ``mooring serve --reload`` does.

The version that serves goes on until the new one is ready, so no request fails. If the new code cannot be loaded, the
old one stays, and the log says why.
"""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import watchfiles

from mooring.core.errors import MooringError
from mooring.engine.administration import Administration
from mooring.observability.logs import get_logger
from mooring.repository.source_files import Look, SourceFiles, is_source

log = get_logger(__name__)

# Milliseconds without another change: several quick saves, and the files of one, are one reload.
_QUIET = 100
_MOST_QUIET = 2000
# Milliseconds after which the files are looked at whether or not the system has told of a change.
_EVERY = 1000
_TRACED = re.compile(r'File "([^"]+)", line (\d+)')
_MOST_NAMES = 3


class TargetReloader:
    """Follows the files of models, by their names, and loads each model anew that they are a part of.

    How this works: the system wakes it (``watchfiles``), and what the files look like then, compared with the last time,
    says which have changed. So nothing is lost while a model loads, and a touched cache is no change. A load whose files change
    meanwhile is given up for a new one: it may never end.
    """

    def __init__(
        self, administration: Administration, sources: Mapping[str, SourceFiles], *, polling: bool = False
    ) -> None:
        self._administration = administration
        self._sources = sources
        self._polling = polling
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._looks = _look_at(sources)

    def start(self) -> None:
        """Watch from now on."""
        self._task = asyncio.get_running_loop().create_task(self._watch_files())

    async def close(self) -> None:
        """Return when nothing is being loaded any more. What is not loaded yet is given up."""
        self._ended.set()
        if self._task is not None:
            await self._task
        for load in self._loads.values():
            load.cancel()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)

    async def _watch_files(self) -> None:
        told = ""
        folders = await asyncio.to_thread(_folders, self._looks)
        while not self._ended.is_set():
            try:
                folders = await self._watch_folders(folders)
            except (OSError, RuntimeError) as error:
                # A folder has just gone, or the system has no more watches.
                if not isinstance(error, FileNotFoundError) and str(error) != told:
                    told = str(error)
                    log.warning(
                        "files are looked at once a second", reason=f"the system does not watch them: {told}"
                    )
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), _EVERY / 1000)
                folders = await self._reload_changed()

    async def _watch_folders(self, folders: Sequence[Path]) -> list[Path]:
        """Watch until there are other folders to watch, which are returned, or until the end."""
        async for _ in watchfiles.awatch(
            *folders,
            watch_filter=lambda _change, path: is_source(Path(path).name),
            stop_event=self._ended,
            force_polling=self._polling,
            step=_QUIET,
            debounce=_MOST_QUIET,
            rust_timeout=_EVERY,
            yield_on_timeout=True,
            recursive=False,
        ):
            found = await self._reload_changed()
            if found != folders:
                return found
        return list(folders)

    async def _reload_changed(self) -> list[Path]:
        """Load anew what has changed since the last look; return the folders to watch."""
        looks, changes, folders = await asyncio.to_thread(_find_changes, self._sources, self._looks)
        self._looks = looks
        for name, changed in changes.items():
            if changed:
                if name in self._loads:
                    self._loads[name].cancel()
                self._loads[name] = asyncio.get_running_loop().create_task(self._reload(name, changed))
        return folders

    async def _reload(self, name: str, changed: Sequence[Path]) -> None:
        log.info("reloading", model=name, changed=_names_of(changed))
        begun = time.monotonic()
        try:
            await self._administration.reload_target(name)
        except MooringError as error:
            reason = with_place(error.message, error.detail, self._sources[name])
            log.error("not reloaded", model=name, reason=reason, serving="as before")  # noqa: TRY400 - the reason says it all
        except Exception:  # the supervisor: one model must not end the watch over all others
            log.exception("reloading failed", model=name)
        else:
            log.info("reloaded", model=name, seconds=round(time.monotonic() - begun, 3))


def with_place(reason: str, trace: str, source: SourceFiles) -> str:
    """Begin the reason with the last file and line of the model's own code in a traceback, unless it names one."""
    folder = source.place if source.whole else source.root or source.place.parent
    own = [(path, line) for path, line in _TRACED.findall(trace) if Path(path).is_relative_to(folder)]
    if not own or f", line {own[-1][1]}" in reason:
        return reason
    path, line = own[-1]
    return f"{path}, line {line}: {reason}"


def _look_at(sources: Mapping[str, SourceFiles]) -> dict[str, Look]:
    return {name: source.look() for name, source in sources.items()}


def _find_changes(
    sources: Mapping[str, SourceFiles], before: Mapping[str, Look]
) -> tuple[dict[str, Look], dict[str, list[Path]], list[Path]]:
    """Look at the files; return the looks, what has changed since ``before``, and the folders to watch."""
    looks = _look_at(sources)
    changes = {name: look.changed_since(before[name]) for name, look in looks.items()}
    return looks, changes, _folders(looks)


def _folders(looks: Mapping[str, Look]) -> list[Path]:
    """Return the folders to watch; one that is gone is named by the nearest that is there."""
    folders: set[Path] = set()
    for look in looks.values():
        for folder in look.folders:
            folders.add(next(each for each in (folder, *folder.parents) if each.is_dir()))
    return sorted(folders)


def _names_of(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths[:_MOST_NAMES]]
    rest = len(paths) - len(names)
    return ", ".join(names) + (f" and {rest} more" if rest else "")
