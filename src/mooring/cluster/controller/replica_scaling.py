"""How many replicas a version needs: what its nodes report, put to the rule that scales workers, too. Runs in the controller.

Workers come first: while a replica has fewer than it may have, its node adds some, and no node is added. The rule is
``core.scaling_rule``; its unit is a replica here.
"""

from collections.abc import Iterable, Mapping

import msgspec

from mooring.cluster.controller.desired_state import DesiredVersion
from mooring.cluster.controller.placement import Key
from mooring.cluster.records import ReplicaState, VersionStatus
from mooring.core.scaling_rule import Demand, ScalingBounds, ScalingRule

# Seconds that 95 of 100 requests of a model wait at most where its configuration says nothing.
_TARGET = 0.5
_WINDOW = 10.0
# Seconds: a replica is a file to fetch and a model to load, perhaps a machine to start.
_COOL_DOWN = 120.0


class ReplicaScaling:
    """Decides for each version that may have fewer or more replicas. Call ``decide`` a few times a second."""

    def __init__(self) -> None:
        self._rules: dict[Key, ScalingRule] = {}
        self._counts: dict[Key, dict[str, int]] = {}
        self._requests: dict[Key, int] = {}

    def decide(
        self, now: float, key: Key, version: DesiredVersion, statuses: Mapping[str, VersionStatus], held: int
    ) -> int:
        """The number of replicas that a version is to have now.

        ``statuses`` are those of its nodes, ``held`` requests wait on nodes for its first replica.
        """
        placement = version.placement
        if placement.all_nodes or placement.min_replicas == placement.max_replicas:
            self._rules.pop(key, None)
            return version.replicas if placement.all_nodes else placement.min_replicas
        rule = self._rules.setdefault(key, ScalingRule())
        bounds = ScalingBounds(
            target=_named(version, "target_queue", _TARGET),
            least=placement.min_replicas,
            most=placement.max_replicas,
            window=_named(version, "scaling_window", _WINDOW),
            cool_down=_named(version, "cool_down", _COOL_DOWN),
        )
        demand = measure_demand(version.replicas, statuses.values(), held)
        requests = self._count_requests(key, statuses)
        return rule.decide(now, bounds, msgspec.structs.replace(demand, requests=requests))

    def forget(self, known: Iterable[Key]) -> None:
        """Forget all versions but these."""
        keep = set(known)
        for table in (self._rules, self._counts, self._requests):
            for key in [key for key in table if key not in keep]:
                del table[key]

    def _count_requests(self, key: Key, statuses: Mapping[str, VersionStatus]) -> int:
        """All requests that the version ever had. A node's own count begins anew with each load."""
        before = self._counts.get(key, {})
        counts = {name: status.requests for name, status in statuses.items()}
        added = sum(max(count - before.get(name, 0), 0) for name, count in counts.items())
        self._counts[key] = counts
        self._requests[key] = self._requests.get(key, 0) + added
        return self._requests[key]


def _named(version: DesiredVersion, option: str, usual: float) -> float:
    """What a registration says of an option of ``core.options.Scaling``, in seconds."""
    named = version.settings.scaling.get(option)
    return float(named) if isinstance(named, int | float) and named > 0 else usual


def measure_demand(replicas: int, statuses: Iterable[VersionStatus], held: int) -> Demand:
    """What a version has to do, in replicas: one whose workers all work, as many as it may have, is busy wholly.

    While one of its nodes can still add workers, the wait of requests asks for no replica.
    """
    ready = [each for each in statuses if each.state is ReplicaState.READY]
    room = any(each.wanted_workers < each.max_workers for each in ready)
    return Demand(
        units=replicas,
        ready=len(ready),
        busy=sum(min(each.busy_workers / max(each.max_workers, 1), 1.0) for each in ready),
        waiting=held + sum(each.waiting for each in ready),
        oldest_wait=0.0 if room else max((each.oldest_wait for each in ready), default=0.0),
        queue_p95=0.0 if room else max((each.queue_p95 for each in ready), default=0.0),
    )
