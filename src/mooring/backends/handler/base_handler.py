"""BaseHandler: load a model from its archive, then preprocess, infer and postprocess."""

import importlib.util
import inspect
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from mooring.backends.handler.compiling import compile_model, pt2_settings
from mooring.backends.handler.context import Context
from mooring.backends.handler.insights import ConfiguredInsights, target_of
from mooring.backends.handler.labels import load_label_mapping
from mooring.backends.handler.timer import timed
from mooring.backends.handler.weights import (
    OnnxSession,
    load_compiled_library,
    load_eager,
    load_onnx,
    load_script,
)

PROFILER_AVAILABLE = True


class BaseHandler:
    """The base class of most handlers. Every step may be overridden, and all attributes are the subclass's to use.

    ``initialize`` picks the device and loads whatever the archive holds, by the suffix of its serialized file.
    """

    # What explains in place of a handler's own ways, where model-config.yaml says so.
    _insights: ConfiguredInsights | None = None

    _has_coroutine_steps = False  # whether any of its steps is a coroutine function

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._has_coroutine_steps = any(
            map(inspect.iscoroutinefunction, (cls.preprocess, cls.inference, cls.postprocess))
        )

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, Any] | None = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.model_pt_path: str | None = None
        self.manifest: dict[str, Any] | None = None
        self.map_location: Any = None
        self.explain = False
        self.target: Any = 0
        self.profiler_args: dict[str, Any] = {}
        self.model_yaml_config: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Load the model. Raises ``RuntimeError`` when the archive holds none."""
        self.context = context
        # The contexts of users' own tests lack it.
        self.model_yaml_config = getattr(context, "model_yaml_config", None) or {}
        properties = context.system_properties
        self.map_location, self.device = _choose_devices(properties.get("gpu_id"))
        self.manifest = context.manifest
        model_dir = properties["model_dir"]
        manifest_model = (self.manifest or {}).get("model", {})
        serialized = manifest_model.get("serializedFile") or ""
        self.model_pt_path = str(Path(model_dir) / serialized) if serialized else None
        self.model = self._load_archived_model(model_dir, manifest_model.get("modelFile") or "")
        settings = pt2_settings(self.model_yaml_config)
        if settings and isinstance(self.model, torch.nn.Module):
            self.model = compile_model(self.model, settings)
        self.mapping = load_label_mapping(str(Path(model_dir) / "index_to_name.json"))
        self.initialized = True

    def _load_archived_model(self, model_dir: str, model_file: str) -> Any:
        path = self.model_pt_path or ""
        if model_file:
            model = self._load_pickled_model(model_dir, model_file, path)
            model.to(self.device)
            model.eval()
            return model
        if path.endswith(".pt"):
            model = self._load_torchscript_model(path)
            model.eval()
            return model
        if path.endswith(".onnx"):
            return load_onnx(path, self.device)
        if path.endswith((".so", ".pt2")):
            return self._load_torch_export_aot_compile(path)
        raise RuntimeError(
            "No model weights could be loaded: the archive needs a model file (--model-file) or a serialized file "
            "ending in .pt, .onnx, .so or .pt2"
        )

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return load_script(model_pt_path, self.device)

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str) -> Any:
        return load_eager(
            model_dir,
            model_file,
            model_pt_path,
            device=self.device,
            allow_pickle=bool(self.model_yaml_config.get("allow_pickle")),
        )

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        return load_compiled_library(model_so_path, str(self.map_location))

    @timed
    def preprocess(self, data: Any) -> Any:
        """Return the rows as one tensor; rows that are dicts need a preprocessing of their own."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the model with the batch, without gradients."""
        if isinstance(self.model, OnnxSession):
            return self.model(data)
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> Any:
        """One item per row."""
        return data.tolist()

    def handle(self, data: Any, context: Context) -> Any:
        """One result per row: a prediction, or what else the request's headers ask for."""
        started = time.perf_counter()
        self.context = context
        if self._is_describe():
            return [self.describe_handle()]
        if self._has_coroutine_steps:
            return self._run_steps_async(data)
        if os.environ.get("ENABLE_TORCH_PROFILER"):  # here: handlers switch it on in their own initialize
            output, _ = self._infer_with_profiler(data)
        else:
            output = self._run_steps(data)
        record_time = getattr(context.metrics, "record_time", None)
        if record_time is not None:
            record_time("HandlerTime", started)
        return output

    def _run_steps(self, data: Any) -> Any:
        prepared = self.preprocess(data)
        if self._is_explain():
            return self.explain_handle(prepared, data)
        return self.postprocess(self.inference(prepared))

    async def _run_steps_async(self, data: Any) -> Any:
        """As ``_run_steps``, where any of the steps is a coroutine function."""
        prepared = await _await_value(self.preprocess(data))
        if self._is_explain():
            return await _await_value(self.explain_handle(prepared, data))
        return await _await_value(self.postprocess(await _await_value(self.inference(prepared))))

    def _infer_with_profiler(self, data: Any) -> tuple[Any, Any]:
        """The answer and the profile, whose trace lies in ``pytorch_profiler/<model>`` of the temporary folder."""
        profiler = torch.profiler
        arguments = dict(self.profiler_args)
        if not arguments:
            arguments["activities"] = [profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                arguments["activities"].append(profiler.ProfilerActivity.CUDA)
            arguments["record_shapes"] = True
        if "on_trace_ready" not in arguments:
            name = getattr(self.context, "model_name", "") or (self.manifest or {}).get("model", {}).get(
                "modelName"
            )
            folder = Path(tempfile.gettempdir()) / "pytorch_profiler" / (name or "model")
            arguments["on_trace_ready"] = profiler.tensorboard_trace_handler(str(folder))
        with profiler.profile(**arguments) as profile:
            output = self._run_steps(data)
        return output, profile

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Return what ``get_insights`` makes of the row at hand; explanations come one row at a time.

        ``target``, the class to explain, stands beside ``data``, as a form field or in JSON. Where nobody names it, it
        is the first one, as in TorchServe; with ``explain`` in model-config.yaml it is what that says, else the
        predicted one. Raises ``InvalidInput`` for text that names no class.
        """
        row = raw_data[0]
        inputs = row.get("data") or row.get("body") if isinstance(row, dict) else row
        self.target = target_of(row, self.mapping)
        if self.target is None and self._insights is None:
            self.target = 0
        return self.get_insights(data_preprocess, inputs, self.target)  # type: ignore[attr-defined]

    def describe_handle(self) -> Any:
        """The model's own metadata, for ``GET /models/{name}?customized=true``; none by default."""

    def get_device(self) -> Any:
        return self.device

    def _is_explain(self) -> bool:
        return bool(self.context and self.context.get_request_header(0, "explain") == "True")

    def _is_describe(self) -> bool:
        return bool(self.context and self.context.get_request_header(0, "describe") == "True")


def _choose_devices(gpu: Any) -> tuple[str, torch.device]:
    """Return where weights are loaded to and where the model runs: the given accelerator, else the CPU."""
    if gpu is not None:
        if torch.cuda.is_available():
            return "cuda", torch.device(f"cuda:{gpu}")
        if os.environ.get("TS_IPEX_GPU_ENABLE", "").lower() == "true" and torch.xpu.is_available():
            return "xpu", torch.device(f"xpu:{gpu}")
        if torch.backends.mps.is_available():
            return "mps", torch.device("mps")
    if importlib.util.find_spec("torch_xla") is not None:
        import torch_xla.core.xla_model as xm  # type: ignore[import-not-found]

        return "xla", xm.xla_device()
    return "cpu", torch.device("cpu")


async def _await_value(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
