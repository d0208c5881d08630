"""Fails in every way in which a model can."""

import os
import sys
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        asked = [
            pb_utils.get_input_tensor_by_name(each, "HOW").as_numpy()[0, 0].decode() for each in requests
        ]
        if "slow" in asked:
            time.sleep(0.3)  # so that others come together meanwhile
        if "raise" in asked:
            raise ValueError("the model has had enough")
        if "refuse" in asked:
            raise pb_utils.TritonModelException("the model refuses")
        if "exit" in asked:
            sys.exit("the model leaves")
        if "surrogate" in asked:
            raise ValueError("half a \ud83d")
        if "fork" in asked and os.fork() == 0:
            raise ValueError("a forked process comes back")
        if "count" in asked:
            return []
        if "kind" in asked:
            return "no list"
        return [
            self._answer(how, request, len(requests)) for how, request in zip(asked, requests, strict=True)
        ]

    def _answer(self, how, request, together):
        if how.isdigit():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"code {how}", int(how)))
        if how == "sender":
            sender = request.get_response_sender()
            sender.send(_response(together), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return None
        if how == "empty":
            return pb_utils.InferenceResponse([])
        if how == "nothing":
            return None
        return _response(together)


def _response(together):
    tensor = pb_utils.Tensor("OUT", np.array([[together]], np.int32))
    return pb_utils.InferenceResponse([tensor], parameters={"together": together})
