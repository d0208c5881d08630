"""How much memory requests may take where the settings do not say it: less where the server may use little of it.

Runs in the first process, before there is a server. The kernel ends what takes more memory than a container may have, with
all that it was doing; a request that finds no room is refused, and the others are answered.
"""

import msgspec

from mooring.config.settings import Config
from mooring.config.sources.origins import DEFAULT, Origins

ARENA, BODIES = "arena_size", "max_body_memory"
# The parts of all memory: shared memory for large bodies, and bodies beyond it.
_PARTS = {ARENA: 8, BODIES: 4}
_LEAST = 65_536


def fit_to_memory(config: Config, memory: int, origins: Origins, warnings: list[str]) -> Config:
    """Return the settings with defaults that fit into so many bytes of ``memory``; what the user has set stays.

    Every process that takes connections has its own of both, so they divide these parts. Adds a warning where what the
    user has set does not fit.
    """
    fitting = {name: _fit(name, config, memory) for name in _PARTS if origins.of(name) == DEFAULT}
    lower = {name: value for name, value in fitting.items() if value < getattr(config, name)}
    for name in lower:
        origins.note(name, f"default for {memory} bytes of memory")
    fitted = msgspec.structs.replace(config, **lower)
    most = (fitted.arena_size + fitted.max_body_memory) * fitted.frontends
    if most > memory:
        warnings.append(
            f"requests may take {most} bytes of memory, and this server may use {memory}: lower {ARENA}, {BODIES} or frontends,"
            " or the kernel may end it"
        )
    return fitted


def _fit(name: str, config: Config, memory: int) -> int:
    part = max(memory // _PARTS[name] // config.frontends, _LEAST)
    # The arena is rounded up to a power of two.
    return 1 << (part.bit_length() - 1) if name == ARENA else part
