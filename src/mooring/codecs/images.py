"""An encoded image (PNG, JPEG ...) as the tensor that a model's ``[parameters]`` ask for."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mooring.codecs.content_types import describe_data, image_format
from mooring.core.errors import InvalidInput, ModelLoadFailed, Unsupported
from mooring.core.missing_packages import missing_package
from mooring.core.tensors import Array, Parameter

# Not every format Pillow knows: some start other programs.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
_MODES = {"L": 1, "RGB": 3, "RGBA": 4}
# A few kilobytes of PNG can unpack to gigabytes.
_MAX_PIXELS = 50_000_000


def looks_like_image(head: bytes) -> bool:
    """Whether bytes begin as an encoded image does."""
    return bool(image_format(head))


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """``image_height``, ``image_width``, ``image_mode`` (RGB, L or RGBA), ``image_scale`` (what every value of 0 to
    255 is multiplied with), ``image_mean`` and ``image_std`` (one number or one per channel, separated by commas,
    applied after the scale), ``image_layout`` (CHW or HWC). The first two switch it on.
    """

    height: int
    width: int
    mode: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str = "CHW"

    @classmethod
    def of(cls, parameters: Mapping[str, Parameter]) -> "ImageSettings | None":
        """What the parameters of a model say, None where they speak of no image. Raises ``ModelLoadFailed``."""
        found = {name[6:]: value for name, value in parameters.items() if name.startswith("image_")}
        if "height" not in found or "width" not in found:
            return None
        try:
            settings = cls(
                int(found["height"]),
                int(found["width"]),
                str(found.get("mode", "RGB")).upper(),
                float(found.get("scale", 1.0)),
                _numbers(found.get("mean", "")),
                _numbers(found.get("std", "")),
                str(found.get("layout", "CHW")).upper(),
            )
        except ValueError as error:
            raise ModelLoadFailed(f"the image_ parameters of the model are wrong: {error}") from None
        settings._check()
        return settings

    def _check(self) -> None:
        if self.mode not in _MODES or self.layout not in {"CHW", "HWC"}:
            raise ModelLoadFailed(
                f"image_mode '{self.mode}' or image_layout '{self.layout}' is unknown; "
                "known are RGB, L and RGBA, CHW and HWC"
            )
        channels = {0, 1, _MODES[self.mode]}
        if (
            self.height < 1
            or self.width < 1
            or not {len(self.mean), len(self.std)} <= channels
            or 0 in self.std
        ):
            raise ModelLoadFailed(
                "image_height and image_width must be positive, image_mean and image_std one per channel"
            )

    def decode(self, data: bytes | memoryview) -> Array:
        """The image, resized, without a batch dimension: uint8 where nothing scales it, float32 otherwise."""
        array: Any = np.asarray(self._open(data))
        if array.ndim == 2:
            array = array[:, :, None]
        if self.scale != 1.0 or self.mean or self.std:
            array = array.astype(np.float32) * np.float32(self.scale)
            array = array - np.array(self.mean or 0.0, np.float32)
            array = array / np.array(self.std or 1.0, np.float32)
        return np.ascontiguousarray(array.transpose(2, 0, 1)) if self.layout == "CHW" else array

    def _open(self, data: bytes | memoryview) -> Any:
        image = open_image(data).convert(self.mode)
        size = (self.width, self.height)
        return image if image.size == size else image.resize(size, resample=2)  # 2: bilinear


def open_image(data: bytes | memoryview) -> Any:
    """A loaded Pillow image. Raises ``InvalidInput`` for what is none, or is too large."""
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 (an extra, and heavy)
    except ImportError:
        raise Unsupported(missing_package("an image", "PIL")) from None
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > _MAX_PIXELS:
            raise InvalidInput(
                f"the image has {image.width} x {image.height} pixels; at most {_MAX_PIXELS} are taken"
            )
        image.load()
    except UnidentifiedImageError:  # its own text is an address in memory
        what = describe_data(data)
        raise InvalidInput(
            f"this is {what}; send an image in one of these formats: {', '.join(_FORMATS)}"
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InvalidInput(f"the image cannot be read: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidInput(f"the image has more than {_MAX_PIXELS} pixels") from None
    return image


def _numbers(value: Parameter) -> tuple[float, ...]:
    return tuple(float(part) for part in str(value).split(",") if part.strip())
