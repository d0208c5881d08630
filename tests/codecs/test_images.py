"""Bytes that should be an image and are none."""

import io

import pytest
from PIL import Image

from mooring.codecs.images import open_image
from mooring.core.errors import InvalidInput


@pytest.mark.parametrize(("data", "what"), [(b"", "empty"), (b"x", "text"), (b"%PDF-1.7", "a PDF document")])
def test_what_is_not_an_image_is_refused_with_the_kinds_that_are(data, what):
    with pytest.raises(
        InvalidInput, match=rf"^this is {what}; send an image in one of these formats: PNG, JPEG, "
    ):
        open_image(data)


def test_half_an_image_is_refused_with_the_reason():
    file = io.BytesIO()
    Image.new("L", (64, 64), 7).save(file, "PNG")
    with pytest.raises(InvalidInput, match="the image cannot be read: "):
        open_image(file.getvalue()[:-30])
