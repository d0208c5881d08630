"""The states of a version, and the only moves between them.

    UNLOADED ──▶ LOADING ──▶ READY ──▶ UNLOADING ──▶ UNLOADED
                 │  ▲  ▲       │            ▲
                 │  │  └───────┤ (its last worker died)
                 ▼  │          ▼            │
                FAILED ◀── (crash loop)     │
                    └───────────────────────┘

``Lifecycle.move_to`` makes every change of a version's state; no other code assigns one.
"""

import enum
from collections.abc import Callable


class State(enum.Enum):
    """The state of a version. Only a READY one answers; requests to a LOADING one wait in its queue."""

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
    """A move that the table does not have: a bug."""


class Lifecycle:
    """The state of one version. ``on_change`` is called with the new state after every move."""

    def __init__(self, on_change: Callable[[State], None]) -> None:
        self._state = State.UNLOADED
        self._on_change = on_change

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    def move_to(self, state: State) -> None:
        """Change the state; to the same one nothing happens. Raises ``IllegalMove`` for what is not in the table."""
        if state is self._state:
            return
        if state not in MOVES[self._state]:
            raise IllegalMove(f"{self._state.name} cannot become {state.name}")
        self._state = state
        self._on_change(state)
