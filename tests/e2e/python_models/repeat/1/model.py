"""Gives every element of IN in a response of its own, each so many milliseconds after the one before. A negative one is an error."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    async def execute(self, requests):
        await asyncio.gather(*map(self._answer, requests))

    async def _answer(self, request):
        sender = request.get_response_sender()
        values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        delays = pb_utils.get_input_tensor_by_name(request, "DELAY").as_numpy()
        for index, (value, delay) in enumerate(zip(values, delays, strict=True)):
            for _ in range(int(delay)):
                if sender.is_cancelled():
                    pb_utils.Logger.log_warn("repeat is cancelled")
                    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                    return
                await asyncio.sleep(0.001)
            final = index == len(values) - 1
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
            if value < 0:
                response = pb_utils.InferenceResponse(error=pb_utils.TritonError("negative"))
            else:
                out = pb_utils.Tensor("OUT", np.array([value], np.int32))
                response = pb_utils.InferenceResponse(
                    [out, pb_utils.Tensor("IDX", np.array([index], np.uint32))]
                )
            sender.send(response, flags=flags)
