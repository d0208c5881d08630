"""What has changed between two routing tables, in the place of the whole one. Runs in the controller and in node actors.

A table grows with all models of a cluster, and every node gets each new one. Few of its lines change at a time (decision 74).
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from mooring.cluster.records import RoutingTable

_KEPT = 8
_TABLES = ("nodes", "replicas", "defaults", "starting", "pending", "files")


class RoutingChanges(msgspec.Struct, frozen=True, omit_defaults=True):
    """The way from the table of generation ``base`` to that of ``generation``.

    The others have the lines, by node or model, that are new or different; None stands for one that is gone.
    """

    base: int
    generation: int
    nodes: dict[str, str | None] = {}
    replicas: dict[str, dict[str, list[str]] | None] = {}
    defaults: dict[str, str | None] = {}
    starting: dict[str, list[str] | None] = {}
    pending: dict[str, dict[str, str] | None] = {}
    files: dict[str, dict[str, str] | None] = {}


def find_changes(before: RoutingTable, after: RoutingTable) -> RoutingChanges:
    """What has changed from one table to the other."""
    changes = {name: _changed_lines(getattr(before, name), getattr(after, name)) for name in _TABLES}
    return RoutingChanges(before.generation, after.generation, **changes)


def apply_changes(before: RoutingTable, changes: RoutingChanges) -> RoutingTable | None:
    """The table after the changes; None where ``before`` is not the one that they begin with."""
    if before.generation != changes.base:
        return None
    tables = {name: _with_lines(getattr(before, name), getattr(changes, name)) for name in _TABLES}
    return RoutingTable(generation=changes.generation, **tables)


class SentTables:
    """Which table each node has, as the sender of tables knows it: what is to be sent are the changes from that one.

    Many nodes have the same table and get the same one, so the last changes that were found are kept.
    """

    def __init__(self) -> None:
        self._taken: dict[str, RoutingTable] = {}
        self._found: list[tuple[RoutingTable, RoutingTable, RoutingChanges]] = []

    def changes_for(self, node: str, table: RoutingTable) -> RoutingChanges | None:
        """What a node needs to have the table; None where it is to get it whole."""
        before = self._taken.get(node)
        if before is None:
            return None
        for known, wanted, changes in self._found:
            if known is before and wanted is table:
                return changes
        changes = find_changes(before, table)
        self._found = [*self._found[-_KEPT:], (before, table, changes)]
        return changes

    def note_taken(self, node: str, table: RoutingTable) -> None:
        """The node has this table."""
        self._taken[node] = table

    def forget(self, node: str) -> None:
        """Nobody knows what the node has."""
        self._taken.pop(node, None)


def _changed_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    changed = {key: line for key, line in after.items() if before.get(key) != line}
    return {**changed, **dict.fromkeys(before.keys() - after.keys())}


def _with_lines(before: dict[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    if not changed:
        return before
    return {key: line for key, line in {**before, **changed}.items() if line is not None}
