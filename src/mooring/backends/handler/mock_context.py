"""The context of TorchServe's own unit tests, which users' tests of their handlers borrow."""

import sys
from typing import Any

from mooring.backends.handler.metrics import MetricsStore


class MockContext:
    """A context without a server: a manifest, the folder of the model, and metrics that go nowhere.

    ``explain`` has a test ask for explanations, as TorchServe's does: of every row but the first.
    """

    def __init__(
        self,
        model_pt_file: str | None = "model.pt",
        model_dir: str = "ts/torch_handler/unit_tests/models/tmp",
        model_file: str | None = "model.py",
        gpu_id: str | None = "0",
        model_name: str = "mnist",
    ) -> None:
        files = {"serializedFile": model_pt_file, "modelFile": model_file}
        self.manifest: dict[str, Any] = {"model": {key: name for key, name in files.items() if name}}
        self.system_properties: dict[str, Any] = {"model_dir": model_dir}
        torch = sys.modules.get("torch")  # a test that has not imported it has no use for a GPU
        if gpu_id and torch is not None and torch.cuda.is_available():
            self.system_properties["gpu_id"] = gpu_id
        self.explain = False
        self.metrics = MetricsStore(model_name=model_name)

    def get_request_header(self, idx: int, exp: str) -> bool:
        return bool(idx and exp and self.explain)
