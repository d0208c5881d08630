"""Forms: fields as sent, files without a copy, and clear words for what is malformed."""

import contextlib
import urllib.parse

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.core.errors import InvalidInput
from mooring.web.multipart import MAX_FIELDS, parse_form, parse_urlencoded

TYPE = "multipart/form-data; boundary=BB"


def part(payload, head='Content-Disposition: form-data; name="a"'):
    return b"--BB\r\n" + head.encode() + b"\r\n\r\n" + payload + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--BB--\r\n"


def sent(files, data=None):
    """A multipart form as requests, and so urllib3, makes it."""
    request = requests.Request("POST", "http://a/", files=files, data=data).prepare()
    return request.body, request.headers["content-type"]


def test_a_form_of_a_real_client_comes_back_field_by_field():
    body, content_type = sent(
        {"data": ("7.png", b"\x89PNG\r\n\x1a\n", "image/png"), "meta": ("m.json", b"{}", "application/json")},
        {"target": "1", "name": "\u00fc"},
    )
    fields = {field.name: field for field in parse_form(body, content_type)}
    assert fields["data"][1:4] == ("7.png", "image/png", b"\x89PNG\r\n\x1a\n")
    assert fields["meta"][1:4] == ("m.json", "application/json", b"{}")
    assert fields["target"][1:4] == (None, None, b"1")
    assert bytes(fields["name"].payload).decode() == "\u00fc"


def test_equal_names_stay_in_order_and_a_plain_field_keeps_its_type():
    fields = parse_form(
        form(part(b"1"), part(b"2", "content-disposition: form-data; name=a\r\nCONTENT-TYPE: text/x; y=z")),
        TYPE,
    )
    assert [field[:4] for field in fields] == [("a", None, None, b"1"), ("a", None, "text/x; y=z", b"2")]


def test_a_file_in_borrowed_memory_is_a_slice_of_it():
    payload = b"0123456789" * 60_000
    memory = bytearray(form(part(payload), part(b"small")))
    fields = parse_form(memoryview(memory), TYPE)
    assert [len(field.payload) for field in fields] == [600_000, 5]
    assert fields[0].payload == payload
    memory[60] ^= 1
    assert fields[0].payload != payload


def test_a_boundary_is_found_wherever_it_lies():
    for size in range(131_000, 131_200):
        body = form(part(b"x" * size), part(b"y"))
        assert [len(field.payload) for field in parse_form(memoryview(body), TYPE)] == [size, 1]


def test_what_looks_like_a_boundary_is_payload():
    payload = b"\r\n--B\r\n--BA\r\n-BB\r\n\r\n--B"
    assert parse_form(form(part(payload)), TYPE)[0].payload == payload


def test_empty_payloads_empty_forms_and_an_epilogue_are_fine():
    assert [field.payload for field in parse_form(form(part(b""), part(b"")), TYPE)] == [b"", b""]
    assert parse_form(b"--BB--", TYPE) == []
    assert len(parse_form(b"\r\n" + form(part(b"1")) + b"whatever", TYPE)) == 1


def test_a_length_in_a_part_decides_nothing():
    head = 'Content-Disposition: form-data; name="a"\r\nContent-Length: 99'
    assert parse_form(form(part(b"1", head)), TYPE)[0].payload == b"1"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "does not begin with its boundary"),
        (b"preamble\r\n" + form(part(b"1")), "does not begin with its boundary"),
        (part(b"1"), "has no head, or too long a one|ends before its last boundary"),
        (part(b"1")[:-1], "ends before its last boundary"),
        (part(b"1") + b"--BBx\r\n", "followed by something else"),
        (part(b"1").replace(b"\r\n", b"\n"), "followed by something else"),
        (form(part(b"1", "X: y")), "no content-disposition with a name"),
        (form(part(b"1", "Content-Disposition: form-data")), "no content-disposition with a name"),
        (form(part(b"1", "Content-Disposition: attachment; name=a")), "no content-disposition with a name"),
        (form(part(b"1", "nonsense")), "malformed header"),
        (form(part(b"1", "a b: c")), "malformed header"),
        (form(part(b"1", 'Content-Disposition: form-data; name="a"\r\n folded: b')), "malformed header"),
        (form(b"--BB\r\n\r\nno head\r\n"), "malformed header|no content-disposition"),
        (form(part(b"1", "X: y\r\n" * 20 + "Z: z")), "more than 16 headers"),
        (form(part(b"1", "X: " + "y" * 9_000)), "too long a one"),
        (form(b"--BB\r\nX: \xff\r\n\r\n1\r\n"), "not UTF-8"),
        (form(*[part(b"")] * (MAX_FIELDS + 1)), f"more than {MAX_FIELDS} parts"),
    ],
)
def test_a_malformed_form_is_invalid_input_that_says_why(body, why):
    with pytest.raises(InvalidInput, match=why):
        parse_form(body, TYPE)


@pytest.mark.parametrize(
    "boundary", ["", "; boundary=", '; boundary=""', "; boundary=" + "b" * 71, '; boundary="\u00fc"']
)
def test_a_boundary_that_is_none_is_invalid_input(boundary):
    with pytest.raises(InvalidInput, match="boundary"):
        parse_form(b"--BB--", "multipart/form-data" + boundary)


def test_another_type_is_no_form():
    with pytest.raises(InvalidInput, match="is not a form"):
        parse_form(b"", "application/json")


def test_an_urlencoded_form_is_decoded_and_what_is_no_pair_is_dropped():
    kind = "application/x-www-form-urlencoded; charset=utf-8"
    assert [tuple(field)[::3] for field in parse_form(b"a=1&b=%20+%c3%bc&a=&c&=x&d=e=f\r\n", kind)] == [
        ("a", b"1"), ("b", b"  \xc3\xbc"), ("a", b""), ("c", b""), ("d", b"e=f"),
    ]  # fmt: skip
    assert parse_form(b"hello", kind) == []
    assert parse_form(b"", kind) == []
    with pytest.raises(InvalidInput, match="more than"):
        parse_form(b"a=1&" * MAX_FIELDS, kind)


@given(st.lists(st.tuples(st.text(min_size=1), st.binary())))
def test_every_urlencoded_form_comes_back(pairs):
    pairs = [(name.encode("utf-8", "replace").decode(), value) for name, value in pairs]
    body = urllib.parse.urlencode(pairs).encode()
    found = parse_form(body, "application/x-www-form-urlencoded")
    assert [(field.name, field.payload) for field in found] == pairs


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([b"--BB", b"\r\n", b"\r\n--BB", b"--", b"Content-Disposition: form-data; name=a", b":", b"x"])
    | st.binary(max_size=5), max_size=20).map(b"".join)
)  # fmt: skip
def test_noise_is_fields_or_invalid_input(noise):
    for body in (noise, b"--BB\r\n" + noise, form(part(b"1")) + noise):
        for given_as in (body, memoryview(body)):
            with contextlib.suppress(InvalidInput):
                parse_form(given_as, TYPE)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=BB",
        "multipart/form-data;boundary=BB",
        'Multipart/Form-Data; a=b; boundary="BB"',
    ],
)
def test_a_boundary_is_read_however_it_is_written(content_type):
    body = form(part(b"12"), part(b""), part(b"3"))
    fields = parse_form(body, content_type)
    assert [field.payload for field in fields] == [b"12", b"", b"3"]
    assert [body[field.start :][: len(field.payload)] for field in fields] == [b"12", b"", b"3"]


def test_a_large_value_that_is_percent_encoded_is_left_to_others_and_so_are_those_after_the_first_64_kb():
    large, small = b"%41" * 30_000, b"%41" * 20_000
    fields = parse_urlencoded(b"a=%41&b=" + large + b"&c=" + small + b"&d=" + small + b"&e=" + b"x" * 90_000)
    assert [(each.name, each.escaped) for each in fields] == [
        ("a", False), ("b", True), ("c", False), ("d", True), ("e", False),
    ]  # fmt: skip
    assert [bytes(each.payload) for each in fields[:4]] == [b"A", large, b"A" * 20_000, small]


def test_names_that_are_percent_encoded_for_more_than_64_kb_are_refused():
    with pytest.raises(InvalidInput, match="more than 65536 encoded bytes"):
        parse_urlencoded(b"&".join(b"%41" * 100 + b"=" for _ in range(300)))
