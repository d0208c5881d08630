"""The smaller names of ``ts`` do what users' handlers and their tests rely on."""

import io
import json
import os
import queue
import re

import pytest

from mooring.backends.handler.batch_streamer import TextIteratorStreamerBatch
from mooring.backends.handler.compiling import PT2Backend, check_valid_pt2_backend
from mooring.backends.handler.context import Context
from mooring.backends.handler.envelopes import JSONEnvelope, KServeEnvelope, KServev2Envelope
from mooring.backends.handler.labels import load_label_mapping, map_class_to_label
from mooring.backends.handler.legacy import deprecated, get_yaml_config
from mooring.backends.handler.metrics import Dimension, Metric, MetricTypes
from mooring.backends.handler.metrics_yaml import MetricsCacheYamlImpl
from mooring.backends.handler.module_classes import import_class
from mooring.backends.handler.process_memory import check_process_mem_usage
from mooring.backends.handler.service import Service, emit_metrics


def test_classes_are_labeled_by_name_or_by_number():
    assert map_class_to_label([[0.1, 0.9]]) == [{"0": 0.1, "1": 0.9}]
    assert map_class_to_label([[0.9], [0.8]], {"3": "cat", "4": "dog"}, [[3], [4]]) == [
        {"cat": 0.9},
        {"dog": 0.8},
    ]
    assert map_class_to_label([]) == []
    with pytest.raises(KeyError):
        map_class_to_label([[0.1]], {"1": "cat"})


def test_a_mapping_that_is_no_object_is_refused_and_none_is_none(tmp_path):
    path = tmp_path / "index_to_name.json"
    assert load_label_mapping(str(path)) is None
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"index_to_name\.json is not a JSON object"):
        load_label_mapping(str(path))


def test_a_class_is_imported_by_its_dotted_name_or_as_the_only_one_of_a_module():
    assert import_class("json.decoder.JSONDecoder") is json.JSONDecoder
    assert import_class("encoder", "json") is json.JSONEncoder
    with pytest.raises(ImportError, match="defines 0 classes"):
        import_class("json.scanner")


def test_yaml_is_read_without_running_it(tmp_path):
    path = tmp_path / "c.yaml"
    assert get_yaml_config(str(path)) == {}
    path.write_text("a: [1, 2]")
    assert get_yaml_config(str(path)) == {"a": [1, 2]}
    path.write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(Exception, match="could not determine a constructor"):
        get_yaml_config(str(path))


def test_calling_what_is_deprecated_warns_with_its_replacement():
    @deprecated(version="2.0", replacement="new_name")
    def old_name():
        return 1

    with pytest.warns(
        DeprecationWarning, match=r"old_name is deprecated and goes away in 2\.0; use new_name"
    ):
        assert old_name() == 1


def test_the_compilers_torch_has_are_valid():
    assert check_valid_pt2_backend(PT2Backend.INDUCTOR)
    assert not check_valid_pt2_backend("nonsense")


def test_metrics_declared_in_a_file_are_known(tmp_path):
    path = tmp_path / "metrics.yaml"
    path.write_text("model_metrics:\n  gauge:\n    - {name: Heat, unit: K, dimensions: [Where]}\n")
    store = MetricsCacheYamlImpl(str(path))
    store.initialize_cache()
    heard = []
    store.set_listener(lambda metric: heard.append(metric[:5]))
    store.get_metric("Heat", MetricTypes.GAUGE).update(3, "id", [Dimension("Where", "core")])
    assert heard == [("Heat", 3.0, "K", "gauge", {"Where": "core"})]


def test_memory_of_processes_is_printed_and_one_that_is_gone_has_none(capsys):
    check_process_mem_usage(io.StringIO(f"{os.getpid()},999999999\n"))
    mine, gone = capsys.readouterr().out.split()
    assert int(mine.partition(":")[2]) > 1_000_000
    assert gone == "999999999:0"


def test_a_service_calls_a_handler_with_a_context(caplog):
    service = Service("m", "/nowhere", {"model": {}}, lambda data, context: [context.model_name] * len(data))
    assert service.predict([{}, {}]) == ["m", "m"]
    assert service.context.get_request_id(1) == "1"
    with caplog.at_level("INFO"):
        emit_metrics([Metric("Took", 2, "ms", [Dimension("Level", "Model")])])
    (message,) = caplog.messages
    assert re.fullmatch(r"\[METRICS]Took\.Milliseconds:2\|#Level:Model\|#hostname:\S+,\d+", message)


@pytest.fixture
def context():
    made = Context("m", "/nowhere", {"model": {"modelVersion": "3"}})
    from mooring.backends.handler.context import RequestProcessor

    made.request_processor = [RequestProcessor({"explain": "False"})] * 2
    made.request_ids = {0: "a", 1: "b"}
    return made


def test_an_envelope_wraps_a_function_by_hand_too(context):
    bodies = [{"body": {"instances": [1, 2]}}, {"body": b'{"instances": [3]}'}]
    double = lambda data, _: [each * 2 for each in data]  # noqa: E731
    assert KServeEnvelope(double).handle(bodies, context) == [{"predictions": [2, 4]}, {"predictions": [6]}]
    assert JSONEnvelope(double).handle(bodies, context) == ['{"predictions": [2, 4]}', '{"predictions": [6]}']
    inputs = [{"body": {"inputs": [{"name": "x", "shape": [2], "data": [1, 2]}]}}]
    (answer,) = KServev2Envelope(lambda data, _: [data[0]["data"]]).handle(inputs, context)
    assert answer["id"] == "a"
    assert answer["model_version"] == "3"
    assert answer["outputs"] == [{"name": "x", "datatype": "INT64", "data": [1, 2], "shape": [2]}]


class Words:
    """A tokenizer of whole words."""

    words = ("", "Hello ", "big ", "wide ", "world", "\n", "你", "好")

    def decode(self, tokens, **_):
        return "".join(self.words[token] for token in tokens)


class Rows:
    """What a model hands to a streamer."""

    def __init__(self, rows):
        self.rows = rows
        self.shape = (len(rows),)

    def tolist(self):
        return self.rows


def test_a_streamer_gives_every_sequences_new_words_as_they_are_complete():
    streamer = TextIteratorStreamerBatch(Words(), batch_size=2, skip_prompt=True, timeout=1)
    streamer.put(Rows([[1, 1], [1, 1]]))
    streamer.put(Rows([1, 6]))
    streamer.put(Rows([2, 7]))
    streamer.put(Rows([4, 5]))
    streamer.end()
    assert list(streamer) == [["Hello ", "你"], ["big ", "好"], ["", "\n"], ["world", ""]]


def test_a_streamer_shows_prompts_unless_told_not_to_and_gives_up_waiting_in_time():
    streamer = TextIteratorStreamerBatch(Words(), batch_size=1, timeout=0.01)
    streamer.put(Rows([[1, 2, 4]]))
    assert next(streamer) == ["Hello big "]
    with pytest.raises(queue.Empty):
        next(streamer)
    with pytest.raises(ValueError, match="for 1 sequences, got 2"):
        streamer.put(Rows([1, 2]))
