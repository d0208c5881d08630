"""Header blocks, held against an independent library."""

import hpack
import pytest
from hpack import huffman_constants
from hypothesis import given
from hypothesis import strategies as st

from mooring.web.http2.hpack import STATIC_TABLE, Decoder, HeadersTooLarge, HpackError, encode
from mooring.web.http2.huffman import decode_huffman, huffman_codes

NAMES = st.sampled_from([b"a", b"x-name", b"content-type", b"grpc-timeout", b":path"]) | st.binary(
    min_size=1, max_size=9
)
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=12)
HUFFMAN = hpack.huffman.HuffmanEncoder(
    huffman_constants.REQUEST_CODES, huffman_constants.REQUEST_CODES_LENGTH
)


def decoder(most=1 << 20):
    return Decoder(list, most)


@given(st.lists(st.tuples(FIELDS, st.booleans(), st.sampled_from([None, 0, 60, 500, 4096])), max_size=8))
def test_blocks_are_read_as_they_were_written_while_the_table_changes(blocks):
    ours, theirs = decoder(), hpack.Encoder()
    for fields, compressed, size in blocks:
        if size is not None:
            theirs.header_table_size = size
        block = theirs.encode(fields, huffman=compressed)
        assert ours.decode(block) == fields


@given(FIELDS)
def test_what_we_write_an_independent_reader_reads(fields):
    reader = hpack.Decoder()
    reader.max_header_list_size = 1 << 20
    assert [tuple(field) for field in reader.decode(encode(fields), raw=True)] == fields
    assert not reader.header_table.dynamic_entries


@given(st.binary(max_size=100))
def test_every_text_survives_its_compression(text):
    assert decode_huffman(HUFFMAN.encode(text)) == text


def test_the_tables_are_those_of_the_rfc():
    assert list(STATIC_TABLE) == list(hpack.table.HeaderTable.STATIC_TABLE)
    expected = zip(huffman_constants.REQUEST_CODES, huffman_constants.REQUEST_CODES_LENGTH, strict=True)
    assert [huffman_codes()[symbol] for symbol in range(257)] == list(expected)


@pytest.mark.parametrize("text", [b"\xff\xff\xff\xff", b"\x1f\xff", b"\x00", b"\xff"])
def test_a_wrong_end_of_a_compressed_text_is_refused(text):
    with pytest.raises(ValueError, match="a string"):
        decode_huffman(text)


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_whatever_comes_is_read_or_refused(blocks):
    ours, theirs = decoder(), hpack.Decoder()
    theirs.max_header_list_size = 1 << 20
    for block in blocks:
        try:
            found = ours.decode(block)
        except HpackError:
            return
        assert [tuple(field) for field in theirs.decode(block, raw=True)] == found


def test_a_block_that_repeats_is_remembered_until_the_table_changes():
    made = []

    def make(fields):
        made.append(fields)
        return fields

    ours, theirs = Decoder(make, 1000), hpack.Encoder()
    first, again = theirs.encode([(b"a", b"1")]), theirs.encode([(b"a", b"1")])
    assert ours.decode(first) == ours.decode(again) == ours.decode(again) == [(b"a", b"1")]
    assert len(made) == 2
    other = theirs.encode([(b"b", b"2")])
    ours.decode(other)
    assert ours.decode(again) == [(b"b", b"2")]  # the same bytes, another meaning


def test_too_many_fields_are_refused_and_the_table_is_kept():
    ours = decoder(200)
    bomb = b"\x40\x01a\x10" + b"x" * 16 + b"\xbe" * 50_000
    with pytest.raises(HeadersTooLarge):
        ours.decode(bomb + b"\x40\x01b\x011")
    assert ours.decode(b"\xbe\xbf") == [(b"b", b"1"), (b"a", b"x" * 16)]
