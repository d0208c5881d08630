"""How a command joins a Ray cluster and finds the controller there, or makes one. Runs in commands, as a driver of Ray."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mooring.cluster import messages
from mooring.cluster.ray.actor_names import NAMESPACE, controller_name, find_actor
from mooring.cluster.ray.controller_actor import ControllerActor
from mooring.cluster.ray.file_transfer import pieces_of
from mooring.cluster.ray.orders import ControllerOrder
from mooring.cluster.ray.ray_nodes import list_nodes
from mooring.cluster.records import Change, ClusterView
from mooring.core.errors import ClusterUnavailable

_CONNECT = 5.0  # seconds in which Ray's head must take a connection
_ANSWER = 30.0  # seconds in which the controller must say how the cluster is
_PIECE = 60.0  # seconds in which a node must have taken a piece of a file
_END = 10.0  # seconds that actors get to end, beyond the patience that requests have


@contextmanager
def join_ray(address: str) -> Iterator[None]:
    """Be a driver of the Ray cluster at ``address``: HOST:PORT of its head, or auto. Raises ``ClusterUnavailable``."""
    try:
        found = canonicalize_bootstrap_address_or_die(address)
        host, _, port = found.rpartition(":")
        # Ray itself tries for minutes where nobody listens.
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise ClusterUnavailable(_explain(address, error)) from error
    try:
        ray.init(
            address=found,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise ClusterUnavailable(
            f"{found} takes connections, but does not answer as Ray's head ({_first_line(error)}): is that the head's port,"
            " and are RAY_AUTH_MODE with its token and RAY_USE_TLS as they are there?"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _explain(address: str, error: Exception) -> str:
    where = (
        "this machine belongs to no Ray cluster that runs"
        if address == "auto"
        else f"no Ray cluster at {address}"
    )
    return f"{where} ({_first_line(error)}): ray start --head starts one"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class ControllerHandle:
    """The controller of the cluster called ``cluster``, as a command uses it. Each method blocks."""

    def __init__(self, cluster: str, actor: Any) -> None:
        self._cluster = cluster
        self._actor = actor

    @property
    def order(self) -> ControllerOrder:
        """What it was made with."""
        found: ControllerOrder = msgspec.json.decode(
            ray.get(self._actor.order.remote(), timeout=_ANSWER), type=ControllerOrder
        )
        return found

    def ask(self, change: Change | None = None, *, timeout: float | None = None) -> ClusterView | None:
        """Have a change made, or without one ask how the cluster is. Raises the ``MooringError`` that the controller answers."""
        try:
            data = ray.get(
                self._actor.ask.remote(msgspec.json.encode(change)),
                timeout=timeout if change is not None else _ANSWER,
            )
        except (RayActorError, GetTimeoutError) as error:
            raise ClusterUnavailable(
                f"the controller does not answer: {str(error).splitlines()[0]}"
            ) from error
        answer = msgspec.msgpack.decode(data, type=messages.ControllerAnswer)
        if answer.error is not None:
            raise answer.error.error()
        return answer.view

    def send_file(self, path: Path, sha256: str, node: str) -> None:
        """Bring a model file to a node that lacks it, in pieces. Raises ``ClusterUnavailable``."""
        try:
            actor = find_actor(ray.get(self._actor.actor_of.remote(node), timeout=_ANSWER))
            if ray.get(actor.has_file.remote(sha256), timeout=_ANSWER):
                return
            for offset, data, last in pieces_of(path):
                ray.get(actor.write_file.remote(sha256, offset, data, last=last), timeout=_PIECE)
        except (RayError, LookupError) as error:
            raise ClusterUnavailable(f"{path} did not get to a node: {str(error).splitlines()[0]}") from error

    def stop(self, patience: float) -> list[str]:
        """End the node servers, their actors and the controller. Requests that run get ``patience`` seconds.

        Returns the addresses of nodes that did not answer. Raises ``ClusterUnavailable`` where the controller does not.
        """
        try:
            left: list[str] = ray.get(self._actor.stop.remote(patience), timeout=patience + _END)
        except (RayActorError, GetTimeoutError) as error:
            raise ClusterUnavailable(
                f"the controller does not answer: {str(error).splitlines()[0]}"
            ) from error
        ray.kill(self._actor)
        return left


def find_controller(cluster: str) -> ControllerHandle:
    """Find the controller. Raises ``ClusterUnavailable`` where there is none."""
    try:
        return ControllerHandle(cluster, find_actor(controller_name(cluster)))
    except LookupError as error:
        raise ClusterUnavailable(
            f"no Mooring called '{cluster}' runs on this Ray cluster: mooring serve --cluster starts one"
        ) from error


def find_or_make_controller(order: ControllerOrder) -> ControllerHandle:
    """Find the controller, or make it on the node of Ray's head.

    Where nobody says where the desired state is kept, it is on that machine, and the controller runs nowhere else: with an empty
    state it could do nothing.
    """
    head = next((each.node_id for each in list_nodes() if each.is_head and each.alive), None)
    actor = (
        ray.remote(ControllerActor)
        .options(
            name=controller_name(order.cluster),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=bool(order.state))
            if head
            else "DEFAULT",
        )
        .remote(msgspec.json.encode(order))
    )
    return ControllerHandle(order.cluster, actor)
