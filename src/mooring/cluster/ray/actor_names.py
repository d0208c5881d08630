"""How the actors of a cluster are called, and how one is found by its name. Runs in actors and commands."""

import asyncio
from typing import Any

import ray

NAMESPACE = "mooring"


def controller_name(cluster: str) -> str:
    """The name of a cluster's controller."""
    return f"{cluster}-controller"


def node_actor_name(cluster: str, node_id: str) -> str:
    """The name of the node actor of a Ray node. A raylet that is started again is another Ray node."""
    return f"{cluster}-node-{node_id[-16:]}"  # the ids of Ray's fake nodes begin alike


class ActorHandles:
    """Handles of actors by name. They are kept: while Ray's head is away nobody finds an actor, but calls go on."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    async def find(self, name: str) -> Any:
        """The handle of an actor. Raises ``LookupError`` where there is none."""
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = await asyncio.to_thread(find_actor, name)
        return handle

    def forget(self, name: str) -> None:
        """Ask for it anew the next time."""
        self._handles.pop(name, None)


def find_actor(name: str) -> Any:
    """The handle of an actor, asked of Ray's head: this blocks. Raises ``LookupError`` where there is none."""
    try:
        return ray.get_actor(name, NAMESPACE)
    except ValueError as error:
        raise LookupError(f"Ray knows no actor '{name}'") from error
