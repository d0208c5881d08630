"""A record of a model's is one line, whatever is in it, and a line that is none is text."""

from hypothesis import given
from hypothesis import strategies as st

from mooring.ipc.log_records import MARK, MAX_BYTES, ModelRecord, decode_record, encode_record

TEXT = st.text(st.characters(), max_size=50)


@given(TEXT, TEXT, TEXT)
def test_a_record_is_one_line_and_comes_back(logger, text, details):
    record = ModelRecord(20, "INFO", logger.encode(errors="replace").decode(), text, details, 1, ["r"])
    line = encode_record(record)
    assert line.count(b"\n") == line.count(MARK) == 1
    back = decode_record(line.removesuffix(b"\n"))
    assert (back.logger, back.requests, back.request_ids) == (record.logger, 1, ["r"])
    assert back.text == text.encode(errors="backslashreplace").decode()


def test_a_long_record_loses_the_middle_of_its_texts():
    line = encode_record(ModelRecord(40, "ERROR", "m", "\0" * 10_000_000, "t" * 10_000_000 + "Error: x"))
    assert len(line) <= MAX_BYTES
    back = decode_record(line.removesuffix(b"\n"))
    assert "characters left out" in back.text
    assert back.details.endswith("Error: x")


def test_a_line_that_is_no_record_is_text():
    assert decode_record(b"hello") is None
    assert decode_record(MARK + b"[1,2") is None
