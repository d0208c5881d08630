"""Asks two models at the same time, and takes an output of each."""

import asyncio

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    async def execute(self, requests):
        return [await self._answer(request) for request in requests]

    async def _answer(self, request):
        inputs = [pb_utils.get_input_tensor_by_name(request, each) for each in ("INPUT0", "INPUT1")]
        questions = [
            pb_utils.InferenceRequest(model_name=name, requested_output_names=[output], inputs=inputs)
            for name, output in (("add_sub", "OUTPUT0"), ("jax", "OUTPUT1"))
        ]
        answers = await asyncio.gather(*(each.async_exec() for each in questions))
        for answer in answers:
            if answer.has_error():
                return pb_utils.InferenceResponse(error=answer.error())
        found = [
            pb_utils.get_output_tensor_by_name(answer, name)
            for answer, name in zip(answers, ("OUTPUT0", "OUTPUT1"), strict=True)
        ]
        return pb_utils.InferenceResponse(found)
