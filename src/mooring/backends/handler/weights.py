"""Load weights from a model's folder, without running code in their file unless the configuration allows it."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mooring.backends.handler.module_classes import import_file, list_classes_from_module

EXPORTED_ENTRIES = ("models/model.json", "serialized_exported_program.json")
"""How the names of entries end that only a program of torch.export has."""


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
    """Load a TorchScript model to its device. Raises ``RuntimeError``, which says what else the file holds."""
    try:
        return _load_script(path, device)
    except RuntimeError as error:
        remedy = _REMEDIES.get(detect_file_kind(path))
        if remedy is None:
            raise
        raise RuntimeError(f"{Path(path).name} is not TorchScript: {remedy}") from error


def _load_script(path: str, device: Any) -> Any:
    with warnings.catch_warnings():
        # TorchScript is deprecated, and many archives hold it: a warning at each load is of no use.
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated.*")
        return torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]


def detect_file_kind(path: str | Path) -> str:
    """Detect what a file holds: whole model, weights, exported program, safetensors; empty for any other file.

    None of its code runs. The file is read whole to tell weights from a whole model.
    """
    names = archive_entries(path)
    if any(name.endswith(EXPORTED_ENTRIES) for name in names):
        return "exported program"
    with Path(path).open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" and not names:
        return "safetensors"
    saved = any(name.rpartition("/")[2] == "data.pkl" for name in names)
    if any(name.endswith("/constants.pkl") for name in names) or not (saved or head[:1] == b"\x80"):
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError:
        return "whole model"
    except Exception:
        return ""
    return "weights"


def archive_entries(path: str | Path) -> list[str]:
    """The names of what is in a zip archive; none if it is another file."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


_NAME_CLASS = "name the Python file of its class with --model-file (modelFile in MANIFEST.json)"
_SCRIPT_IT = "or save the model as TorchScript, with torch.jit.script(model).save(FILE)"
_REMEDIES: Mapping[str, str] = {
    "whole model": (
        f"it is a whole model that torch.save pickled; {_NAME_CLASS} and set 'allow_pickle: true' in"
        f" model-config.yaml if you trust it, {_SCRIPT_IT}"
    ),
    "weights": f"it holds weights alone, which torch.save wrote; {_NAME_CLASS}, {_SCRIPT_IT}",
    "safetensors": f"it holds weights as safetensors; call it .safetensors and {_NAME_CLASS}",
    "exported program": (
        "it is a program of torch.export; serve the file itself, without a handler, or load it in a handler of"
        " your own, with torch.export.load"
    ),
}


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
