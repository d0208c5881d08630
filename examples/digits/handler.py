"""Reads a handwritten digit from an image."""

import base64
import io

import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException


class DigitHandler(BaseHandler):
    """An image per request in, ``{"class": "7", "probability": 0.99}`` per request out."""

    def preprocess(self, data):
        return torch.stack([self.image_of(row) for row in data]).to(self.device)

    def inference(self, data, *args, **kwargs):
        with torch.inference_mode():
            return torch.softmax(self.model(data), dim=1)

    def postprocess(self, data):
        probabilities, classes = data.max(dim=1)
        return [
            {"class": self.mapping[str(digit)], "probability": round(probability, 4)}
            for digit, probability in zip(classes.tolist(), probabilities.tolist(), strict=True)
        ]

    def explain_handle(self, data_preprocess, raw_data):
        """Explain the digit that is recognized, or the one that a request names as its "target"."""
        targets = self.inference(data_preprocess).argmax(dim=1)
        for index, row in enumerate(raw_data):
            if isinstance(row, dict) and row.get("target") is not None:
                targets[index] = self.digit_of(row["target"])
        return self.get_insights(data_preprocess, raw_data, targets)

    def get_insights(self, tensor_data, _, target=0):
        """How much each pixel speaks for the target: [channels][height][width] per image."""
        # Here: with matplotlib, which it brings, it takes a quarter of a second, and few start a server to explain.
        from captum.attr import IntegratedGradients  # noqa: PLC0415

        return IntegratedGradients(self.model).attribute(tensor_data, target=target, n_steps=15).tolist()

    def digit_of(self, target):
        if isinstance(target, bytes | bytearray):  # a form field
            target = target.decode(errors="replace")
        if str(target) not in self.mapping:
            raise PredictionException(f"there is no digit {target!r} to explain", 400)
        return int(target)

    def image_of(self, row):
        """A row as a [1, 8, 8] tensor in [0, 1]: image bytes, base64 text, or pixels from 0 to 1 as nested lists."""
        while isinstance(row, dict):
            row = row.get("data") or row.get("body")
        if isinstance(row, list):
            return self.pixels(row)
        try:
            raw = base64.b64decode(row, validate=True) if isinstance(row, str) else row
            image = Image.open(io.BytesIO(raw)).convert("L")
        except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
            raise PredictionException(
                "this is no image: send a PNG or JPEG file, as it is or in base64", 400
            ) from error
        if image.size != (8, 8):
            image = image.resize((8, 8), Image.Resampling.BILINEAR)
        return self.pixels(list(image.tobytes())) / 255

    def pixels(self, values):
        try:
            return torch.tensor(values, dtype=torch.float32).reshape(1, 8, 8)
        except (RuntimeError, TypeError, ValueError) as error:
            raise PredictionException(f"an image has 8 rows of 8 numbers: {error}", 400) from error
