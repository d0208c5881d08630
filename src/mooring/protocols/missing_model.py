"""404 before 400: a request for a model that does not exist is answered 404, whatever else is wrong with it."""

from mooring.core.errors import InvalidInput, ModelNotFound, MooringError
from mooring.core.service import InferenceService
from mooring.protocols.status import Target


def prefer_not_found(service: InferenceService, error: MooringError, target: Target) -> MooringError:
    """Return ``ModelNotFound`` in place of an ``InvalidInput`` if the model does not exist, else the error itself.

    It is called only for requests that are refused anyway, so that valid ones pay nothing for it.
    """
    if isinstance(error, InvalidInput) and target.model:
        try:
            service.ready(target.model, target.version)
        except ModelNotFound as missing:
            return missing
    return error
