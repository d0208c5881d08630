"""The module that is compiled in Triton, and that a few models import beside ``triton_python_backend_utils``."""

from mooring.backends.triton_python.errors import TritonError, TritonModelException
from mooring.backends.triton_python.logger import Logger
from mooring.backends.triton_python.messages import (
    InferenceRequest,
    InferenceResponse,
    InferenceResponseSender,
    PreferredMemory,
)
from mooring.backends.triton_python.metrics import MetricFamily
from mooring.backends.triton_python.tensor import Tensor

__all__ = [
    "InferenceRequest",
    "InferenceResponse",
    "InferenceResponseSender",
    "Logger",
    "MetricFamily",
    "PreferredMemory",
    "Tensor",
    "TritonError",
    "TritonModelException",
]
