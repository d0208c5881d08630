"""Which models of a repository have changed on disk, as they change."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import watchfiles

# A model is many files: its folder is looked at once it has been quiet for this long, in milliseconds.
_QUIET = 200
_POLL = 300


async def changed_models(
    repository: Path, ended: asyncio.Event, *, polling: bool = False
) -> AsyncIterator[set[str]]:
    """Yield the names of model folders that changed, until ``ended`` is set. ``repository`` is a resolved path.

    With ``polling`` the folders are looked at again and again, for network file systems that send no events.
    """
    async for changes in watchfiles.awatch(
        repository,
        stop_event=ended,
        force_polling=polling,
        step=_QUIET,
        poll_delay_ms=_POLL,
        debounce=10 * _QUIET,
    ):
        places = [Path(path) for _, path in changes]
        names = {
            place.relative_to(repository).parts[0]
            for place in places
            if place != repository and place.is_relative_to(repository)
        }
        if names:
            yield names
