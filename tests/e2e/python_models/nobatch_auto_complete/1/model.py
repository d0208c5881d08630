"""Its configuration is nowhere but in this file; its calls have no batch dimension."""

import json

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        for name in ("INPUT0", "INPUT1"):
            auto_complete_model_config.add_input({"name": name, "data_type": "TYPE_FP32", "dims": [4]})
        for name in ("OUTPUT0", "OUTPUT1"):
            auto_complete_model_config.add_output({"name": name, "data_type": "TYPE_FP32", "dims": [4]})
        auto_complete_model_config.set_max_batch_size(0)
        return auto_complete_model_config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.names = [each["name"] for each in config["output"]]

    def execute(self, requests):
        responses = []
        for request in requests:
            first, second = (each.as_numpy() for each in request.inputs())
            values = first + second, first - second
            responses.append(
                pb_utils.InferenceResponse(
                    [pb_utils.Tensor(*each) for each in zip(self.names, values, strict=False)]
                )
            )
        return responses
