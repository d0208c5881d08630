"""The transforms of torchvision, by the same names, for PIL images: with Pillow and torch alone, and the same numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Compose:
    """One step after another."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class ToRGB:
    """Three channels, whatever the file had: gray, a palette, transparency."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image if image.mode == "RGB" else image.convert("RGB")


class Resize:
    """Resizes the shorter side to ``size`` and keeps the proportions, rounded down."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if min(width, height) == self.size:
            return image
        if width <= height:
            size = (self.size, int(self.size * height / width))
        else:
            size = (int(self.size * width / height), self.size)
        return image.resize(size, Image.Resampling.BILINEAR)


class CenterCrop:
    """Crops the square in the middle; an image that is smaller is padded with black."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Image.Image:
        size = self.size
        left, top = (round((side - size) / 2.0) for side in _padded_sides(image.size, size))
        if image.width < size or image.height < size:
            image = _on_black(image, size)
        return image.crop((left, top, left + size, top + size))


class ToTensor:
    """Channels first; bytes become numbers from 0 to 1."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        array = np.array(image if image.mode != "1" else image.convert("L"))
        if array.ndim == 2:
            array = array[:, :, None]
        if array.dtype == np.uint16:
            array = array.astype(np.int32)
        tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous()
        return tensor.to(torch.get_default_dtype()).div(255) if tensor.dtype == torch.uint8 else tensor


class Normalize:
    """Subtracts each channel's mean and divides by its standard deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = list(mean)
        self.std = list(std)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        mean = torch.as_tensor(self.mean, dtype=tensor.dtype, device=tensor.device).view(-1, 1, 1)
        std = torch.as_tensor(self.std, dtype=tensor.dtype, device=tensor.device).view(-1, 1, 1)
        return tensor.sub(mean).div(std)


def imagenet_transform(*, crop: bool = True) -> Compose:
    """Return the preparation of images for torchvision's models trained on ImageNet."""
    steps: list[Callable[[Any], Any]] = [ToRGB()]
    if crop:
        steps += [Resize(256), CenterCrop(224)]
    return Compose([*steps, ToTensor(), Normalize(IMAGENET_MEAN, IMAGENET_STD)])


def _padded_sides(sides: tuple[int, int], size: int) -> tuple[int, int]:
    return max(sides[0], size), max(sides[1], size)


def _on_black(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    canvas = Image.new(image.mode, _padded_sides(image.size, size))
    canvas.paste(image, (max(size - width, 0) // 2, max(size - height, 0) // 2))
    return canvas
