"""The base classes of ``ts.model_service``, which come from the server before TorchServe (MMS)."""

import ast
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any


class ModelService(ABC):
    """A model with a signature file, which says under which name a request has its data."""

    def __init__(
        self, model_name: str, model_dir: str, manifest: dict[str, Any], gpu: int | None = None
    ) -> None:
        self.ctx: Any = None
        self._context: Any = None
        self._signature: dict[str, Any] = {}

    def initialize(self, context: Any) -> None:
        """Read the signature file. Raises ``ValueError`` where the archive has none."""
        self._context = context
        name = ((context.manifest or {}).get("Model") or {}).get("Signature")
        path = Path(context.system_properties["model_dir"]) / (name or "signature.json")
        if not path.is_file():
            raise ValueError(f"the signature file '{path.name}' is not in the archive")
        self._signature = json.loads(path.read_text())

    @abstractmethod
    def inference(self, data: list[Any]) -> Any: ...

    @abstractmethod
    def ping(self) -> Any: ...

    def signature(self) -> dict[str, Any]:
        return self._signature

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        """Return what ``inference`` makes of the first request."""
        row = data[0]
        names = (self._signature["inputs"][0]["data_name"], "body", "data")
        value = next((row[name] for name in names if row.get(name) is not None), None)
        if self._signature["input_type"] == "application/json" and isinstance(value, (bytes, bytearray)):
            value = ast.literal_eval(value.decode())
        result = self.inference([value])
        return result if isinstance(result, list) else [result]


class SingleNodeService(ModelService):
    """One whose inference has three steps, of which a subclass has at least the middle one."""

    def inference(self, data: list[Any]) -> Any:
        return self._postprocess(self._inference(self._preprocess(data)))

    @abstractmethod
    def _inference(self, data: Any) -> Any: ...

    def _preprocess(self, data: Any) -> Any:
        return data

    def _postprocess(self, data: Any) -> Any:
        return data
