"""Tables of what is mounted: every protocol writes one, the router and the OpenAPI document are both made from it."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Handler, Match


class Body(msgspec.Struct, frozen=True):
    """The content of a request or of a response."""

    content_type: str
    schema: Mapping[str, Any]
    description: str
    required: bool = True


class Query(msgspec.Struct, frozen=True):
    """A query parameter."""

    name: str
    schema: Mapping[str, Any]
    description: str


class Also(msgspec.Struct, frozen=True, kw_only=True):
    """The same call by another method or on another path, which clients use; with an id of its own."""

    id: str
    method: str
    path: str = ""  # empty: the same


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One call a client may make."""

    id: str
    method: str
    description: str
    answer: Body
    body: Body | None = None
    query: tuple[Query, ...] = ()
    errors: tuple[int, ...] = (500,)
    deprecated: bool = False
    # What 202 means, where an answer may come before the work is done.
    accepted: str = ""
    also: tuple["Also", ...] = ()


Prepare = Callable[[Exchange, Match], Callable[[Exchange], None] | None]
"""Makes the handler of all further requests whose heads are this request's, to the byte; None where there is none.

Everything that a head says is worked out once then. It must answer just as the handler would.
"""


class Endpoint(msgspec.Struct, frozen=True):
    """A pattern, who answers it, what a client needs for it and what is told of it. ``methods`` None: any will do.

    ``changes``: it changes what is served, and so is refused to web pages of other sites.
    """

    pattern: str
    handler: Handler
    access: Access
    operation: Operation | None = None
    methods: frozenset[str] | None = None
    changes: bool = False
    prepare: Prepare | None = None

    def handled(self, handler: Handler) -> "Endpoint":
        """The same with another handler, and no way past it."""
        return msgspec.structs.replace(self, handler=handler, prepare=None)
