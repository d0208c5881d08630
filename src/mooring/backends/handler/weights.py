"""Load weights from a model's folder, without running code in their file unless the configuration allows it."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from mooring.backends.handler.module_classes import import_file, list_classes_from_module


def load_weights(path: str, *, device: Any, allow_pickle: bool) -> Any:
    """Load what ``torch.save`` or safetensors stored.

    Raises ``RuntimeError`` for a file that holds more than tensors unless ``allow_pickle``: unpickling runs whatever
    code its author put there.
    """
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path, device=str(device))
    try:
        with warnings.catch_warnings():
            # Old files are common, and torch refuses those that it cannot read: its warning is of no use.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if not allow_pickle:
            first = str(error).strip().partition("\n")[0]
            raise RuntimeError(
                f"{Path(path).name} holds more than tensors and is not loaded, since unpickling it may run any "
                f"code; save a state_dict, or set 'allow_pickle: true' in model-config.yaml if you trust it ({first})"
            ) from error
    return torch.load(path, map_location=device, weights_only=False)


def load_eager(
    model_dir: str, model_file: str, weights_file: str, *, device: Any, allow_pickle: bool
) -> torch.nn.Module:
    """Load the model class of a Python file, with its weights. Raises ``RuntimeError`` or ``ValueError``."""
    path = Path(model_dir) / model_file
    if not path.is_file():
        raise RuntimeError(f"model file '{model_file}' is not in the archive")
    module = import_file(path)
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        names = ", ".join(each.__name__ for each in classes) or "none"
        raise ValueError(f"model file '{model_file}' must define exactly one class; it has {names}")
    model: torch.nn.Module = classes[0]()
    if weights_file:
        weights = load_weights(weights_file, device=device, allow_pickle=allow_pickle)
        if isinstance(weights, torch.nn.Module):
            return weights
        model.load_state_dict(weights)
    return model


def load_script(path: str, device: Any) -> Any:
    """Load a TorchScript model to its device."""
    with warnings.catch_warnings():
        # TorchScript is deprecated, and many archives hold it: a warning at each load is of no use.
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
        return torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]


def load_compiled_library(path: str, device: str) -> Any:
    """Load a model that AOTInductor compiled ahead of time: a package (.pt2), or a shared library of an older torch."""
    inductor = torch._inductor  # noqa: SLF001 - torch has no public name for it
    if path.endswith(".pt2"):
        return inductor.aoti_load_package(path)
    return torch._export.aot_load(path, device)  # noqa: SLF001


class OnnxSession:
    """An ONNX model that is called with a batch, as a torch model is."""

    def __init__(self, path: str, providers: list[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(path, sess_options=options, providers=providers)
        self._inputs = [each.name for each in self.session.get_inputs()]

    def __call__(self, data: Any) -> Any:
        """The first output as a tensor; ``data`` is a tensor for the first input, or a dict by name."""
        feed = data if isinstance(data, dict) else {self._inputs[0]: data}
        arrays = {
            name: value.cpu().numpy() if torch.is_tensor(value) else value for name, value in feed.items()
        }
        return torch.from_numpy(self.session.run(None, arrays)[0])

    def run(self, *arguments: Any) -> Any:
        """As the session of ONNX Runtime itself, which handlers of ONNX models call."""
        return self.session.run(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


def load_onnx(path: str, device: Any) -> OnnxSession:
    """Create a session of ONNX Runtime, on the GPU where the device is one."""
    accelerated = ["CUDAExecutionProvider"] if getattr(device, "type", "") == "cuda" else []
    return OnnxSession(path, [*accelerated, "CPUExecutionProvider"])


def setup_ort_session(model_pt_path: str, map_location: str) -> OnnxSession:
    """As ``load_onnx``, with the device by its name ("cuda" or "cpu")."""
    return load_onnx(model_pt_path, torch.device(map_location))
