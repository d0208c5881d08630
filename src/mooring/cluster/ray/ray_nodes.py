"""What Ray says of its nodes, and which of them are chosen to serve. Runs in the controller."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import ray
from ray._private.state import available_resources_per_node

_ACCELERATOR_LABEL = "ray.io/accelerator-type"
_ACCELERATOR_RESOURCE = "accelerator_type:"


class RayNode(msgspec.Struct, frozen=True):
    """One of Ray's nodes: a raylet. ``total`` and ``free`` are amounts by Ray's names of resources."""

    node_id: str
    address: str
    alive: bool
    labels: Mapping[str, str]
    total: Mapping[str, float]
    free: Mapping[str, float]
    is_head: bool = False

    @property
    def accelerator_type(self) -> str:
        """The type of its accelerators; empty where Ray knows none."""
        if label := self.labels.get(_ACCELERATOR_LABEL, ""):
            return label
        return next(
            (
                each.removeprefix(_ACCELERATOR_RESOURCE)
                for each in self.total
                if each.startswith(_ACCELERATOR_RESOURCE)
            ),
            "",
        )


def list_nodes() -> list[RayNode]:
    """Ask Ray's head for all nodes. This blocks, while the head is away for long."""
    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    return [
        RayNode(
            node_id=each["NodeID"],
            address=each["NodeManagerAddress"],
            alive=each["Alive"],
            labels=each.get("Labels") or {},
            total=_amounts(each["Resources"]),
            free=_amounts(free.get(each["NodeID"], {})),
            is_head="node:__internal_head__" in each["Resources"],
        )
        for each in ray.nodes()  # type: ignore[no-untyped-call]
    ]


def _amounts(resources: Mapping[str, float]) -> dict[str, float]:
    """Resources that can be asked for, without those that Ray makes up for a node or a placement group."""
    return {
        name: amount
        for name, amount in resources.items()
        if not name.startswith("node:") and "_group_" not in name
    }


def choose_nodes(nodes: Iterable[RayNode], wanted: Sequence[str]) -> list[RayNode]:
    """The nodes that ``wanted`` names: those with one of its addresses, if there are any, and all of its LABEL=TEXT.

    >>> node = RayNode("1", "10.0.0.1", True, {"zone": "a"}, {}, {})
    >>> [bool(choose_nodes([node], wanted)) for wanted in ([], ["zone=a"], ["zone=b"], ["10.0.0.1"], ["10.0.0.2", "zone=a"])]
    [True, True, False, True, False]
    """
    labels = [each.partition("=") for each in wanted if "=" in each]
    addresses = {each for each in wanted if "=" not in each}
    return [
        each
        for each in nodes
        if all(each.labels.get(key) == value for key, _, value in labels)
        and (not addresses or each.address in addresses)
    ]
