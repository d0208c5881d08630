"""What a server tells of itself and its models, out of the JSON of REST or the messages of gRPC.

Both say the same under the same names, so that one reader does: ``strict`` is off, because the JSON form of a
message writes 64-bit numbers as strings.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from mooring.client.result import IndexEntry, ServerMetadata
from mooring.core.errors import InvalidOutput
from mooring.core.service import BatchUsage, Duration, ModelMetadata, ModelUsage
from mooring.core.validation import explain_validation

T = TypeVar("T")

Document = Mapping[str, Any]


class _Times(msgspec.Struct):
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_infer: Duration = Duration()


class _Batch(msgspec.Struct):
    batch_size: int
    compute_infer: Duration = Duration()


class _Statistics(msgspec.Struct):
    name: str
    version: str = ""
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: _Times = msgspec.field(default_factory=_Times)
    batch_stats: list[_Batch] = []


class _AllStatistics(msgspec.Struct):
    model_stats: list[_Statistics] = []


def server_of(document: Document) -> ServerMetadata:
    """Read a server's metadata."""
    return _convert(document, ServerMetadata)


def metadata_of(document: Document) -> ModelMetadata:
    """Read a loaded model's metadata."""
    return _convert(document, ModelMetadata)


def index_of(entries: Sequence[Any]) -> list[IndexEntry]:
    """Read the repository's index."""
    return _convert(entries, list[IndexEntry])


def usage_of(document: Document) -> list[ModelUsage]:
    """Read the statistics of models."""
    return [_model_usage(each) for each in _convert(document, _AllStatistics).model_stats]


def _model_usage(statistics: _Statistics) -> ModelUsage:
    times = statistics.inference_stats
    return ModelUsage(
        name=statistics.name,
        version=statistics.version,
        last_inference=statistics.last_inference,
        inferences=statistics.inference_count,
        executions=statistics.execution_count,
        success=times.success,
        fail=times.fail,
        queue=times.queue,
        infer=times.compute_infer,
        batches=[BatchUsage(batch.batch_size, batch.compute_infer) for batch in statistics.batch_stats],
    )


def _convert(document: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(document, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidOutput(f"the server's answer cannot be read: {explain_validation(error)}") from None
