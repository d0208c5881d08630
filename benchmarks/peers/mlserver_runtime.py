"""A runtime of MLServer, for any of the models by its name."""

import models
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    async def load(self) -> bool:
        self.model = models.load(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = self.model(np.ascontiguousarray(NumpyCodec.decode_input(payload.inputs[0])))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", given)])
