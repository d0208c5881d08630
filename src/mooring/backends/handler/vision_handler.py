"""VisionHandler: images in, and which pixels mattered out."""

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mooring.backends.handler.base_handler import BaseHandler
from mooring.backends.handler.context import Context
from mooring.backends.handler.insights import ConfiguredInsights, HandlerNetwork, check_target, input_of
from mooring.backends.handler.timer import timed

_STEPS = 15


class VisionHandler(BaseHandler):
    """A subclass sets ``image_processing``, which turns a PIL image into a tensor."""

    image_processing: Any = None

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels", True):
            Image.MAX_IMAGE_PIXELS = None
        table = self.model_yaml_config.get("explain")
        # A handler with ways of its own may have settings of its own under that key.
        if isinstance(table, dict) and type(self).get_insights is VisionHandler.get_insights:
            folder = Path(context.system_properties["model_dir"])
            network = HandlerNetwork(self.model, self.device)
            self._insights = ConfiguredInsights(table, folder, network, self.mapping)

    @property
    def ig(self) -> Any:
        """Captum's integrated gradients of the model; Captum is imported when an explanation is asked for."""
        explainer = self.__dict__.get("_ig")
        if explainer is None:
            from captum.attr import IntegratedGradients

            explainer = self.__dict__["_ig"] = IntegratedGradients(self.model)
        return explainer

    @ig.setter
    def ig(self, explainer: Any) -> None:
        self.__dict__["_ig"] = explainer

    @timed
    def preprocess(self, data: Any) -> Any:
        """One batch of all rows' images: bytes of an image file, base64 text of them, or nested numbers."""
        return torch.stack([self._image_tensor(row) for row in data]).to(self.device)

    def _image_tensor(self, row: Any) -> torch.Tensor:
        image = input_of(row)
        if isinstance(image, str):
            image = base64.b64decode(image)
        if isinstance(image, (bytes, bytearray)):
            image = _without_base64(image)
            with Image.open(io.BytesIO(image)) as file:
                tensor: torch.Tensor = self.image_processing(file)
            return tensor
        # Not FloatTensor: it takes a lone number for a size, and a caller could have gigabytes of memory, unwritten.
        return torch.tensor(image, dtype=torch.float32)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        """How much every pixel of every channel spoke for ``target``. Raises ``InvalidInput`` for one there is not."""
        if self._insights is not None:
            return self._insights.attribute(tensor_data, target).tolist()
        target = check_target(self.model, (tensor_data,), target, self.mapping)
        return self.ig.attribute(tensor_data, target=target, n_steps=_STEPS).tolist()


def _without_base64(image: bytes | bytearray) -> bytes | bytearray:
    """Return the bytes of an image file, which the JSON of v2 carries as base64 text.

    The file of an image has bytes that base64 lacks, whatever its format.
    """
    try:
        return binascii.a2b_base64(image, strict_mode=True)
    except binascii.Error:
        return image
