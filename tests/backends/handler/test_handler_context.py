"""What a handler sees of its requests and says to their clients beside the body (2.1, 2.5, 3)."""

import json

import pytest
from handler_kit import answer, instances, request

from mooring.backends.handler.context import Context, RequestProcessor
from mooring.backends.handler.metrics import Dimension, MetricsStore, MetricTypes
from mooring.core.errors import ModelRefused
from mooring.core.requests import Form, InferenceRequest, Operation

HEADERS = """
def handle(data, context):
    return None if data is None else [context.get_all_request_header(i) for i in range(len(data))]
"""


def headers_seen(model, one):
    return json.loads(answer(model.infer(one)[0]))


def test_headers_keep_the_clients_spelling_and_the_last_of_two_wins(load):
    sent = [(b"X-Custom", b"one"), (b"X-Custom", b"two"), (b"accept", b"*/*")]
    seen = headers_seen(load(HEADERS), request(b"x", "text/plain", headers=sent, path="any/more"))
    assert seen == {
        "body": {"content-type": "text/plain"},
        "X-Custom": "two",
        "accept": "*/*",
        "explain": "False",
        "url_path": "any/more",
    }


@pytest.mark.parametrize("name", [b"explain", b"describe", b"Describe", b"url_path"])
def test_a_client_cannot_set_what_the_server_says(load, name):
    seen = headers_seen(load(HEADERS), request(headers=[(name, b"True")]))
    assert seen == {"body": {"content-type": ""}, "explain": "False", "url_path": ""}


def test_an_explanation_and_a_description_are_told_by_a_header(load):
    model = load(HEADERS)
    assert headers_seen(model, request(operation=Operation.EXPLAIN))["explain"] == "True"
    assert headers_seen(model, request(operation=Operation.DESCRIBE))["describe"] == "True"


def test_asking_for_one_header_needs_no_other(load):
    source = """
        def handle(data, context):
            return data and [[context.get_request_header(i, "explain"), context.get_request_header(i, "Seq"),
                              context.get_request_header(i, "seq"), context.get_sequence_id(i)] for i in range(len(data))]
    """
    sent = [(b"Seq", b"7"), (b"ts_request_sequence_id", b"s")]
    assert headers_seen(load(source), request(headers=sent)) == ["False", "7", None, "s"]


def test_every_name_users_touch_is_there(load, tmp_path):
    source = """
        def handle(data, context):
            context.cache = getattr(context, "cache", 0) + 1
            return data and [{
                "name": context.model_name, "manifest": context.manifest, "yaml": context.model_yaml_config,
                "properties": context.system_properties, "ids": context.request_ids, "id": context.get_request_id(),
                "missing": context.get_request_id(1), "processors": len(context.request_processor),
                "criteria": context.stopping_criteria, "socket": context.cl_socket, "cache": context.cache,
            }]
    """
    model = load(source, manifest={"model": {"modelName": "m"}}, config={"a": 1}, max_batch_size=4)
    assert headers_seen(model, request(key="first")) == {
        "name": "m",
        "manifest": {"model": {"modelName": "m"}},
        "yaml": {"a": 1},
        "properties": {
            "model_dir": str(tmp_path.resolve()),
            "gpu_id": None,
            "batch_size": 4,
            "server_name": "MMS",
            "server_version": "0.12.0",
            "limit_max_image_pixels": True,
        },
        "ids": {"0": "first"},
        "id": "first",
        "missing": None,
        "processors": 1,
        "criteria": None,
        "socket": None,
        "cache": 2,
    }


def test_what_the_handler_sets_becomes_the_head_of_that_rows_response(load):
    source = """
        def handle(data, context):
            if data is None:
                return
            context.set_response_status(code=201, phrase="Made", idx=1)
            context.set_response_header(1, "X-One", "a")
            context.set_response_header(1, "x-one", "b")
            context.set_response_content_type(1, "text/csv")
            assert context.get_response_status(1) == (201, "Made")
            assert context.get_response_headers(1) == {"x-one": "b", "content-type": "text/csv"}
            return ["a", {"b": 1}]
    """
    plain, dressed = load(source, max_batch_size=2).infer(request(), request())
    assert plain.head is None
    head = dressed.head
    assert (head.status, head.reason, head.content_type, head.headers) == (
        201,
        "Made",
        "text/csv",
        [("x-one", "b")],
    )


def test_a_status_for_all_rows_leaves_the_content_type_of_json(load):
    source = "def handle(data, context):\n    data and context.set_all_response_status(202)\n    return data and [{}, 'x']\n"
    first, second = load(source, max_batch_size=2).infer(request(), request())
    assert (first.head.status, first.head.content_type) == (202, "application/json")
    assert (second.head.status, second.head.content_type) == (202, "")


def test_a_head_does_not_stay_for_the_next_request(load):
    source = """
        def handle(data, context):
            if data and data[0]["body"] == b"set":
                context.set_response_header(0, "X-A", "1")
            return data and ["x"]
    """
    model = load(source)
    assert model.infer(request(b"set"))[0].head.headers == [("X-A", "1")]
    assert model.infer(request(b"not"))[0].head is None


STREAM = """
    from ts.handler_utils.utils import send_intermediate_predict_response
    def handle(data, context):
        if data is None:
            return
        for word in ("one ", "two "):
            send_intermediate_predict_response([word] * len(data), context.request_ids, "ok", 200, context)
        return ["three"] * len(data)
"""


def test_pieces_go_out_while_the_handler_works_and_the_last_is_the_answer(load):
    model = load(STREAM, max_batch_size=2)
    outcomes = model.infer(request(), request())
    assert [(row, data) for row, data, _ in model.reply.pieces] == [
        (0, [b"one "]),
        (1, [b"one "]),
        (0, [b"two "]),
        (1, [b"two "]),
    ]
    assert [answer(outcome) for outcome in outcomes] == [b"three", b"three"]


def test_pieces_of_instances_reach_the_request_they_belong_to(load):
    model = load(STREAM, max_batch_size=3)
    model.infer(instances(b"1"), instances(b"2", b"3"))
    assert [(row, data) for row, data, _ in model.reply.pieces][:3] == [
        (0, [b'"one "']),
        (1, [b'"one "']),
        (1, [b'"one "']),
    ]


def test_a_piece_carries_the_head_the_handler_has_set(load):
    source = STREAM.replace(
        "for word in", "context.set_response_content_type(0, 'text/event-stream')\n        for word in"
    )
    model = load(source)
    model.infer(request())
    assert model.reply.pieces[0][2].content_type == "text/event-stream"


def test_an_error_sent_as_a_piece_ends_the_request(load):
    source = STREAM.replace('"ok", 200', '"enough", 503')
    with pytest.raises(ModelRefused, match=r"^enough$") as caught:
        load(source).body()
    assert caught.value.code == 503


def test_the_older_import_of_streaming_is_the_same_function():
    from mooring.compat.ts.handler_utils import utils
    from mooring.compat.ts.protocol import otf_message_handler

    assert utils.send_intermediate_predict_response is otf_message_handler.send_intermediate_predict_response


def test_metrics_reach_the_worker_with_the_models_dimensions(load):
    source = """
        from ts.metrics.dimension import Dimension
        from ts.metrics.metric_type_enum import MetricTypes
        def handle(data, context):
            metrics = context.metrics
            if data is None:
                metrics.add_counter("Loads", 1)
                metrics.add_metric_to_cache("Rows", "count", ["Kind"], MetricTypes.HISTOGRAM)
                return
            metrics.add_time("Took", 1.5, idx=0, unit="s", dimensions=[Dimension("Step", "one")])
            metrics.add_size("Size", 2)
            metrics.add_percent("Share", 50)
            metrics.add_error("Odd", "x")
            metrics.add_metric("Own", 3, "things", metric_type=MetricTypes.GAUGE)
            metrics.get_metric("Rows", MetricTypes.HISTOGRAM).add_or_update(4, ["text"])
            return ["x"]
    """
    model = load(source)
    model.body()
    own = {"ModelName": "m", "Level": "Model"}
    assert model.reply.metrics[:-1] == [
        ("Loads", 1, "count", "counter", own),
        ("Took", 1.5, "s", "gauge", {"Step": "one", **own}),
        ("Size", 2, "MB", "gauge", own),
        ("Share", 50, "percent", "gauge", own),
        ("Odd", 1, "", "counter", {"Level": "Error"}),
        ("Own", 3, "things", "gauge", own),
        ("Rows", 4, "count", "histogram", {"Kind": "text"}),
    ]
    name, value, unit, kind, dimensions = model.reply.metrics[-1]
    assert (name, unit, kind, dimensions) == ("PredictionTime", "ms", "gauge", own)
    assert value >= 0


def test_the_time_of_a_prediction_is_not_sent_for_every_request(load):
    model = load(HEADERS)
    for _ in range(10):
        model.body()
    assert [metric[0] for metric in model.reply.metrics] == ["PredictionTime"]


def test_metrics_with_wrong_units_are_refused():
    store = MetricsStore(model_name="m")
    with pytest.raises(ValueError, match="unknown unit 'MB'"):
        store.add_time("t", 1, unit="MB")
    with pytest.raises(ValueError, match="unknown unit 'ms'"):
        store.add_size("t", 1, unit="ms")
    with pytest.raises(KeyError):
        store.get_metric("x", MetricTypes.GAUGE)
    assert str(Dimension("a", 1)) == "a:1"


@pytest.mark.parametrize("unit", ["B", "kB", "KB", "MB", "GB"])
def test_a_size_takes_torchserves_units_and_ours(unit):
    store = MetricsStore(model_name="m")
    heard = []
    store.set_listener(lambda metric: heard.append(metric[:5]))
    store.add_size("Payload", 3, None, unit)
    assert heard == [("Payload", 3.0, unit, "gauge", {"ModelName": "m", "Level": "Model"})]


def test_values_without_a_dimension_each_are_left_out_with_a_line_in_the_log(caplog):
    store = MetricsStore(model_name="m")
    heard = []
    store.set_listener(lambda metric: heard.append(metric[:5]))
    store.add_metric_to_cache("x", "count", ["a"]).add_or_update(1, [])
    assert not heard
    assert "metric 'x' not recorded: its dimensions are ['a'], got the values []" in caplog.text


def test_what_was_recorded_can_be_had_by_its_name_and_fed_on():
    store = MetricsStore(model_name="m")
    heard = []
    store.set_listener(lambda metric: heard.append(metric[:5]))
    store.add_counter("Seen", 1, dimensions=[Dimension("Kind", "a")])
    store.add_time("Took", 5)
    store.get_metric("Seen").add_or_update(2, ["b", "m", "Model"])
    store.get_metric("Took", MetricTypes.GAUGE).update(7, "id", [Dimension("Step", "one")])
    assert heard[2:] == [
        ("Seen", 2.0, "count", "counter", {"Kind": "b", "ModelName": "m", "Level": "Model"}),
        ("Took", 7.0, "ms", "gauge", {"Step": "one"}),
    ]
    assert store.cache_keys() == ["counter:Seen", "gauge:Took"]


def test_where_metrics_are_lines_each_value_is_told_with_its_requests_in_torchserves_units():
    store = MetricsStore(model_name="m", as_lines=True)
    store.add_counter("Loads", 1)
    heard = []
    store.set_listener(lambda metric: heard.append((*metric[:5], metric.request_id)))
    store.request_ids = {0: "a", 1: "b", 2: "b"}
    store.add_counter("Rows", 3)
    store.add_time("Took", 2, 1)
    store.add_error("Odd", 1)
    for _ in range(2):
        store.record_time("PredictionTime", 0.0)
    own = {"ModelName": "m", "Level": "Model"}
    assert heard[:4] == [
        ("Loads", 1.0, "Count", "counter", own, ""),
        ("Rows", 3.0, "Count", "counter", own, "a,b"),
        ("Took", 2.0, "Milliseconds", "gauge", own, "b"),
        ("Odd", 1.0, "unit", "counter", {"Level": "Error"}, ""),
    ]
    assert [(each[0], each[2], each[5]) for each in heard[4:]] == [("PredictionTime", "ms", "a,b")] * 2


def test_a_handlers_own_model_name_and_level_are_kept():
    store = MetricsStore(model_name="m")
    heard = []
    store.set_listener(lambda metric: heard.append(metric[:5]))
    store.add_counter("Seen", 1, None, [Dimension("Level", "Step"), Dimension("ModelName", "inner")])
    assert heard == [("Seen", 1.0, "count", "counter", {"Level": "Step", "ModelName": "inner"})]


def test_a_context_made_by_hand_works_in_a_users_own_test():
    context = Context("m", "/models/m", {}, 1, None)
    context.request_processor = [RequestProcessor({"explain": "True"})]
    assert context.get_request_header(0, "explain") == "True"
    context.set_response_status(404, "No", 0)
    assert context.request_processor[0].get_response_status_code() == 404


def test_the_headers_of_a_body_less_description_name_no_field(load):
    one = InferenceRequest("m", "", "r", [], form=Form.BODY, operation=Operation.DESCRIBE)
    assert headers_seen(load(HEADERS), one) == {"explain": "False", "url_path": "", "describe": "True"}
