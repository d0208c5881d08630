"""Reads an image file, makes it 8 by 8 pixels, and scales these to the range of a network."""

import io
import json

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image


class TritonPythonModel:
    def initialize(self, args):
        config = pb_utils.get_output_config_by_name(json.loads(args["model_config"]), "PIXELS")
        self.dtype = pb_utils.triton_string_to_numpy(config["data_type"])
        self.size = tuple(config["dims"][1:])

    def execute(self, requests):
        responses = []
        for request in requests:
            files = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
            pixels = np.stack([self._read(each.tobytes()) for each in files])
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor("PIXELS", pixels.astype(self.dtype))])
            )
        return responses

    def _read(self, file):
        image = Image.open(io.BytesIO(file)).convert("RGB").resize(self.size)
        return np.asarray(image).transpose(2, 0, 1) / 255
