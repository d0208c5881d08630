"""What a head must be: the rules by themselves."""

import pytest

from mooring.web.exchange import Exchange
from mooring.web.heads import Refusal, check_head
from mooring.web.listener import Limits

LIMITS = Limits(max_url_bytes=20, max_header_count=3, max_header_bytes=100)
HOST = (b"host", b"a")
LENGTH = (b"content-length", b"3")


def exchange(*headers, method="POST", target=b"/a", version="1.1", keep=True):
    made = Exchange(method, target, list(headers), dict(headers), keep, None)
    made.version = version
    return made


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (exchange(HOST, target=b"/" * 21), 414),
        (exchange(HOST, (b"a", b""), (b"b", b""), (b"c", b"")), 431),
        (exchange(HOST, (b"a", b"x" * 100)), 431),
        (exchange(), 400),
        (exchange((b"host", b"a b")), 400),
        (exchange(HOST, HOST), 400),
        (exchange(HOST, LENGTH, LENGTH), 400),
        (exchange(HOST, method="CONNECT"), 400),
        (exchange(HOST, (b"transfer-encoding", b"chunked"), version="1.0"), 400),
        (exchange(HOST, version="0.9"), 400),
        (exchange(HOST, version="2.0"), 505),
    ],
)
def test_a_head_that_is_not_sound_is_refused_and_said_why(head, status):
    with pytest.raises(Refusal) as caught:
        check_head(head, LIMITS, set(), 1)
    assert caught.value.status == status
    assert caught.value.message


def test_a_sound_head_passes_and_its_host_is_remembered():
    sound = set()
    check_head(exchange(HOST, LENGTH), LIMITS, sound, 0)
    check_head(exchange((b"a", b"1"), (b"a", b"2"), version="1.0"), LIMITS, sound, 0)
    assert sound == {b"a"}
