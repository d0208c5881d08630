"""What a client of TorchServe's management API may say of a model: query parameters, or a JSON body of the same names."""

from collections.abc import Mapping
from urllib.parse import parse_qs

import msgspec

from mooring.core.buffers import Buffer, view_of
from mooring.core.errors import InvalidInput
from mooring.core.service import Registration, WorkflowRegistration
from mooring.web.http1 import Exchange

# More processes than any machine has a use for: a number with a zero too many must not end it.
MOST_WORKERS = 1024


class _Body(msgspec.Struct):
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


_decoder = msgspec.json.Decoder(_Body, strict=False)


def texts_of(query: bytes) -> dict[str, str]:
    """The parameters of a query; of equal names the first one, as TorchServe takes it."""
    return {
        name: values[0] for name, values in parse_qs(query.decode("latin-1"), keep_blank_values=True).items()
    }


def number(texts: Mapping[str, str], name: str, default: int) -> int:
    """A whole number; what is none is the default, as in TorchServe."""
    try:
        return int(texts.get(name, ""))
    except ValueError:
        return default


def switch(texts: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Whether something is true; what is neither is false, as in Java."""
    return texts[name].lower() == "true" if name in texts else default


def registration_of(exchange: Exchange, query: bytes) -> tuple[Registration, bool]:
    """What is to be registered, and whether the client waits for its workers.

    Raises ``InvalidInput``.
    """
    said = _said(exchange, query)
    return _registration(said), said.synchronous is not False


def workflow_of(exchange: Exchange, query: bytes) -> WorkflowRegistration:
    """What workflow is to be registered. Raises ``InvalidInput``."""
    said = _said(exchange, query)
    if said.url is None:
        raise InvalidInput("Parameter url is required.")
    return WorkflowRegistration(
        url=said.url,
        name=said.workflow_name or "",
        response_timeout=_from(1, said.response_timeout),
        startup_timeout=_from(1, said.startup_timeout),
    )


def registration_in(texts: Mapping[str, str]) -> Registration:
    """What is to be registered, as parameters say it. Raises ``InvalidInput``."""
    return _registration(_of_query(texts))


def _registration(said: _Body) -> Registration:
    if said.url is None:
        raise InvalidInput("Parameter url is required.")
    if (said.initial_workers or 0) > MOST_WORKERS:
        raise InvalidInput(f"initial_workers cannot be more than {MOST_WORKERS}.")
    return Registration(
        url=said.url,
        name=said.model_name or "",
        handler=said.handler or "",
        runtime=said.runtime or "",
        batch_size=_from(1, said.batch_size),
        max_delay=_seconds(_from(0, said.max_batch_delay)),
        workers=_from(0, said.initial_workers),
        response_timeout=_from(1, said.response_timeout),
        startup_timeout=_from(1, said.startup_timeout),
    )


def _said(exchange: Exchange, query: bytes) -> _Body:
    """What the query says, and over it a JSON body."""
    said = _of_query(texts_of(query))
    body = exchange.take_body()
    text = bytes(view_of(body))
    if isinstance(body, Buffer):
        body.release()
    if (exchange.header(b"content-type") or b"").lower().startswith(b"application/json") and text.strip():
        return _over(_of_json(text), said)
    return said


def _of_query(texts: Mapping[str, str]) -> _Body:
    body = _Body(
        url=texts.get("url"),
        model_name=texts.get("model_name"),
        workflow_name=texts.get("workflow_name"),
        handler=texts.get("handler"),
        runtime=texts.get("runtime"),
        synchronous=switch(texts, "synchronous", default=True),
    )
    for name in ("batch_size", "max_batch_delay", "initial_workers", "response_timeout", "startup_timeout"):
        setattr(body, name, number(texts, name, -1))
    return body


def _of_json(text: bytes) -> _Body:
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"Failed to parse the JSON body: {error}") from None


def _over(first: _Body, second: _Body) -> _Body:
    chosen = msgspec.structs.asdict(second)
    chosen |= {name: value for name, value in msgspec.structs.asdict(first).items() if value is not None}
    return _Body(**chosen)


def _from(least: int, value: int | None) -> int | None:
    """What is less is not said at all: TorchServe's own clients send -1 and 0 for what they leave open."""
    return None if value is None or value < least else value


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
