"""Sum and difference by a torch module; its tensors come and go by DLPack."""

import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack, to_dlpack


class AddSub(torch.nn.Module):
    def forward(self, first, second):
        return first + second, first - second


class TritonPythonModel:
    def initialize(self, args):
        self.net = AddSub()

    def execute(self, requests):
        responses = []
        for request in requests:
            first = from_dlpack(pb_utils.get_input_tensor_by_name(request, "INPUT0").to_dlpack())
            second = torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, "INPUT1"))
            total, difference = self.net(first, second)
            tensors = [
                pb_utils.Tensor.from_dlpack("OUTPUT0", to_dlpack(total)),
                pb_utils.Tensor.from_dlpack("OUTPUT1", difference),
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
