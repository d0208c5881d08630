"""Adds up all responses of a decoupled model."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        question = pb_utils.InferenceRequest(
            model_name="square", inputs=request.inputs(), requested_output_names=["OUT"]
        )
        total = np.zeros(1, np.int32)
        for response in question.exec(decoupled=True):
            if response.has_error():
                raise pb_utils.TritonModelException(response.error().message())
            if response.output_tensors():  # the last one may say only that it is the last
                total += pb_utils.get_output_tensor_by_name(response, "OUT").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("SUM", total)])
