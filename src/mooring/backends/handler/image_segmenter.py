"""ImageSegmenter: an image in, the class of every pixel out."""

from typing import Any

import torch

from mooring.backends.handler.image_transforms import imagenet_transform
from mooring.backends.handler.timer import timed
from mooring.backends.handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """Answers [height][width][2]: the most probable class and its probability, both as floats."""

    image_processing = imagenet_transform()

    @timed
    def postprocess(self, data: Any) -> Any:
        """``data`` is the model's dict; its ``out`` has a value per image, class and pixel."""
        values = data["out"] if isinstance(data, dict) else data
        probabilities, classes = torch.softmax(values, dim=1).max(dim=1)
        return torch.stack([classes.to(values.dtype), probabilities], dim=3).tolist()
