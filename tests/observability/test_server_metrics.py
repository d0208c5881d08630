"""What is told of the server's processes: bytes, memory, event loops."""

import re

from mooring.core.memory import MemoryUse
from mooring.observability.metrics import Metrics


def sample(metrics, name):
    return {
        labels: float(value)
        for labels, value in re.findall(
            rf"^{name}(?:{{(.*)}})? (\S+)$", metrics.render_text().decode(), re.MULTILINE
        )
    }


def test_bytes_are_told_by_protocol_and_added_up_over_processes():
    metrics, frontend = Metrics(system=False), Metrics(system=False)
    metrics.traffic["http"].received += 10
    frontend.traffic["http"].received += 5
    frontend.traffic["grpc"].sent += 7
    counted = frontend.take_counts()
    assert counted
    metrics.add_counts(counted)
    assert sample(metrics, "mooring_received_bytes_total") == {'protocol="http"': 15, 'protocol="grpc"': 0}
    assert sample(metrics, "mooring_sent_bytes_total") == {'protocol="http"': 0, 'protocol="grpc"': 7}
    assert not frontend.take_counts()


def test_the_memory_of_bodies_is_read_at_every_scrape():
    metrics = Metrics(system=False)
    metrics.server.read_memory(lambda: MemoryUse(1, 2, 3, 4))
    names = ("arena_used", "arena_size", "body_memory_used", "body_memory_limit")
    assert [sample(metrics, f"mooring_{name}_bytes")[""] for name in names] == [1, 2, 3, 4]


def test_event_loops_are_told_by_process():
    metrics, frontend = Metrics(system=False), Metrics(system=False)
    frontend.lag.observe(0.3)
    metrics.lag.observe(0.002)
    metrics.add_lag("frontend-1", frontend.lag.take())
    metrics.add_lag("frontend-1", frontend.lag.take())
    assert sample(metrics, "mooring_event_loop_lag_seconds_count") == {
        'process="server"': 1,
        'process="frontend-1"': 1,
    }
    assert sample(metrics, "mooring_event_loop_lag_seconds_sum")['process="frontend-1"'] == 0.3
