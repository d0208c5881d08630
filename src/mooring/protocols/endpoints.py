"""Endpoints and their descriptions: every protocol lists its own; the router and the OpenAPI document are made of them."""

import enum
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Handler, Match


class CallForm(enum.Enum):
    """What a call to a model is made of, and its answer."""

    BODY = "body"
    INSTANCES = "instances"
    TENSORS = "tensors"


class Body(msgspec.Struct, frozen=True):
    """The content of a request or of a response. ``also`` has the schemas of other content types that are as good."""

    content_type: str
    schema: Mapping[str, Any]
    description: str
    required: bool = True
    also: Mapping[str, Mapping[str, Any]] = {}


class Query(msgspec.Struct, frozen=True):
    """A query parameter."""

    name: str
    schema: Mapping[str, Any]
    description: str


class AlternativeCall(msgspec.Struct, frozen=True, kw_only=True):
    """Another method or path of the same call that clients use, with an operation id of its own."""

    id: str
    method: str
    path: str = ""  # empty: the same


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """The OpenAPI description of one call. ``form`` is there for calls that a model of Python values describes by its own schemas."""

    id: str
    method: str
    description: str
    answer: Body
    body: Body | None = None
    query: tuple[Query, ...] = ()
    errors: tuple[int, ...] = (500,)
    deprecated: bool = False
    # The description of 202, where an answer may come before the work is done.
    accepted: str = ""
    alternatives: tuple["AlternativeCall", ...] = ()
    form: CallForm | None = None
    timed: bool = False  # a client may ask where the time goes


Prepare = Callable[[Exchange, Match], Callable[[Exchange], None] | None]
"""Returns a handler for all further requests whose heads equal this one's, byte for byte; None where there is none.

The handler reuses what was computed from the head once. It must answer exactly as the endpoint's own handler would.
"""


class Endpoint(msgspec.Struct, frozen=True):
    """A path pattern, its handler, the token that it needs and its OpenAPI description.

    ``methods`` None means every method. ``changes`` marks a call that changes what is served, ``same_site`` one that tells
    what only pages of the server itself may know: pages of other sites are refused. ``infers`` marks a call that runs a
    model, whose answer has timings where the client asks for them.
    """

    pattern: str
    handler: Handler
    access: Access
    operation: Operation | None = None
    methods: frozenset[str] | None = None
    changes: bool = False
    same_site: bool = False
    prepare: Prepare | None = None
    infers: bool = False

    def with_handler(self, handler: Handler) -> "Endpoint":
        """Return the same endpoint with another handler, which no prepared handler bypasses."""
        return msgspec.structs.replace(self, handler=handler, prepare=None)
