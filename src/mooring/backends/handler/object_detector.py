"""ObjectDetector: an image in, what is where out."""

from typing import Any

from mooring.backends.handler.image_transforms import Compose, ToRGB, ToTensor
from mooring.backends.handler.labels import map_class_to_label
from mooring.backends.handler.timer import timed
from mooring.backends.handler.vision_handler import VisionHandler


class ObjectDetector(VisionHandler):
    """Answers ``{"name": [x1, y1, x2, y2], "score": s}`` of everything found with at least ``threshold``."""

    threshold = 0.5
    image_processing = Compose([ToRGB(), ToTensor()])

    @timed
    def postprocess(self, data: Any) -> Any:
        return [self._detections_of(image) for image in data]

    def _detections_of(self, image: Any) -> list[dict[str, Any]]:
        sure = image["scores"] >= self.threshold
        boxes, labels, scores = (image[key][sure].tolist() for key in ("boxes", "labels", "scores"))
        detections = []
        for box, label, score in zip(boxes, labels, scores, strict=True):
            detection = map_class_to_label([[box]], self.mapping, [[label]])[0]
            detection["score"] = score
            detections.append(detection)
        return detections
