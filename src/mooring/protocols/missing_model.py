"""A request for a model that is not there is told so, whatever else is wrong with it."""

from mooring.core.errors import InvalidInput, ModelNotFound, MooringError
from mooring.core.service import InferenceService
from mooring.protocols.status import Target


def prefer_not_found(service: InferenceService, error: MooringError, asked: Target) -> MooringError:
    """What to tell of a request that was refused before the service had it: that there is no such model, if so.

    Only asked of requests that are refused anyway, so that a good one pays nothing for it.
    """
    if isinstance(error, InvalidInput) and asked.model:
        try:
            service.ready(asked.model, asked.version)
        except ModelNotFound as missing:
            return missing
    return error
