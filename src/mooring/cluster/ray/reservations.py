"""Resources that are held for replicas: one placement group of Ray for each, on the node that the controller has chosen. Runs in the controller.

A placement group has the name ``CLUSTER|NODE|MODEL|VERSION``, so that a later controller knows what is held and for what. Where it has
GPUs, a tiny actor lives in it, since only an actor is told the numbers of its GPUs.
"""

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mooring.cluster.controller.cluster_port import NotReserved, Reservation, Resources
from mooring.cluster.ray.actor_names import NAMESPACE

# Seconds in which Ray must have made a placement group where there is room.
_PATIENCE = 3.0
_GPU_PATIENCE = 30.0
_HELD = ("CREATED",)


class _GpuHolder:
    """An actor that has the GPUs of a placement group."""

    def gpus(self) -> list[int]:
        """The numbers of its devices."""
        return [int(each) for each in ray.get_gpu_ids()]


class Reservations:
    """The placement groups of one cluster."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._gpus: dict[str, list[int]] = {}  # by the name of a placement group

    async def reserve(
        self, node: str, node_id: str, model: str, version: str, resources: Resources
    ) -> Reservation:
        """Hold resources on a node; return what there is where that is done already. Raises ``NotReserved``."""
        name = self._name(node, model, version)
        found = (await asyncio.to_thread(self._table)).get(name)
        if found is not None and (
            found["state"] not in _HELD or node_id not in found["bundles_to_node_id"].values()
        ):
            await self.release(node, model, version)  # of a raylet that is gone
            found = None
        if found is None:
            await asyncio.to_thread(_make_group, name, node_id, resources)
        gpus = await self._find_gpus(name, resources) if resources.get("GPU") else []
        return Reservation(node, model, version, resources, gpus)

    async def release(self, node: str, model: str, version: str) -> None:
        """Give resources back."""
        name = self._name(node, model, version)
        self._gpus.pop(name, None)
        await asyncio.to_thread(self._remove, name)

    async def find_all(self) -> list[Reservation]:
        """All that is held."""
        found = []
        for name, group in (await asyncio.to_thread(self._table)).items():
            _, node, rest = name.split("|", 2)
            model, _, version = rest.rpartition("|")
            if group["state"] in _HELD:
                bundle = dict(group["bundles"][0])
                gpus = await self._find_gpus(name, bundle) if bundle.get("GPU") else []
                found.append(Reservation(node, model, version, bundle, gpus))
        return found

    def _name(self, node: str, model: str, version: str) -> str:
        return f"{self._cluster}|{node}|{model}|{version}"

    def _table(self) -> dict[str, dict[str, Any]]:
        """Ray's placement groups of this cluster by name, without those that were removed."""
        return {
            each["name"]: each
            for each in placement_group_table().values()
            if each["name"].startswith(f"{self._cluster}|") and each["state"] != "REMOVED"
        }

    def _remove(self, name: str) -> None:
        group = _find_group(name)
        if group is not None:
            remove_placement_group(group)  # and with it the actor that holds its GPUs

    async def _find_gpus(self, name: str, resources: Mapping[str, float]) -> list[int]:
        """The GPUs of a placement group. Raises ``NotReserved`` where nobody says."""
        if name not in self._gpus:
            holder = await asyncio.to_thread(_make_holder, name, resources["GPU"])
            try:
                self._gpus[name] = await asyncio.wait_for(holder.gpus.remote(), _GPU_PATIENCE)
            except Exception as error:  # Ray raises what it likes
                await asyncio.to_thread(self._remove, name)
                raise NotReserved(f"Ray does not say which GPUs are held: {error}") from error
        return self._gpus[name]


def _make_group(name: str, node_id: str, resources: Resources) -> None:
    """Make a placement group on a node. Raises ``NotReserved``, and then there is none."""
    bundle = {
        key: math.ceil(amount) if key == "memory" else amount for key, amount in resources.items() if amount
    }
    group = placement_group(
        [bundle],
        strategy="STRICT_PACK",
        name=name,
        lifetime="detached",
        bundle_label_selector=[{"ray.io/node-id": node_id}],
    )
    if not group.wait(_PATIENCE):
        remove_placement_group(group)
        wanted = ", ".join(f"{amount:g} {key}" for key, amount in bundle.items())
        raise NotReserved(f"Ray could not reserve {wanted} there in {_PATIENCE:g} s")


def _find_group(name: str) -> PlacementGroup | None:
    try:
        found: PlacementGroup = ray.util.get_placement_group(name)
    except ValueError:
        return None
    return found


def _make_holder(name: str, gpus: float) -> Any:
    strategy = PlacementGroupSchedulingStrategy(ray.util.get_placement_group(name), 0)
    return (
        ray.remote(_GpuHolder)
        .options(
            name=f"{name}|gpus",
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=0,
            num_gpus=gpus,
            scheduling_strategy=strategy,
        )
        .remote()
    )
