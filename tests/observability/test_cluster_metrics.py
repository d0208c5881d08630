"""What a node tells of its part in the cluster: by node, and never of ever more nodes."""

import re

from mooring.observability.cluster_metrics import ClusterMetrics
from mooring.observability.metrics import Metrics


def page_of(counts):
    metrics = Metrics(system=False)
    metrics.registry.register(counts)
    return metrics.render_text().decode()


def samples(text, name):
    return {
        labels: float(value)
        for labels, value in re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    }


def test_requests_are_counted_by_node():
    counts = ClusterMetrics()
    counts.nodes = lambda: ["b", "c"]
    counts.sent["b"] += 2
    counts.ran["c"] += 3
    counts.lost["b"] += 1
    counts.repeated += 1
    counts.held = lambda: 4
    counts.attached = lambda: True
    counts.replicas = lambda: [("m", "1", 2, 3)]
    text = page_of(counts)
    assert samples(text, "mooring_cluster_requests_sent_total") == {'node="b"': 2}
    assert samples(text, "mooring_cluster_requests_run_total") == {'node="c"': 3}
    assert samples(text, "mooring_cluster_requests_lost_total") == {'node="b"': 1}
    assert samples(text, "mooring_cluster_requests_repeated_total") == {"": 1}
    assert samples(text, "mooring_cluster_held_requests") == {"": 4}
    assert samples(text, "mooring_cluster_attached") == {"": 1}
    version = 'model_name="m",model_version="1"'
    assert samples(text, "mooring_replicas_ready") == {version: 2}
    assert samples(text, "mooring_replicas_wanted") == {version: 3}


def test_the_way_is_a_histogram_whose_buckets_add_up():
    counts = ClusterMetrics()
    for seconds in (0.0004, 0.0015, 5.0):
        counts.ways.observe(seconds)
    text = page_of(counts)
    buckets = samples(text, "mooring_cluster_way_seconds_bucket")
    assert (buckets['le="0.0005"'], buckets['le="0.002"'], buckets['le="+Inf"']) == (1, 2, 3)
    assert list(buckets.values()) == sorted(buckets.values())
    assert samples(text, "mooring_cluster_way_seconds_count") == {"": 3}


def test_nodes_that_come_and_go_do_not_make_the_page_grow():
    counts = ClusterMetrics()
    counts.nodes = lambda: ["stays"]
    counts.sent["stays"] += 1
    for number in range(500):
        counts.sent[f"node-{number}"] += 1
    shown = samples(page_of(counts), "mooring_cluster_requests_sent_total")
    assert 'node="stays"' in shown
    assert 'node="node-499"' in shown
    assert len(shown) == len(counts.sent) == 21
