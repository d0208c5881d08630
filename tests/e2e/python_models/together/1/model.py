"""Says how many requests came in its call, which takes a while."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.3)
        for request in requests:
            tensor = pb_utils.Tensor("TOGETHER", np.array([[len(requests)]], np.int32))
            sender = request.get_response_sender()
            sender.send(pb_utils.InferenceResponse([tensor]), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
