"""What a body is, by its first bytes, and what is said of one that is not what it should be."""

import pytest

from mooring.codecs.bodies import decode_body
from mooring.codecs.content_types import describe_data, explain_not_json, image_format, is_json_in_form
from mooring.codecs.images import ImageSettings
from mooring.codecs.signature import Signature
from mooring.core.errors import InvalidInput
from mooring.core.tensors import Tensor, TensorSpec

FORM = "application/x-www-form-urlencoded"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
DECLARED = Signature.of([TensorSpec("x", "FP32", [-1, 4])])
IMAGES = Signature.of([TensorSpec("x", "FP32", [-1, 3, 8, 8])], ImageSettings(8, 8))
TAKES = "the model takes JSON or a tensor (application/x-npy): 'x' (FP32 [-1, 4])"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'\xef\xbb\xbf{"x": 1}', "text behind a byte order mark"),
        (b"", "empty"),
        (PNG, "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "a WEBP image"),
        (b"\x93NUMPY\x01", "an array of NumPy's (.npy)"),
        (b"PK\x03\x04...", "a zip archive"),
        (b"  <html>", "HTML or XML"),
        (b"# Mooring\n\nAn inference server", "text"),
        ("Grüße, 世界".encode(), "text"),
        (("é" * 255 + "xé").encode(), "text"),  # a character is cut after the bytes that are looked at
        (b"\xff\xfe\x00", "binary data"),
        (b"a\0b", "binary data"),
    ],
)
def test_data_is_described_by_what_it_begins_with(data, what):
    assert describe_data(data) == what
    assert describe_data(memoryview(data)) == what


def test_formats_of_images_are_named():
    assert [image_format(head) for head in (PNG[:12], b"GIF89a", b"text")] == ["PNG", "GIF", ""]


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"x": [1, 2]}', FORM, True),
        (b" [1, 2]\r\n", FORM + "; charset=utf-8", True),
        (b'{"text": "a=b&c=d"}', FORM.title(), True),
        (b'{"x": [1, 2]}', "application/json", False),
        (b"{x=1", FORM, False),
        (b"x=1", FORM, False),
        (b"", FORM, False),
    ],
)
def test_json_in_a_form_is_known_by_its_brackets(body, content_type, expected):
    assert is_json_in_form(body, content_type) is expected


@pytest.mark.parametrize(
    ("data", "content_type", "text"),
    [
        (b"", "", "the body is empty; send JSON"),
        (b"{oops", "", "the body is not JSON: the reason"),
        (b" 12,5", "", "the body is not JSON: the reason"),
        (b"hello", "text/plain", "the body is text (text/plain), not JSON"),
        (PNG, "image/png", "the body is a PNG image (image/png), not JSON"),
    ],
)
def test_what_is_not_json_is_called_what_it_is(data, content_type, text):
    assert explain_not_json(data, "the reason", content_type) == text


@pytest.mark.parametrize(
    ("name", "data", "media", "signature", "text"),
    [
        ("body", PNG, "image/png", DECLARED, f"the body is a PNG image (image/png); {TAKES}"),
        ("body", PNG, "", DECLARED, f"the body is a PNG image, not JSON; {TAKES}"),
        ("body", PNG, "application/json", DECLARED, "the body is a PNG image, not JSON"),
        (
            "body",
            b"hello",
            "text/plain",
            DECLARED,
            f"the body is text (text/plain), not JSON; {TAKES}",
        ),
        ("body", b"", "", DECLARED, r"the body is empty; the model takes 'x' (FP32 [-1, 4])"),
        ("data", b"", "", DECLARED, r"the body is empty; the model takes 'x' (FP32 [-1, 4])"),
        (
            "hello",
            b"",
            "",
            DECLARED,
            "the body is a form with the field 'hello' and no value; the model has no such input: send JSON with -H",
        ),
        (
            "body",
            b"# Read me",
            "",
            IMAGES,
            "the body is text, not an image; the model takes an image, or JSON with 'x'",
        ),
        ("body", b"{oops", "", IMAGES, "the body is not JSON: "),
        (
            "body",
            b"# Read me",
            "image/png",
            IMAGES,
            "this is text; send an image in one of these formats: PNG",
        ),
        (
            "body",
            b"hello",
            "",
            Signature(),
            "the model takes JSON or a tensor (application/x-npy): inputs by name",
        ),
    ],
)
def test_a_tensor_model_says_what_came_and_what_it_takes(name, data, media, signature, text):
    with pytest.raises(InvalidInput) as caught:
        decode_body([Tensor(name, "BYTES", [1], [data], {"content_type": media})], signature)
    for part in text.split(".*"):
        assert part in caught.value.message
