"""The names users import from ``ts`` (docs/contracts/torchserve.md, section 3)."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mooring.backends.handler.entry import COMPAT

NAMES = {
    "ts": "__version__",
    "ts.version": "__version__",
    "ts.context": "Context RequestProcessor",
    "ts.service": "Service PREDICTION_METRIC PredictionException emit_metrics",
    "ts.arg_parser": "ArgParser",
    "ts.async_service": "AsyncService",
    "ts.launcher": "start stop register_model register_model_with_params",
    "ts.llm_launcher": "main",
    "ts.model_loader": "ModelLoader ModelLoaderFactory TsModelLoader",
    "ts.model_service.model_service": "ModelService SingleNodeService",
    "ts.model_service_worker": "TorchModelServiceWorker",
    "ts.torch_handler.base_handler": "BaseHandler PROFILER_AVAILABLE setup_ort_session",
    "ts.torch_handler.distributed.base_deepspeed_handler": "BaseDeepSpeedHandler",
    "ts.torch_handler.distributed.base_neuronx_continuous_batching_handler": "BaseNeuronXContinuousBatchingHandler",
    "ts.torch_handler.distributed.base_neuronx_microbatching_handler": "BaseNeuronXMicroBatchingHandler",
    "ts.torch_handler.distributed.base_pippy_handler": "BasePippyHandler",
    "ts.torch_handler.trt_llm_handler": "TRTLLMHandler",
    "ts.torch_handler.unit_tests.test_utils.mock_context": "MockContext",
    "ts.torch_handler.vllm_handler": "VLLMHandler",
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
    "ts.handler_utils.distributed.deepspeed": "get_ds_engine",
    "ts.handler_utils.distributed.pt_pippy": "initialize_rpc_workers get_pipeline_driver",
    "ts.handler_utils.preprocess.dali": "get_dali_pipeline",
    "ts.handler_utils.timer": "timed",
    "ts.handler_utils.torch_export.load_model": "load_exported_model",
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
    "ts.metrics.metric_abstract": "MetricAbstract MetricUnit",
    "ts.metrics.metric_cache_abstract": "MetricCacheAbstract",
    "ts.metrics.metric_cache_errors": (
        "GeneralMetricsCacheError MetricsCacheIOError MetricsCacheKeyError MetricsCachePyYamlError MetricsCacheTypeError "
        "MetricsCacheValueError"
    ),
    "ts.metrics.metric_collector": "check_process_mem_usage",
    "ts.metrics.metric_encoder": "MetricEncoder",
    "ts.metrics.process_memory_metric": "check_process_mem_usage",
    "ts.metrics.system_metrics": "collect_all cpu_utilization memory_used system_metrics dimension",
    "ts.metrics.unit": "Units",
    "ts.utils.hf_utils": "download_model",
    "ts.utils.timeit_decorator": "timeit",
}
ROOT = Path(__file__).parents[2]


def run(script, *flags):
    done = subprocess.run(
        [sys.executable, *flags, "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_name_can_be_imported_in_a_worker():
    lines = [f"from {module} import {', '.join(names.split())}" for module, names in NAMES.items()]
    run("\n".join([f"import sys; sys.path.insert(0, {str(COMPAT)!r})", *lines]))


def test_handlers_that_do_not_use_torch_do_not_pay_for_it():
    heavy = ("ts.torch_handler", "ts.handler_utils.torch_export")
    light = [name for name in NAMES if not name.startswith(heavy) or "unit_tests" in name]
    lines = [f"import sys; sys.path.insert(0, {str(COMPAT)!r})", *(f"import {name}" for name in light)]
    assert run("\n".join([*lines, "print('torch' in sys.modules, 'captum' in sys.modules)"])) == [
        "False",
        "False",
    ]


@pytest.fixture
def site_packages(tmp_path):
    """A folder of installed packages with Mooring and the file that its wheel has beside it."""
    (tmp_path / "mooring").symlink_to(ROOT / "src" / "mooring")
    shutil.copy(ROOT / "src" / "mooring-torchserve.pth", tmp_path)
    return tmp_path


def test_an_installed_mooring_has_ts_for_tests_and_notebooks(site_packages):
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert '"src/mooring-torchserve.pth" = "mooring-torchserve.pth"' in pyproject
    script = (
        f"import site; site.addsitedir({str(site_packages)!r}); import ts; print(ts.__file__, ts.__version__)"
    )
    # Without the packages of this Python, in which Mooring may be installed, too.
    assert run(script, "-S") == [str(site_packages / "mooring/compat/ts/__init__.py"), "0.12.0"]


def test_an_installed_torchserve_comes_before_it(site_packages):
    real = site_packages / "ts"
    real.mkdir()
    (real / "__init__.py").touch()
    script = f"import site; site.addsitedir({str(site_packages)!r}); import ts; print(ts.__file__)"
    assert run(script, "-S") == [str(real / "__init__.py")]


def test_the_file_beside_the_package_runs_no_code():
    assert (ROOT / "src" / "mooring-torchserve.pth").read_text() == "mooring/compat\n"


def test_the_launcher_of_language_models_says_why_it_starts_none():
    done = subprocess.run(
        [sys.executable, "-m", "ts.llm_launcher", "--model_id", "x"],
        cwd=COMPAT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "vLLM or TensorRT-LLM, which Mooring does not run" in done.stderr


def test_nothing_but_names_is_in_the_package():
    for path in (COMPAT / "ts").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                continue
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            name = isinstance(node, ast.ImportFrom) and str(node.module).startswith("mooring.")
            version = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
            assert text or name or version, f"{path}: {ast.unparse(node)}"
