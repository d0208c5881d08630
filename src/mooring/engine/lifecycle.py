"""The states of a version, and the only moves between them.

    UNLOADED ──▶ LOADING ──▶ READY ──▶ UNLOADING ──▶ UNLOADED
                 │  ▲  ▲       │            ▲
                 │  │  └───────┤ (its last worker died)
                 ▼  │          ▼            │
                FAILED ◀── (crash loop)     │
                    └───────────────────────┘

Whatever changes a model's state does it here, by name; no other module assigns one.
"""

import enum
from collections.abc import Callable


class State(enum.Enum):
    """Where a version stands. Only a READY one answers; requests to a LOADING one wait in its queue."""

    UNLOADED = "UNLOADED"
    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"
    UNLOADING = "UNLOADING"


MOVES: dict[State, frozenset[State]] = {
    State.UNLOADED: frozenset({State.LOADING}),
    State.LOADING: frozenset({State.READY, State.FAILED, State.UNLOADING}),
    State.READY: frozenset({State.LOADING, State.FAILED, State.UNLOADING}),
    State.FAILED: frozenset({State.LOADING, State.READY, State.UNLOADING}),
    State.UNLOADING: frozenset({State.UNLOADED}),
}


class IllegalMove(Exception):
    """A state was to follow that cannot: a bug of the server."""


class Lifecycle:
    """The state of one version. ``changed`` is called after every move."""

    def __init__(self, changed: Callable[[State], None]) -> None:
        self._state = State.UNLOADED
        self._changed = changed

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    def move(self, state: State) -> None:
        """Go there. To stay is no move; raises ``IllegalMove`` for one that is not in the table."""
        if state is self._state:
            return
        if state not in MOVES[self._state]:
            raise IllegalMove(f"{self._state.name} cannot become {state.name}")
        self._state = state
        self._changed(state)
