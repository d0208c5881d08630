"""ImageClassifier: an image in, its most probable classes out."""

from typing import Any

import torch

from mooring.backends.handler.image_transforms import imagenet_transform
from mooring.backends.handler.labels import map_class_to_label
from mooring.backends.handler.timer import timed
from mooring.backends.handler.vision_handler import VisionHandler


class ImageClassifier(VisionHandler):
    """Answers ``{"name": probability}`` of the ``topk`` best, best first."""

    topk = 5
    image_processing = imagenet_transform()

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    @timed
    def postprocess(self, data: Any) -> Any:
        """Raises ``RuntimeError`` where there are fewer classes than asked for."""
        probabilities, classes = torch.topk(torch.softmax(data, dim=1), self.topk, dim=1)
        return map_class_to_label(probabilities.tolist(), self.mapping, classes.tolist())
