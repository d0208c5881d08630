"""What models record: gathered in a worker, kept by the server, and never more than Prometheus can read."""

import logging
import math
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mooring.core.service import MetricValue
from mooring.observability.metrics import Metrics
from mooring.observability.recorded_metrics import BOUNDS, MAX_METRICS, MAX_SERIES
from mooring.observability.records import MAX_WAITING_VALUES, Record, Recorder, read_printed_metric

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
            recorder.record_value(MetricValue(kind, value, "ms", kind, OWN))
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
    recorder.record_value(MetricValue("a", 1, "", "gauge", {}))
    assert recorder.take_records() == [Record("a", "", "gauge", {}, [1])]
    assert recorder.take_records() is None


def test_metrics_of_tritons_models_have_their_own_help_and_labels():
    metrics = kept(Record("sent", "", "counter", {"version": "1"}, [2], "What was sent"))
    assert "# HELP sent What was sent\n" in metrics.render_text().decode()
    assert lines(metrics, "sent") == [('version="1"', 2)]


def test_a_counter_and_a_gauge_take_no_more_room_however_often_they_are_fed():
    recorder = Recorder()
    for value in range(10 * MAX_WAITING_VALUES):
        assert not recorder.record_value(MetricValue("c", 1, "", "counter", {}))
        assert not recorder.record_value(MetricValue("g", value, "", "gauge", {}))
    assert [record.values for record in recorder.take_records()] == [
        [10 * MAX_WAITING_VALUES],
        [10 * MAX_WAITING_VALUES - 1],
    ]


def test_what_fills_a_message_is_to_be_sent_at_once():
    recorder = Recorder()
    full = [
        recorder.record_value(MetricValue("h", 1, "", "histogram", {})) for _ in range(MAX_WAITING_VALUES)
    ]
    assert full == [False] * (MAX_WAITING_VALUES - 1) + [True]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_what_is_no_finite_number_is_left_out_and_said_once(value, kind, caplog):
    recorder = Recorder()
    for _ in range(3):
        recorder.record_value(MetricValue("odd", value, "", kind, {}))
    assert recorder.take_records() is None
    assert [record.getMessage() for record in caplog.records] == [
        "a value of the metric 'odd' is left out: it is not a finite number"
    ]


def test_a_counter_cannot_go_down(caplog):
    recorder = Recorder()
    recorder.record_value(MetricValue("c", 5, "", "counter", {}))
    recorder.record_value(MetricValue("c", -2, "", "counter", {}))
    assert recorder.take_records()[0].values == [5]
    assert "a counter cannot go down" in caplog.text


def test_what_no_message_can_hold_is_made_text():
    recorder = Recorder()
    recorder.record_value(MetricValue(5, 1, None, "gauge", {"who": "\ud800", "n": 3}))
    assert recorder.take_records() == [Record("5", "", "gauge", {"who": "?", "n": "3"}, [1.0])]


def test_an_unknown_kind_is_the_callers_mistake():
    with pytest.raises(ValueError, match="unknown kind of metric 'meter'"):
        Recorder().record_value(MetricValue("a", 1, "", "meter", {}))


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


def test_a_value_with_a_request_is_told_by_itself():
    recorder = Recorder()
    for number in range(2):
        recorder.record_value(MetricValue("c", 1, "", "counter", {}, request_id=f"id-{number}"))
    recorder.record_value(MetricValue("c", 1, "", "counter", {}, request_id=""))
    assert recorder.take_records() == [
        Record("c", "", "counter", {}, [1.0], request_id=request) for request in ("id-0", "id-1", "")
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "[METRICS]Took.Milliseconds:2.5|#ModelName:m,Level:Model|#hostname:h,1700000000,id",
            Record("Took", "Milliseconds", "gauge", OWN, [2.5], request_id="id"),
        ),
        (
            "[METRICS]Rows.Count:3|#|#type:COUNTER|#hostname:h,1",
            Record("Rows", "Count", "counter", {}, [3.0]),
        ),
        ("[METRICS]Rows.Count:-3|#|#type:COUNTER|#hostname:h,1", None),
        ("[METRICS]Rows.Count:1|#|#type:METER|#hostname:h,1", None),
        ("[METRICS]Rows.Count:1-2|#|#hostname:h,1", None),
        ("[METRICS] as it pleases", None),
    ],
)
def test_a_printed_metric_is_read_as_torchserve_reads_it(line, expected):
    assert read_printed_metric(line) == expected


class Lines:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.lines = []

    def add(self, name, lines):
        self.lines += [(name, re.sub(r"timestamp:\d{10}$", "timestamp:N", line)) for line in lines]


def told(writer, name):
    return [line for each, line in writer.lines if each == name]


END = f"|#hostname:{HOST},timestamp:N"


def test_log_mode_writes_lines_as_torchserves_logs_have_them():
    writer = Lines()
    metrics = Metrics("log", writer=writer)
    metrics.record_values("m", [Record("HandlerTime", "ms", "gauge", OWN, [2.5], request_id="id")])
    metrics.record_values("m", [Record("Odd", "unit", "counter", {"Level": "Error"}, [1.0])])
    assert told(writer, "MODEL_METRICS") == [
        f"HandlerTime.ms:2.5|#ModelName:m,Level:Model|#hostname:{HOST},requestID:id,timestamp:N",
        f"Odd.unit:1.0|#Level:Error|#hostname:{HOST},requestID:null,timestamp:N",
    ]
    statistics = metrics.statistics_for("m", "2.0")
    statistics.observe_overhead(0.0021)
    statistics.observe_request(0.25, 0.0005, ok=True, defaulted=True)
    call = metrics.calls.begin("127.0.0.1:1", "GET", b"/", "HTTP/1.1")
    call.status = 404
    call.end()
    assert told(writer, "TS_METRICS") == [
        f"WorkerThreadTime.Milliseconds:2.100|#Level:Host{END}",
        f"ts_inference_requests_total.Count:1.0|#model_name:m,model_version:default{END}",
        f"ts_inference_latency_microseconds.Microseconds:250000.000|#model_name:m,model_version:default{END}",
        f"ts_queue_latency_microseconds.Microseconds:500.000|#model_name:m,model_version:default{END}",
        f"QueueTime.Milliseconds:0.500|#Level:Host{END}",
        f"Requests4XX.Count:1.0|#Level:Host{END}",
    ]
    del writer.lines[:]
    metrics.log.write_host()
    assert re.fullmatch(
        r"CPUUtilization\.Percent:[\d.]+" + re.escape(f"|#Level:Host{END}"), writer.lines[0][1]
    )
    assert metrics.render_text() == b""


def test_both_modes_at_once_write_lines_and_fill_the_page():
    writer = Lines()
    metrics = Metrics("both", writer=writer)
    metrics.record_values("m", [counter()])
    metrics.statistics_for("m", "1.0").observe_request(0.1, 0.01, ok=True)
    assert told(writer, "MODEL_METRICS")
    assert any("ts_inference_requests_total" in line for line in told(writer, "TS_METRICS"))
    assert {"hits", "ts_inference_requests_total"} <= set(
        re.findall(r"# TYPE (\w+)", metrics.render_text().decode())
    )


def test_a_worker_that_loads_anew_has_its_load_time_written_once():
    writer = Lines()
    metrics = Metrics("log", writer=writer)
    times = [("W-9000-m_1.0", 1.5)]
    metrics.host.read_load_times(lambda: times)
    for _ in range(2):
        metrics.statistics_for("m", "1.0").note_load()
    times[:] = [("W-9000-m_1.0", 0.75)]
    metrics.statistics_for("m", "1.0").note_load()
    assert told(writer, "TS_METRICS") == [
        f"WorkerLoadTime.Milliseconds:{value}|#WorkerName:W-9000-m_1.0,Level:Host{END}"
        for value in (1500.0, 750.0)
    ]


def test_nothing_is_observed_where_nobody_wants_to_know():
    metrics = Metrics("prometheus", writer=Lines())
    assert metrics.calls is None
    assert not metrics.statistics_for("m", "1.0").observes_each


def test_legacy_mode_tells_torchserves_three_and_writes_the_rest():
    writer = Lines()
    metrics = Metrics("legacy", writer=writer)
    metrics.statistics_for("m", "1.0").observe_request(0.1, 0.01, ok=True, defaulted=True)
    metrics.record_values("m", [counter()])
    shown = re.findall(r"# TYPE (\w+)", metrics.render_text().decode())
    assert shown == [
        "ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds",
    ]  # fmt: skip
    assert [line.partition(".")[0] for _, line in writer.lines] == ["QueueTime", "hits"]
    assert metrics.render_text({"Requests2XX"}) == b""


def loaded(*names):
    """Metrics of a server on which these models are loaded, and the set of their names."""
    metrics, models = Metrics(system=False), set(names)
    metrics.read_versions(lambda: {(name, "1") for name in models})
    return metrics, models


def gauge(name="depth", value=1.0, **dimensions):
    return Record(name, "", "gauge", dimensions, [value])


def test_a_gauge_goes_away_with_its_model_and_a_counter_stays():
    metrics, models = loaded("m", "n")
    for model in ("m", "n"):
        metrics.record_values(model, [gauge(of=model), counter(of=model)])
    assert len(lines(metrics, "depth")) == 2
    models.remove("m")
    assert ['of="n"' in labels for labels, _ in lines(metrics, "depth")] == [True]
    assert len(lines(metrics, "hits")) == 2


def test_series_and_metrics_of_models_that_are_gone_make_room_for_others():
    metrics, models = loaded()
    for number in range(MAX_SERIES + 10):
        models.add(f"model-{number}")
        metrics.record_values(f"model-{number}", [counter(of=str(number)), gauge(f"name_{number}")])
        models.discard(f"model-{number}")
    models.add("last")
    metrics.record_values("last", [counter(of="last"), gauge("last_name")])
    text = metrics.render_text().decode()
    assert 'of="last"' in text
    assert "# TYPE last_name gauge" in text
    assert text.count("# TYPE name_") == 0
