"""What the page of one version shows: its description, what it takes and gives, and requests to try."""

from collections.abc import Callable
from typing import Any

import msgspec

from mooring.core.errors import VersionNotFound
from mooring.core.example_requests import ExampleRequest, example_v1_body, example_v2_body
from mooring.core.example_values import example_value
from mooring.core.service import InferenceService, ModelAdministration, ModelMetadata, ValueDescription
from mooring.core.tensors import TensorSpec
from mooring.protocols import value_operations

FindExample = Callable[[str, str], ExampleRequest]
"""Returns a request for /predictions, of a version by its name and number."""

# What a handler reads, by the placeholder that stands for the file.
_FILES = {"IMAGE.png": "image/png", "TEXT.txt": "text/plain"}
_JSON = "application/json"


async def describe_version(
    service: InferenceService,
    models: ModelAdministration,
    find_example: FindExample,
    name: str,
    version: str,
) -> dict[str, Any]:
    """Return all that is known of a version. Raises ``ModelNotFound`` or ``VersionNotFound``."""
    described = next((each for each in await models.describe(name, version) if each.version == version), None)
    if described is None:  # "all" is what describe takes for every version
        raise VersionNotFound(f"model '{name}' has no version '{version}'", model=name, version=version)
    (usage,) = await models.usage(name, version)
    config = await models.config(name, version)
    metadata = ModelMetadata(name, [version], config.platform, config.inputs, config.outputs)
    if described.state == "READY":
        metadata = service.metadata(name, version)
    values = metadata.values
    description = msgspec.to_builtins(described, enc_hook=str)
    labels = description.pop("labels")
    return {
        "description": description
        | {"platform": config.platform, "backend": config.backend, "max_batch_size": config.max_batch_size},
        "usage": msgspec.to_builtins(usage),
        "inputs": [_describe_tensor(each) for each in metadata.inputs],
        "outputs": [_describe_tensor(each) for each in metadata.outputs],
        "values": msgspec.structs.asdict(values) if values is not None else None,
        "streams": config.decoupled or (values is not None and values.streams),
        "examples": _find_examples(metadata, find_example(name, version)),
        "has_explanations": described.explains,
        "sequences": described.sequences is not None,
        "labels": labels,
    }


def _describe_tensor(spec: TensorSpec) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": None if spec.unknown_rank else spec.shape,
    }
    if spec.optional:
        found["optional"] = True
    if spec.content_type:
        found["content_type"] = spec.content_type
    if spec.labels:
        found["labels"] = spec.labels
    return found


def _find_examples(metadata: ModelMetadata, example: ExampleRequest) -> dict[str, Any]:
    """Return a body for each protocol; None where there is no example, as for a handler that reads what only it knows."""
    predictions = None
    if example.body:
        predictions = {"content_type": _JSON, "body": example.body}
    elif example.file in _FILES:
        predictions = {"content_type": _FILES[example.file], "body": ""}
    if metadata.values is not None:
        v2 = value_operations.example_v2_body(metadata)
        return {"v2": v2, "predictions": predictions, "v1": _example_instance(metadata.values)}
    inputs = metadata.inputs
    return {"v2": example_v2_body(inputs), "predictions": predictions, "v1": example_v1_body(inputs)}


def _example_instance(values: ValueDescription) -> dict[str, Any] | None:
    try:
        return {"instances": [example_value(values.request)]}
    except ValueError:
        return None
