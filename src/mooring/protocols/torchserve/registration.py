"""The parameters of TorchServe's management API: those of the query, or a JSON body with the same names."""

from collections.abc import Mapping
from urllib.parse import parse_qs

import msgspec

from mooring.core.buffers import Buffer, view_of
from mooring.core.errors import InvalidInput
from mooring.core.service import Registration, WorkflowRegistration
from mooring.core.validation import explain_decoding
from mooring.web.http1 import Exchange

# More processes than any machine has a use for: a typing error must not bring the machine down.
MAX_WORKERS = 1024


class _Parameters(msgspec.Struct):
    url: str | None = None
    model_name: str | None = None
    workflow_name: str | None = None
    handler: str | None = None
    runtime: str | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    initial_workers: int | None = None
    synchronous: bool | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None


_decoder = msgspec.json.Decoder(_Parameters, strict=False)


def parse_query(query: bytes) -> dict[str, str]:
    """Return the parameters of a query; of equal names the first one, as TorchServe does."""
    return {
        name: values[0] for name, values in parse_qs(query.decode("latin-1"), keep_blank_values=True).items()
    }


def int_parameter(texts: Mapping[str, str], name: str, default: int) -> int:
    """Return a parameter as an integer; the default where it is not there or empty. Raises ``InvalidInput``."""
    text = texts.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"{name} must be a whole number, not '{text[:40]}'.") from None


def bool_parameter(texts: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Return a parameter as a boolean; any value but "true" is false, as in Java."""
    return texts[name].lower() == "true" if name in texts else default


def read_registration(exchange: Exchange, query: bytes) -> tuple[Registration, bool]:
    """Return the registration in a request, and whether the client waits for the workers. Raises ``InvalidInput``."""
    parameters = _read_parameters(exchange, query)
    return _to_registration(parameters), parameters.synchronous is not False


def read_workflow_registration(exchange: Exchange, query: bytes) -> WorkflowRegistration:
    """Return the workflow registration in a request. Raises ``InvalidInput``."""
    parameters = _read_parameters(exchange, query)
    if parameters.url is None:
        raise InvalidInput("Parameter url is required.")
    return WorkflowRegistration(
        url=parameters.url,
        name=parameters.workflow_name or "",
        response_timeout=_at_least(1, "response_timeout", parameters.response_timeout),
        startup_timeout=_at_least(1, "startup_timeout", parameters.startup_timeout),
    )


def registration_from_texts(texts: Mapping[str, str]) -> Registration:
    """Return the registration in these parameters. Raises ``InvalidInput``."""
    return _to_registration(_from_query(texts))


def _to_registration(parameters: _Parameters) -> Registration:
    if parameters.url is None:
        raise InvalidInput("Parameter url is required.")
    if (parameters.initial_workers or 0) > MAX_WORKERS:
        raise InvalidInput(f"initial_workers cannot be more than {MAX_WORKERS}.")
    return Registration(
        url=parameters.url,
        name=parameters.model_name or "",
        handler=parameters.handler or "",
        runtime=parameters.runtime or "",
        batch_size=_at_least(1, "batch_size", parameters.batch_size),
        max_delay=_to_seconds(_at_least(0, "max_batch_delay", parameters.max_batch_delay)),
        workers=_at_least(0, "initial_workers", parameters.initial_workers),
        response_timeout=_at_least(1, "response_timeout", parameters.response_timeout),
        startup_timeout=_at_least(1, "startup_timeout", parameters.startup_timeout),
    )


def _read_parameters(exchange: Exchange, query: bytes) -> _Parameters:
    """Return the parameters of the query, overridden by those of a JSON body."""
    parameters = _from_query(parse_query(query))
    body = exchange.take_body()
    text = bytes(view_of(body))
    if isinstance(body, Buffer):
        body.release()
    if (exchange.header(b"content-type") or b"").lower().startswith(b"application/json") and text.strip():
        parameters = _override(_from_json(text), parameters)
    for name in ("response_timeout", "startup_timeout"):
        if getattr(parameters, name) == 0:  # gRPC has 0 for what is not set, and no other way to say it
            raise InvalidInput(f"{name} must be at least 1 second.")
    return parameters


def _from_query(texts: Mapping[str, str]) -> _Parameters:
    body = _Parameters(
        url=texts.get("url"),
        model_name=texts.get("model_name"),
        workflow_name=texts.get("workflow_name"),
        handler=texts.get("handler"),
        runtime=texts.get("runtime"),
        synchronous=bool_parameter(texts, "synchronous", default=True),
    )
    for name in ("batch_size", "max_batch_delay", "initial_workers", "response_timeout", "startup_timeout"):
        setattr(body, name, int_parameter(texts, name, -1))
    return body


def _from_json(text: bytes) -> _Parameters:
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"Failed to parse the JSON body: {explain_decoding(error, _Parameters)}") from None


def _override(first: _Parameters, second: _Parameters) -> _Parameters:
    chosen = msgspec.structs.asdict(second)
    chosen |= {name: value for name, value in msgspec.structs.asdict(first).items() if value is not None}
    return _Parameters(**chosen)


def _at_least(least: int, name: str, value: int | None) -> int | None:
    """Return None for -1, and 0 where ``least`` is 1: TorchServe's own clients send them for parameters that are not set.

    Raises ``InvalidInput`` for what is below.
    """
    if value is not None and value < -1:
        raise InvalidInput(f"{name} cannot be less than {least}.")
    return None if value is None or value < least else value


def _to_seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
