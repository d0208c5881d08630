"""Which node has which sequence: what this node remembers, bounded, beside the ranking that all nodes share. No clock.

Runs in the first process of a node server.
"""

from collections import OrderedDict
from typing import NamedTuple

# Sequences that are remembered.
_MOST = 100_000


class Sequence(NamedTuple):
    """A sequence of a version of a model."""

    model: str
    version: str
    id: str


class Home(NamedTuple):
    """The node that has a sequence. ``instance`` is which run of its server it was (0: not known yet)."""

    node: str
    instance: int = 0


class SequenceNodes:
    """The nodes of open sequences, and the sequences whose node is gone: of both the last ones."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._homes: OrderedDict[Sequence, Home] = OrderedDict()
        self._lost: OrderedDict[Sequence, None] = OrderedDict()

    def find(self, sequence: Sequence) -> Home | None:
        """The node that a sequence was begun on or found on."""
        home = self._homes.get(sequence)
        if home is not None:
            self._homes.move_to_end(sequence)
        return home

    def is_lost(self, sequence: Sequence) -> bool:
        """Whether its node is gone, and it has not begun anew."""
        return sequence in self._lost

    def remember(self, sequence: Sequence, home: Home) -> None:
        """It is there."""
        self._lost.pop(sequence, None)
        self._homes[sequence] = home
        self._homes.move_to_end(sequence)
        if len(self._homes) > self._most:
            self._homes.popitem(last=False)

    def forget(self, sequence: Sequence) -> None:
        """It is over, or was not begun."""
        self._homes.pop(sequence, None)

    def lose(self, sequence: Sequence) -> None:
        """Its state is gone."""
        self._homes.pop(sequence, None)
        self._lost[sequence] = None
        if len(self._lost) > self._most:
            self._lost.popitem(last=False)
