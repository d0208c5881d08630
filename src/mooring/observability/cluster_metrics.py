"""The metrics of a node server's part in its cluster: requests that it sent to other nodes, and those that it ran for them.

Runs in the first process of a node server.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from prometheus_client import Metric
from prometheus_client.registry import Collector

from mooring.observability.histogram import Histogram

WAYS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024)

# Nodes whose counts are kept after they have left the cluster.
_MAX_LEFT = 20


class ClusterMetrics(Collector):
    """Counts by node, and of each answer how long it was on the way, there and back, beside the time at the node itself.

    ``nodes`` are those of the cluster now; of others only a few are shown. ``held`` counts the requests that wait here for a
    replica, and ``attached`` says whether a node actor is there. ``replicas`` are the versions of the cluster: model, version, how many nodes
    have it ready and how many should.
    """

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.ran: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.repeated = 0
        self.ways = Histogram(WAYS)
        self.nodes: Callable[[], Collection[str]] = tuple
        self.held: Callable[[], int] = lambda: 0
        self.attached: Callable[[], bool] = lambda: False
        self.replicas: Callable[[], Iterable[tuple[str, str, int, int]]] = tuple

    def collect(self) -> Iterable[Metric]:
        """Return all families, read now."""
        shown = self._shown_nodes()
        for name, text, counts in (
            ("mooring_cluster_requests_sent_total", "Requests sent to another node, by node", self.sent),
            ("mooring_cluster_requests_run_total", "Requests run for another node, by node", self.ran),
            (
                "mooring_cluster_requests_lost_total",
                "Requests whose node was lost before it answered, by node",
                self.lost,
            ),
        ):
            family = Metric(name, text, "counter")
            for node in shown:
                if node in counts:
                    family.add_sample(name, {"node": node}, counts[node])
            yield family
        for name, text, kind, value in (
            (
                "mooring_cluster_requests_repeated_total",
                "Requests sent to one more node after one was lost",
                "counter",
                float(self.repeated),
            ),
            ("mooring_cluster_held_requests", "Requests that wait for a first replica", "gauge", self.held()),
            ("mooring_cluster_attached", "Whether a node actor is attached", "gauge", float(self.attached())),
        ):
            family = Metric(name, text, kind)
            family.add_sample(name, {}, value)
            yield family
        yield self._ways_family()
        yield from self._replica_families()

    def _replica_families(self) -> Iterable[Metric]:
        ready = Metric("mooring_replicas_ready", "Nodes that have a version ready", "gauge")
        wanted = Metric("mooring_replicas_wanted", "Nodes that should have a version", "gauge")
        for model, version, count, aim in self.replicas():
            labels = {"model_name": model, "model_version": version}
            ready.add_sample(ready.name, labels, count)
            wanted.add_sample(wanted.name, labels, aim)
        yield from (ready, wanted)

    def _shown_nodes(self) -> list[str]:
        """List the nodes of the cluster, and forget those that have left it, but for a few."""
        now = set(self.nodes())
        left = [node for node in {**self.sent, **self.ran, **self.lost} if node not in now]
        for node in left[:-_MAX_LEFT]:
            for counts in (self.sent, self.ran, self.lost):
                counts.pop(node, None)
        return sorted({*now, *left[-_MAX_LEFT:]})

    def _ways_family(self) -> Metric:
        name, ways, total = "mooring_cluster_way_seconds", self.ways, 0
        family = Metric(
            name, "Seconds that requests to other nodes were on the way, there and back", "histogram"
        )
        for bound, count in zip((*ways.bounds, "+Inf"), ways.counts, strict=True):
            total += count
            family.add_sample(f"{name}_bucket", {"le": str(bound)}, total)
        family.add_sample(f"{name}_count", {}, total)
        family.add_sample(f"{name}_sum", {}, ways.total)
        return family
