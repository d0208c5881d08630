"""The gate of a listener: what is put before a handler when it is mounted, and what is not."""

import pytest

from mooring.observability.metrics import Metrics
from mooring.protocols.access import Gate
from mooring.protocols.application import Application
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.protocols.status import FORBIDDEN, grpc_gate
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


@pytest.fixture
def generated(tmp_path):
    tokens = Tokens(
        fixed={}, generated=(Access.MANAGEMENT, Access.INFERENCE), file=tmp_path / "key_file.json"
    )
    tokens.publish()
    return tokens


def bearer(tokens, kind):
    return b"Bearer " + tokens.tokens[kind].key


def test_where_tokens_are_not_demanded_only_a_wrong_one_is_refused(generated):
    gate = Gate(generated, demanded=False, status=400)
    for access in (Access.INFERENCE, Access.MANAGEMENT):
        check = gate.check(access)
        assert check(None) is check(bearer(generated, access)) is None
        for wrong in (b"", b"Bearer wrong-one", b"nonsense", bearer(generated, Access.RENEWAL)):
            assert check(wrong).status == 400
        assert not gate.needs_token(access)
    assert gate.check(Access.MANAGEMENT)(bearer(generated, Access.INFERENCE)).status == 400
    assert gate.check(Access.RENEWAL)(None).status == 400
    assert gate.needs_token(Access.RENEWAL)


def test_a_token_of_the_users_own_is_demanded_everywhere(tmp_path):
    tokens = Tokens(
        fixed={Access.MANAGEMENT: b"a-management-token"},
        generated=(Access.INFERENCE,),
        file=tmp_path / "key_file.json",
    )
    gate = Gate(tokens, demanded=False, protect_metrics=True)
    assert {access for access in Access if gate.needs_token(access)} == {
        Access.MANAGEMENT, Access.METRICS, Access.RENEWAL,
    }  # fmt: skip
    assert gate.check(Access.INFERENCE)(None) is None


def test_where_there_is_no_key_file_nothing_that_is_shown_is_checked(tmp_path):
    tokens = Tokens(
        fixed={}, generated=(Access.MANAGEMENT, Access.INFERENCE), file=tmp_path / "gone" / "key_file.json"
    )
    check = Gate(tokens, demanded=False).check(Access.INFERENCE)
    assert check(b"Bearer an-old-token").status == 401
    tokens.publish(needed=False)
    assert check(b"Bearer an-old-token") is None


def test_torchserves_refusal_is_its_own_body_and_the_header_says_what_is_wrong(generated):
    refusal = Gate(generated, status=400).check(Access.INFERENCE)(None)
    assert refusal.document_for(b"/predictions/m", "some-id") == {
        "requestId": "some-id",
        "code": 400,
        "type": "InvalidKeyException",
        "message": "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
    }
    assert (
        b'error_description="there is no Authorization header; this call needs the inference token'
        in refusal.head
    )
    assert (
        grpc_gate(refusal, "org.pytorch.serve.grpc.inference.InferenceAPIsService")[0] == "PERMISSION_DENIED"
    )
    code, text = grpc_gate(refusal, "inference.GRPCInferenceService")
    assert code == "UNAUTHENTICATED"
    assert "there is no Authorization header" in text


@pytest.mark.parametrize(("demanded", "fast"), [(True, False), (False, True)])
def test_a_head_that_shows_no_token_where_none_is_demanded_takes_the_fast_path(generated, demanded, fast):
    endpoint = Endpoint("/it", answer, Access.INFERENCE, prepare=lambda _exchange, _match: answer)
    gate = Gate(generated, demanded=demanded)
    application = Application([endpoint], Responses(Metrics().responses), gate=gate)
    assert bool(application._prepares) is fast
