"""The gate of a listener: what is put before a handler when it is mounted, and what is not."""

import pytest

from mooring.observability.metrics import Metrics
from mooring.protocols.access import Gate
from mooring.protocols.application import Application
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.protocols.status import FORBIDDEN
from mooring.tokens import Access, Tokens

TOKENS = Tokens(fixed={Access.MANAGEMENT: b"a-management-token"})


def answer(_exchange, _match) -> None:
    raise AssertionError("nobody asks")


@pytest.mark.parametrize("access", Access)
def test_without_tokens_a_handler_is_mounted_bare_so_that_a_request_pays_nothing(access):
    application = Application([Endpoint("/it", answer, access)], Responses(Metrics().responses))
    assert application._router.find(b"/it").handler is answer


def test_nothing_is_mounted_without_saying_what_it_needs():
    with pytest.raises(TypeError, match="access"):
        Endpoint("/it", answer)


@pytest.mark.parametrize(
    ("gate", "guarded"),
    [
        (Gate(), set()),
        (Gate(closed=True), {Access.MANAGEMENT}),
        (Gate(TOKENS), {Access.MANAGEMENT}),
        (Gate(TOKENS, protect_metrics=True), {Access.MANAGEMENT, Access.METRICS}),
    ],
)
def test_a_gate_stands_before_what_needs_it_and_nothing_else(gate, guarded):
    assert {access for access in Access if gate.check(access) is not None} == guarded


def test_a_closed_gate_takes_no_token_for_an_answer():
    assert Gate(closed=True).check(Access.MANAGEMENT)(b"Bearer anything") is FORBIDDEN


def test_an_open_door_beside_a_guarded_one_needs_no_token():
    check = Gate(TOKENS).check(Access.MANAGEMENT)
    assert check(b"Bearer a-management-token") is None
    assert check(b"Bearer another-token-of-mine").status == 401
    assert Gate(TOKENS).check(Access.OPEN) is None
