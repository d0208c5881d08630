"""What models record: gathered in a worker, kept by the server, and never more than Prometheus can read."""

import logging
import math
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mooring.observability.metrics import Metrics
from mooring.observability.recorded_metrics import BOUNDS, MAX_METRICS, MAX_SERIES
from mooring.observability.records import MAX_WAITING_VALUES, Record, Recorder

HOST = socket.gethostname()
OWN = {"ModelName": "m", "Level": "Model"}


def lines(metrics, name):
    """The samples of a metric as the page has them: labels and value."""
    found = re.findall(rf"^{name}{{(.*)}} (\S+)$", metrics.render_text().decode(), re.MULTILINE)
    return [(labels, float(value)) for labels, value in found]


def kept(*records, metrics=None):
    metrics = metrics or Metrics()
    metrics.record_values("m", records)
    return metrics


def counter(name="hits", value=1.0, **dimensions):
    return Record(name, "count", "counter", dimensions, [value])


kinds = st.sampled_from(["counter", "gauge", "histogram"])
values = st.floats(0, 1e6)


@given(st.lists(st.tuples(kinds, values, st.booleans())))
def test_it_makes_no_difference_when_a_worker_sends_what_it_has(steps):
    often, once = Metrics(), Metrics()
    often_recorder, once_recorder = Recorder(), Recorder()
    for kind, value, send in steps:
        for recorder in (often_recorder, once_recorder):
            recorder.record_value(kind, value, "ms", kind, OWN)
        if send:
            often.record_values("m", often_recorder.take_records() or ())
    often.record_values("m", often_recorder.take_records() or ())
    once.record_values("m", once_recorder.take_records() or ())
    for name in ("counter", "gauge", "histogram_bucket", "histogram_count", "histogram_sum"):
        (one, two) = (
            [(labels, pytest.approx(value)) for labels, value in lines(each, name)] for each in (often, once)
        )
        assert lines(once, name) == one
        assert lines(often, name) == two


def test_a_worker_that_recorded_nothing_has_nothing_to_send():
    recorder = Recorder()
    assert recorder.take_records() is None
    recorder.record_value("a", 1, "", "gauge", {})
    assert recorder.take_records() == [("a", "", "gauge", {}, [1], "")]
    assert recorder.take_records() is None


def test_metrics_of_tritons_models_have_their_own_help_and_labels():
    metrics = kept(Record("sent", "", "counter", {"version": "1"}, [2], "What was sent"))
    (family,) = metrics.collect()
    assert (family.documentation, family.samples[0].labels) == ("What was sent", {"version": "1"})


def test_a_counter_and_a_gauge_take_no_more_room_however_often_they_are_fed():
    recorder = Recorder()
    for value in range(10 * MAX_WAITING_VALUES):
        assert not recorder.record_value("c", 1, "", "counter", {})
        assert not recorder.record_value("g", value, "", "gauge", {})
    assert [record.values for record in recorder.take_records()] == [
        [10 * MAX_WAITING_VALUES],
        [10 * MAX_WAITING_VALUES - 1],
    ]


def test_what_fills_a_message_is_to_be_sent_at_once():
    recorder = Recorder()
    full = [recorder.record_value("h", 1, "", "histogram", {}) for _ in range(MAX_WAITING_VALUES)]
    assert full == [False] * (MAX_WAITING_VALUES - 1) + [True]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_what_is_no_finite_number_is_left_out_and_said_once(value, kind, caplog):
    recorder = Recorder()
    for _ in range(3):
        recorder.record_value("odd", value, "", kind, {})
    assert recorder.take_records() is None
    assert [record.getMessage() for record in caplog.records] == [
        "a value of the metric 'odd' is left out: it is not a finite number"
    ]


def test_a_counter_cannot_go_down(caplog):
    recorder = Recorder()
    recorder.record_value("c", 5, "", "counter", {})
    recorder.record_value("c", -2, "", "counter", {})
    assert recorder.take_records()[0].values == [5]
    assert "a counter cannot go down" in caplog.text


def test_what_no_message_can_hold_is_made_text():
    recorder = Recorder()
    recorder.record_value(5, 1, None, "gauge", {"who": "\ud800", "n": 3})
    assert recorder.take_records() == [("5", "", "gauge", {"who": "?", "n": "3"}, [1.0])]


def test_an_unknown_kind_is_the_callers_mistake():
    with pytest.raises(ValueError, match="unknown kind of metric 'meter'"):
        Recorder().record_value("a", 1, "", "meter", {})


def test_a_record_is_shown_under_torchserves_help_with_its_host():
    metrics = kept(Record("HandlerTime", "ms", "gauge", OWN, [2.5]))
    text = metrics.render_text({"HandlerTime"}).decode()
    assert text == (
        "# HELP HandlerTime Torchserve prometheus gauge metric with unit: Milliseconds\n"
        "# TYPE HandlerTime gauge\n"
        f'HandlerTime{{Hostname="{HOST}",Level="Model",ModelName="m"}} 2.5\n'
    )


def test_workers_and_reloads_add_to_the_same_counter():
    metrics = kept(counter(value=2.0, Kind="a"))
    metrics.record_values("m", [counter(value=3.0, Kind="a"), counter(value=1.0, Kind="b")])
    assert [value for _, value in lines(metrics, "hits")] == [5.0, 1.0]


def test_a_histogram_counts_every_value():
    metrics = kept(Record("took", "ms", "histogram", {}, [0.0005, 5.0, 1e9]))
    assert lines(metrics, "took_count")[0][1] == 3
    buckets = lines(metrics, "took_bucket")
    assert len(buckets) == len(BOUNDS) + 1
    assert (buckets[0][1], buckets[-2][1], buckets[-1][1]) == (1, 2, 3)


def test_the_bounds_grow():
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert (BOUNDS[0], BOUNDS[-1]) == (0.001, 500_000)


@pytest.mark.parametrize("name", ["", "has space", "1st", "dash-ed", "line\nbreak", "ünder", "x" * 2000])
def test_a_name_that_prometheus_does_not_take_is_refused_once(name, caplog):
    with caplog.at_level(logging.WARNING):
        metrics = kept(counter(name), counter(name))
    assert caplog.text.count("metric refused") == 1
    assert name[:50] not in metrics.render_text().decode() or not name


@pytest.mark.parametrize("label", ["", "has space", "__own", "a:b", "1st"])
def test_a_dimension_that_prometheus_does_not_take_is_refused(label, caplog):
    assert lines(kept(counter(**{label: "x"})), "hits") == []
    assert "does not take a dimension" in caplog.text


def test_a_histogram_has_no_dimension_of_the_name_of_its_bounds():
    assert lines(kept(Record("h", "", "histogram", {"le": "1"}, [1])), "h_count") == []


@pytest.mark.parametrize(
    "name", ["Requests2XX", "CPUUtilization", "mooring_anything", "process_cpu_seconds_total"]
)
def test_the_servers_own_names_are_its_own(name, caplog):
    before = lines(Metrics(), name)
    assert len(lines(kept(counter(name, 77)), name)) == len(before)
    assert "another metric is called so" in caplog.text


def test_a_metric_keeps_its_first_type(caplog):
    metrics = kept(counter(), Record("hits", "", "gauge", {}, [9]))
    assert [value for _, value in lines(metrics, "hits")] == [1.0]
    assert "it is a counter already, and not a gauge" in caplog.text


def test_a_histograms_samples_are_no_other_metrics_names(caplog):
    metrics = kept(counter("took_count"), Record("took", "", "histogram", {}, [1]))
    assert lines(metrics, "took_bucket") == []
    assert "another metric is called so" in caplog.text


def test_a_dimension_with_ever_new_values_fills_nothing_and_is_said_once(caplog):
    metrics = kept(*(counter(request=str(number)) for number in range(MAX_SERIES + 100)))
    assert len(lines(metrics, "hits")) == MAX_SERIES
    metrics.record_values("m", [counter(request="0")])  # what is there goes on
    assert (
        "2.0" in metrics.render_text({"hits"}).decode(),
        caplog.text.count("too many dimension values"),
    ) == (
        True,
        1,
    )


def test_names_without_end_fill_nothing():
    metrics = kept(*(counter(f"name_{number}") for number in range(MAX_METRICS + 10)))
    assert metrics.render_text().decode().count("# TYPE name_") == MAX_METRICS


names = st.text(max_size=20)


@given(st.lists(st.tuples(names, kinds, st.text(max_size=5), names, names, values), max_size=20))
def test_whatever_models_record_the_page_can_be_read(recorded):
    metrics = Metrics(system=False)
    for name, kind, unit, dimension, text, value in recorded:
        metrics.record_values("m", [Record(name, unit, kind, {dimension: text}, [value])])
    families = list(text_string_to_metric_families(metrics.render_text().decode()))
    assert {"QueueTime", "process_start_time_seconds"} - {family.name for family in families} == {"QueueTime"}


def test_log_mode_writes_lines_as_torchserves_logs_have_them(caplog):
    metrics = Metrics("log")
    with caplog.at_level(logging.INFO):
        metrics.record_values("m", [Record("HandlerTime", "ms", "gauge", OWN, [2.5])])
        metrics.responses.count(200)
        metrics.log.write_counts()
        metrics.responses.count(200)
        metrics.log.write_counts()
    end = rf"\|#hostname:{re.escape(HOST)},timestamp:\d{{10}}"
    said = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(
        r"MODEL_METRICS - HandlerTime.Milliseconds:2.5\|#ModelName:m,Level:Model" + end, said[0]
    )
    requests = [line for line in said if "Requests2XX" in line]
    assert len(requests) == 2
    assert all(
        re.fullmatch(r"TS_METRICS - Requests2XX.Count:1.0\|#Level:Host" + end, line) for line in requests
    )
    assert any(
        re.fullmatch(r"TS_METRICS - CPUUtilization.Percent:[\d.]+\|#Level:Host" + end, line) for line in said
    )
    assert metrics.render_text() == b""


def test_legacy_mode_tells_torchserves_three_and_writes_the_rest(caplog):
    metrics = Metrics("legacy")
    metrics.statistics_for("m", "1.0").observe_request(0.1, 0.01, ok=True, defaulted=True)
    with caplog.at_level(logging.INFO):
        metrics.record_values("m", [counter()])
    told = re.findall(r"# TYPE (\w+)", metrics.render_text().decode())
    assert told == [
        "ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds",
    ]  # fmt: skip
    assert "hits.Count:1.0" in caplog.text
    assert metrics.render_text({"Requests2XX"}) == b""
