"""Loads, unloads and looks at other models, and calls them in ways that fail."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        what = pb_utils.get_input_tensor_by_name(request, "WHAT").as_numpy()[0].decode()
        try:
            said = getattr(self, f"_{what}")()
        except pb_utils.TritonModelException as error:
            said = f"refused: {error}"
        return pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array([said], dtype=np.object_))])

    def _load(self):
        if not pb_utils.is_model_ready(model_name="jax"):
            return "jax is not there"
        pb_utils.unload_model(model_name="jax")
        between = pb_utils.is_model_ready(model_name="jax", model_version="1")
        pb_utils.load_model(model_name="jax")
        return f"{between} {pb_utils.is_model_ready(model_name='jax')}"

    def _load_itself(self):
        pb_utils.load_model(model_name="bls_control")

    def _load_nothing(self):
        pb_utils.load_model(model_name="nowhere")

    def _unknown(self):
        return self._error("nowhere", [])

    def _invalid(self):
        return self._error("add_sub", [pb_utils.Tensor("INPUT0", np.zeros(4, np.float32))])

    def _not_decoupled(self):
        return self._error("square", [pb_utils.Tensor("IN", np.array([2], np.int32))])

    def _late(self):
        inputs = [
            pb_utils.Tensor("IN", np.ones(1, np.int32)),
            pb_utils.Tensor("DELAY", np.array([60_000], np.uint32)),
        ]
        begin = time.monotonic()
        question = pb_utils.InferenceRequest(model_name="repeat", inputs=inputs, timeout=200_000)
        answer = question.exec()
        return f"{answer.error().code()} {time.monotonic() - begin < 10}"

    def _wait(self):
        inputs = [
            pb_utils.Tensor("IN", np.ones(1, np.int32)),
            pb_utils.Tensor("DELAY", np.array([60_000], np.uint32)),
        ]
        return self._error("repeat", inputs)

    def _code(self):
        how = pb_utils.Tensor("HOW", np.array([["6"]], dtype=np.object_))
        return self._error("faulty", [how])

    def _error(self, model, inputs):
        answer = pb_utils.InferenceRequest(model_name=model, inputs=inputs).exec()
        return f"{answer.error().code()}: {answer.error().message()}"
