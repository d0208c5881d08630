"""gzip and deflate: what is too large, cut short or no compression at all is told apart from what is good."""

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.codecs.compression import CODINGS, choose_coding, deflate, inflate
from mooring.core.errors import InputTooLarge, InvalidInput

coding = pytest.mark.parametrize("coding", sorted(CODINGS))


@coding
@given(pieces=st.lists(st.binary(max_size=200), max_size=4))
def test_what_is_compressed_reads_back_equal(coding, pieces):
    whole = b"".join(pieces)
    assert inflate(deflate(pieces, coding), coding, len(whole)) == whole
    assert {"gzip": gzip.decompress, "deflate": zlib.decompress}[coding](deflate(pieces, coding)) == whole


@coding
@given(data=st.binary(max_size=100), cut=st.integers(1, 20))
def test_a_byte_more_than_allowed_or_less_than_there_was_is_refused(coding, data, cut):
    packed = deflate([data], coding)
    if data:
        with pytest.raises(InputTooLarge):
            inflate(packed, coding, len(data) - 1)
    with pytest.raises(InvalidInput):
        inflate(packed[: -min(cut, len(packed))], coding, 1000)


@coding
@given(data=st.binary(max_size=60))
def test_any_bytes_are_data_or_invalid_input(coding, data):
    with contextlib.suppress(InvalidInput):
        inflate(data, coding, 1000)


def test_members_have_an_end():
    assert inflate(gzip.compress(b"a") * 16, "gzip", 100) == b"a" * 16
    with pytest.raises(InvalidInput, match="goes on"):
        inflate(gzip.compress(b"a") * 17, "gzip", 100)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZIP ; q=1.0", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "gzip"),
        ("*;q=0", ""),
        ("gzip;q=0.001", "gzip"),
        ("gzip;q=0.0", ""),
        ("gzip;q=x, deflate", "deflate"),
        ("gzip;q=1.2.3, deflate", "deflate"),
        ("", ""),
        (",,;", ""),
    ],
)
def test_the_coding_a_client_likes_best(accept, expected):
    assert choose_coding(accept) == expected


@given(st.text(max_size=40))
def test_any_wish_is_read(accept):
    assert choose_coding(accept) in {"", *CODINGS}
