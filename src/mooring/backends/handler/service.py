"""A handler outside of the server, as TorchServe's users call it in their own tests."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mooring.backends.handler.context import Context, RequestProcessor
from mooring.backends.handler.entry import Handle
from mooring.backends.handler.faults import PredictionException, fault_of
from mooring.backends.handler.legacy import get_yaml_config
from mooring.backends.handler.metrics import MetricsStore
from mooring.backends.handler.worker_wire import create_predict_response
from mooring.core.errors import OutOfResources

PREDICTION_METRIC = "PredictionTime"

_log = logging.getLogger(__name__)


class Service:
    """A model's name, folder and manifest beside its entry point, with the context the handler is given."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        entry_point: Handle,
        gpu: int | None = None,
        batch_size: int = 1,
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> None:
        config_file = ((manifest or {}).get("model") or {}).get("configFile")
        self._context = Context(
            model_name,
            model_dir,
            manifest or {},
            batch_size,
            gpu,
            limit_max_image_pixels=limit_max_image_pixels,
            metrics=metrics_cache or MetricsStore(model_name=model_name),
            model_yaml_config=get_yaml_config(str(Path(model_dir) / config_file)) if config_file else {},
        )
        self._entry_point = entry_point

    @property
    def context(self) -> Context:
        return self._context

    def set_cl_socket(self, cl_socket: Any) -> None:
        self.context.cl_socket = cl_socket

    def predict(self, batch: Sequence[Any]) -> Any:
        """Return what the handler returns for these rows, and raise what it raises.

        Rows in the form of TorchServe's frontend (dicts with ``requestId`` and ``parameters``) are answered in that of
        its workers: bytes, also for an error.
        """
        if batch and isinstance(batch[0], dict) and "requestId" in batch[0]:
            return self._answer_frontend(batch)
        self.context.request_ids = {index: str(index) for index in range(len(batch))}
        return self._entry_point(list(batch), self.context)

    def _answer_frontend(self, batch: Sequence[dict[str, Any]]) -> bytearray:
        processors, rows, ids = self.retrieve_data_for_inference(batch)
        self.context.request_ids = ids
        self.context.request_processor = processors
        try:
            returned = self._entry_point(rows, self.context)
        except PredictionException as error:
            return create_predict_response(None, ids, error.message, error.error_code)
        except Exception as error:  # the handler's own code
            if isinstance(fault_of(error), OutOfResources):
                return create_predict_response(None, ids, "Out of resources", 507)
            return create_predict_response(None, ids, "Prediction failed", 503)
        if not isinstance(returned, list):
            return create_predict_response(None, ids, "Invalid model predict output", 503)
        if len(returned) != len(rows):
            return create_predict_response(None, ids, "number of batch response mismatched", 503)
        return create_predict_response(returned, ids, "Prediction success", 200, context=self.context)

    @staticmethod
    def retrieve_data_for_inference(
        batch: Sequence[dict[str, Any]] | None,
    ) -> tuple[list[RequestProcessor], list[dict[str, Any]], dict[int, str]]:
        """Return the headers, the fields and the id of every request of TorchServe's frontend."""
        if batch is None:
            raise ValueError("Received invalid inputs")
        processors, rows, ids = [], [], {}
        for index, request in enumerate(batch):
            ids[index] = request["requestId"].decode()
            rows.append({each["name"]: each["value"] for each in request["parameters"]})
            headers: dict[str, Any] = {
                each["name"]: {"content-type": each["contentType"]} for each in request["parameters"]
            }
            for header in request.get("headers") or ():
                headers[header["name"].decode()] = header["value"].decode()
            processors.append(RequestProcessor(headers))
        return processors, rows, ids


def emit_metrics(metrics: Any) -> None:
    """Log metrics as TorchServe's logs hold them, a line each."""
    for metric in metrics if isinstance(metrics, list) else metrics.values():
        _log.info("[METRICS]%s", metric)
