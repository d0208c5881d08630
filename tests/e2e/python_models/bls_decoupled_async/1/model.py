"""Asks a decoupled model twice at the same time, and adds up all of its responses."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    async def execute(self, requests):
        return [await self._answer(request) for request in requests]

    async def _answer(self, request):
        questions = [
            pb_utils.InferenceRequest(
                model_name="square", inputs=request.inputs(), requested_output_names=["OUT"]
            )
            for _ in range(2)
        ]
        total = np.zeros(1, np.int32)
        for responses in await asyncio.gather(*(each.async_exec(decoupled=True) for each in questions)):
            for response in responses:
                if response.output_tensors():
                    total += pb_utils.get_output_tensor_by_name(response, "OUT").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("SUM", total)])
