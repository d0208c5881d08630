"""The service that protocols call, of a server that logs which models each call of a client asked."""

import functools
from collections.abc import Sequence

from mooring.core.errors import MooringError
from mooring.core.requests import InferenceRequest
from mooring.core.service import Done, InferenceService, ModelMetadata, ModelState, Outcome, Ticket
from mooring.observability.call_log import CallLog
from mooring.observability.calls import CURRENT, ObservedCall


def observe_service(service: InferenceService, calls: CallLog | None) -> InferenceService:
    """Return the service for the protocols: an observed one where there is a log of calls, else the service itself."""
    return service if calls is None else ObservedService(service, calls)


class ObservedService(InferenceService):
    """Notes in the current call what it asks of which model, and what the engine says of that. All else is the service's."""

    def __init__(self, service: InferenceService, calls: CallLog) -> None:
        self._service = service
        self._calls = calls
        self.overload_error = service.overload_error  # type: ignore[method-assign]

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        call = CURRENT.get()
        if call is None:
            return self._service.submit(request, done)
        call.requests += 1
        call.model, call.version, call.request_id = request.model, request.version, request.id
        return self._service.submit(request, functools.partial(self._pass_on, call, done))

    def _pass_on(self, call: ObservedCall, done: Done, outcome: Outcome) -> None:
        calls = self._calls
        if calls.model_call is not None:
            call.model_call, calls.model_call = calls.model_call, None
        if not isinstance(outcome, MooringError):
            call.version = outcome.version or call.version
        done(outcome)

    def ready(self, model: str = "", version: str = "") -> bool:
        return self._service.ready(model, version)

    def healthy(self) -> bool:
        return self._service.healthy()

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        return self._service.metadata(model, version)

    def models(self) -> Sequence[ModelState]:
        return self._service.models()
