"""What the server counts, and how Prometheus reads it."""

import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from mooring.observability.metrics import Histogram, Metrics
from mooring.observability.statistics import DURATIONS, ROWS, ModelStatistics

HOST = socket.gethostname()


@pytest.fixture
def metrics():
    return Metrics()


def samples(metrics, names=None):
    """Every sample by its name and labels, as the lines say: prometheus_client's parser renames TorchServe's counters."""
    found = {}
    for line in metrics.render_text(names).decode().splitlines():
        if not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)(?:{(.*)})? (\S+)", line).groups()
            pairs = sorted(re.findall(r'(\w+)="([^"]*)"', labels or ""))
            found[name, tuple(pairs)] = float(value)
    return found


def test_a_version_keeps_its_statistics(metrics):
    assert metrics.statistics_for("m", "1.0") is metrics.statistics_for("m", "1.0")
    assert metrics.statistics_for("m", "1.0") is not metrics.statistics_for("m", "2.0")


def test_a_value_on_a_bound_counts_under_it():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 8.0


def test_bounds_grow():
    assert list(DURATIONS) == sorted(set(DURATIONS))


def test_requests_with_and_without_a_version_in_the_url_are_told_apart(metrics):
    one, two = metrics.statistics_for("m", "1.0"), metrics.statistics_for("m", "2.0")
    one.observe_request(0.002, 0.001, ok=True, defaulted=True)
    two.observe_request(0.004, 0.002, ok=True, defaulted=True)
    two.observe_request(0.5, 0.25, ok=False)
    found = samples(metrics)

    def value(name, version):
        return found[name, (("hostname", HOST), ("model_name", "m"), ("model_version", version))]

    assert value("ts_inference_requests_total", "default") == 2
    assert value("ts_inference_requests_total", "2.0") == 1
    assert value("ts_inference_latency_microseconds", "default") == pytest.approx(6000)
    assert value("ts_inference_latency_microseconds", "2.0") == pytest.approx(500_000)
    assert value("ts_queue_latency_microseconds", "default") == pytest.approx(3000)
    assert (
        "ts_inference_requests_total",
        (("hostname", HOST), ("model_name", "m"), ("model_version", "1.0")),
    ) not in found


def test_responses_are_counted_by_class(metrics):
    for status in (200, 201, 404, 503, 418):
        metrics.responses.count(status)
    labels = (("Hostname", HOST), ("Level", "Host"))
    found = samples(metrics)
    assert [found[f"Requests{first}XX", labels] for first in (2, 4, 5)] == [2, 2, 1]


def test_histograms_are_cumulative_and_complete(metrics):
    statistics = metrics.statistics_for("m", "1.0")
    statistics.observe_request(0.0007, 0.0, ok=True)
    statistics.observe_request(1000.0, 0.0, ok=True)
    statistics.observe_batches([(3, 0.02, 2)])
    found = samples(metrics)
    labels = (("model_name", "m"), ("model_version", "1.0"))

    def bucket(name, bound):
        return found[f"{name}_bucket", (("le", bound), *labels)]

    assert bucket("mooring_request_duration_seconds", "0.0005") == 0
    assert bucket("mooring_request_duration_seconds", "0.001") == 1
    assert bucket("mooring_request_duration_seconds", "120.0") == 1
    assert bucket("mooring_request_duration_seconds", "+Inf") == 2
    assert found["mooring_request_duration_seconds_count", labels] == 2
    assert found["mooring_request_duration_seconds_sum", labels] == pytest.approx(1000.0007)
    assert bucket("mooring_batch_rows", "2.0") == 0
    assert bucket("mooring_batch_rows", "4.0") == 1
    assert found["mooring_inference_duration_seconds_sum", labels] == pytest.approx(0.02)


def test_outcomes_are_counted(metrics):
    statistics = metrics.statistics_for("m", "1.0")
    statistics.observe_request(0.1, 0.0, ok=True)
    statistics.observe_request(0.1, 0.0, ok=True)
    statistics.observe_request(0.1, 0.0, ok=False)
    found = samples(metrics)

    def value(outcome):
        return found[
            "mooring_requests_total", (("model_name", "m"), ("model_version", "1.0"), ("outcome", outcome))
        ]

    assert (value("answered"), value("failed")) == (2, 1)


def test_only_named_metrics_are_told(metrics):
    metrics.statistics_for("m", "1.0").observe_request(0.1, 0.0, ok=True)
    names = {name for name, _ in samples(metrics, {"Requests2XX", "mooring_batch_rows"})}
    assert names == {
        "Requests2XX", "mooring_batch_rows_bucket", "mooring_batch_rows_count", "mooring_batch_rows_sum",
    }  # fmt: skip
    assert metrics.render_text({"nothing"}) == b""


def test_a_models_name_cannot_break_a_line(metrics):
    metrics.statistics_for('a"b\\c\nd', "1").observe_request(0.1, 0.0, ok=True)
    families = list(text_string_to_metric_families(metrics.render_text({"mooring_requests_total"}).decode()))
    assert families[0].samples[0].labels["model_name"] == 'a"b\\c\nd'


def test_the_process_is_told_of(metrics):
    found = samples(metrics)
    assert found["process_resident_memory_bytes", ()] > 1e6
    assert found["process_cpu_seconds_total", ()] > 0


def test_a_counter_of_somebody_elses_is_named_as_its_samples_are(metrics):
    Counter("seen", "Things seen", registry=metrics.registry).inc(3)
    assert b"# TYPE seen_total counter\nseen_total 3.0\n" in metrics.render_text()


def test_counters_keep_torchserves_names_in_their_headers(metrics):
    metrics.responses.count(200)
    assert (
        f'# TYPE Requests2XX counter\nRequests2XX{{Level="Host",Hostname="{HOST}"}} 1.0\n'
        in metrics.render_text().decode()
    )


@given(
    notes=st.lists(
        st.tuples(st.floats(0.0, 200.0), st.floats(0.0, 200.0), st.booleans(), st.booleans()), max_size=40
    ),
    calls=st.lists(st.tuples(st.integers(1, 9), st.floats(0.0, 200.0)), max_size=20),
    times=st.sampled_from([1, 60]),
)
def test_what_is_noted_is_summed_up_as_if_it_had_been_at_once(notes, calls, times):
    statistics, durations, queues, inferences = (
        ModelStatistics("m", "1"),
        *(Histogram(DURATIONS) for _ in range(3)),
    )
    for _ in range(times):  # sixty times are more notes than are left lying about
        for latency, queue, ok, defaulted in notes:
            statistics.observe_request(latency, queue, ok, defaulted)
            durations.observe(latency)
            queues.observe(queue)
        statistics.observe_batches([(rows, seconds, 1) for rows, seconds in calls])
        for _, seconds in calls:
            inferences.observe(seconds)
    counts = statistics.counts
    told = counts.durations, counts.queues, counts.inferences
    for found, expected in zip(told, (durations, queues, inferences), strict=True):
        assert found.counts == expected.counts
        assert found.total == pytest.approx(expected.total)
    assert counts.outcomes == [times * sum(note[2] is ok for note in notes) for ok in (False, True)]
    assert counts.requests == [times * sum(note[3] is named for note in notes) for named in (False, True)]
    assert sum(counts.spent) == pytest.approx(durations.total)
    assert sum(counts.queue) == pytest.approx(queues.total)
    assert {rows: count for rows, (count, _) in counts.by_size.items()} == {
        rows: times * sum(row == rows for row, _ in calls) for rows, _ in calls
    }


def test_numbers_of_rows_that_clients_choose_do_not_fill_the_memory():
    first, both = ModelStatistics("m", "1"), ModelStatistics("m", "1")
    sizes = [*range(2000, 6000), *range(1, 1100)]
    for rows in sizes:
        first.observe_batches([(rows, 0.001, 1)])
        both.observe_batches([(rows, 0.001, 1)])
    both.add_counts([*first.counts.to_list(), [0.0, 0.0, 0.0]])
    for statistics, times in ((first, 1), (both, 2)):
        counts = statistics.counts
        assert len(counts.by_size) < 2200
        assert sum(count for count, _ in counts.by_size.values()) == times * len(sizes)
        assert counts.rows == times * sum(sizes)
        expected = Histogram(ROWS)
        for rows in sizes:
            expected.observe(rows, times)
        assert (counts.batches.counts, counts.batches.total) == (expected.counts, expected.total)
