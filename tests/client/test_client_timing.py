"""What a client reads of where the time of a call went."""

import pytest

from mooring.client.rest_calls import infer_call
from mooring.client.timing import AsyncTimedRpc, TimedRpc, Timing, parse_timing
from mooring.core.requests import InferenceRequest
from mooring.core.tensors import Tensor

TOLD = 'queue;dur=1.2, batch;dur=0.4;desc="8 rows", model;dur=11.9, encode;dur=0.1, total;dur=13.8'
NAMES = {"queue": 1.2, "batch": 0.4, "model": 11.9, "encode": 0.1, "total": 13.8}


def test_header_of_the_server_is_read():
    timing = parse_timing(TOLD)
    assert timing == NAMES
    assert timing.rows == 8
    assert parse_timing('batch;dur=1;desc="20 rows in 3 calls"').rows == 20
    assert parse_timing('batch;dur=1;desc="1 row"').rows == 1


def test_nodes_have_names_of_their_own():
    timing = parse_timing('scale.batch;dur=2;desc="4 rows", a%20b.model;dur=3, total;dur=6')
    assert (timing, timing.rows) == ({"scale.batch": 2.0, "a%20b.model": 3.0, "total": 6.0}, None)


@pytest.mark.parametrize("text", ["", "miss", "cache;desc=hit", ",;,=", 'a;desc="b, c;dur=x"'])
def test_header_without_a_duration_tells_nothing(text):
    assert parse_timing(text) is None


def test_headers_of_others_may_be_beside_it():
    assert parse_timing('cdn;desc="hit, near";dur=5,total ; dur=7') == {"cdn": 5.0}
    assert parse_timing('cdn;desc="hit, near";dur=5,total;dur=7') == {"cdn": 5.0, "total": 7.0}


def test_header_of_a_proxy_is_no_trap():
    digits = "9" * 5000
    assert parse_timing(f'batch;dur={digits};desc="{digits} rows", total;dur=7') == {"total": 7.0}
    assert parse_timing('cdn;desc="a;dur=5";dur="1.5"') == {"cdn": 1.5}
    assert parse_timing(f"cdn;dur=0.{digits}") == {"cdn": 1.0}


def test_line_for_people():
    assert (
        Timing({"queue": 0.05, "total": 12.0}, 2).to_text()
        == "queue 0.05 ms, total 12 ms, 2 rows in the call"
    )
    assert Timing({"total": 12.0}, 1).to_text() == "total 12 ms, 1 row in the call"
    assert Timing({"total": 12.0}).to_text() == "total 12 ms"
    assert repr(Timing({"total": 12.0})) == "Timing({'total': 12.0}, rows=None)"


def test_request_over_rest_asks_only_where_it_is_to():
    request = InferenceRequest("m", "", "", [Tensor("x", "FP32", [1], bytes(4))])
    assert infer_call(request, binary=True, timed=True).headers["server-timing"] == "1"
    assert "server-timing" not in infer_call(request, binary=True).headers


class Call:
    """An answered call, of either kind of client."""

    def __init__(self, sent):
        self.sent = sent

    def __await__(self):
        return b"answer"
        yield

    def with_call(self, message, **how):
        self.sent.append((message, how))
        return b"answer", self

    def trailing_metadata(self):
        return (("other", "x"), ("server-timing", TOLD))


class AsyncCall(Call):
    async def trailing_metadata(self):
        return super().trailing_metadata()


async def test_trailing_metadata_of_an_rpc_is_read():
    sent = []

    def call(message, **how):
        sent.append((message, how))
        return AsyncCall(sent)

    for answer in (
        await AsyncTimedRpc(call).ask(b"question", 2.0, [("a", "b")]),
        TimedRpc(Call(sent)).ask(b"question", 2.0, [("a", "b")]),
    ):
        assert answer == (b"answer", TOLD)
    assert sent == [(b"question", {"timeout": 2.0, "metadata": (("a", "b"), ("server-timing", "1"))})] * 2
