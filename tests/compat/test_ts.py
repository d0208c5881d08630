"""The names users import from ``ts`` (docs/contracts/torchserve.md, section 3)."""

import ast
import subprocess
import sys

from mooring.backends.handler.entry import COMPAT

NAMES = {
    "ts": "__version__",
    "ts.version": "__version__",
    "ts.context": "Context RequestProcessor",
    "ts.service": "Service PredictionException emit_metrics",
    "ts.torch_handler.base_handler": "BaseHandler PROFILER_AVAILABLE",
    "ts.torch_handler.image_classifier": "ImageClassifier",
    "ts.torch_handler.object_detector": "ObjectDetector",
    "ts.torch_handler.image_segmenter": "ImageSegmenter",
    "ts.torch_handler.text_classifier": "TextClassifier",
    "ts.torch_handler.vision_handler": "VisionHandler",
    "ts.torch_handler.text_handler": "TextHandler",
    "ts.torch_handler.densenet_handler": "DenseNetHandler",
    "ts.torch_handler.contractions": "CONTRACTION_MAP",
    "ts.torch_handler.request_envelope.base": "BaseEnvelope",
    "ts.torch_handler.request_envelope.body": "BodyEnvelope",
    "ts.torch_handler.request_envelope.json": "JSONEnvelope",
    "ts.torch_handler.request_envelope.kserve": "KServeEnvelope",
    "ts.torch_handler.request_envelope.kservev2": "KServev2Envelope",
    "ts.handler_utils.utils": "send_intermediate_predict_response import_class create_predict_response",
    "ts.handler_utils.timer": "timed",
    "ts.handler_utils.micro_batching": "MicroBatching",
    "ts.handler_utils.hf_batch_streamer": "TextIteratorStreamerBatch",
    "ts.handler_utils.text_utils": "ngrams_iterator get_tokenizer",
    "ts.protocol.otf_message_handler": (
        "send_intermediate_predict_response create_predict_response create_load_model_response retrieve_msg"
    ),
    "ts.utils.util": (
        "PredictionException load_label_mapping map_class_to_label list_classes_from_module get_yaml_config "
        "check_valid_pt2_backend CLEANUP_REGEX PT2Backend deprecated"
    ),
    "ts.metrics.dimension": "Dimension",
    "ts.metrics.metric": "Metric",
    "ts.metrics.metrics_store": "MetricsStore",
    "ts.metrics.metric_type_enum": "MetricTypes",
    "ts.metrics.caching_metric": "CachingMetric",
    "ts.metrics.metric_cache_yaml_impl": "MetricsCacheYamlImpl",
    "ts.metrics.process_memory_metric": "check_process_mem_usage",
}


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_name_can_be_imported_in_a_worker():
    lines = [f"from {module} import {', '.join(names.split())}" for module, names in NAMES.items()]
    run("\n".join([f"import sys; sys.path.insert(0, {str(COMPAT)!r})", *lines]))


def test_handlers_that_do_not_use_torch_do_not_pay_for_it():
    light = [name for name in NAMES if not name.startswith("ts.torch_handler")]
    lines = [f"import sys; sys.path.insert(0, {str(COMPAT)!r})", *(f"import {name}" for name in light)]
    assert run("\n".join([*lines, "print('torch' in sys.modules, 'captum' in sys.modules)"])) == [
        "False",
        "False",
    ]


def test_ts_is_not_importable_without_a_worker_that_puts_it_on_its_path():
    assert run("import mooring, importlib.util; print(importlib.util.find_spec('ts'))") == ["None"]


def test_nothing_but_names_is_in_the_package():
    for path in (COMPAT / "ts").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            name = isinstance(node, ast.ImportFrom) and str(node.module).startswith("mooring.")
            version = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
            assert text or name or version, f"{path}: {ast.unparse(node)}"
