"""Shows what a model knows of its request, and gives strings back in capitals."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

from .shout import shout  # a file beside this one


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.greeting = config["parameters"]["greeting"]["string_value"]
        self.args = {name: value for name, value in args.items() if name != "model_config"}

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        texts = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        known = {
            "id": request.request_id(),
            "correlation_id": request.correlation_id(),
            "flags": request.flags(),
            "outputs": sorted(request.requested_output_names()),
            "timeout": request.timeout() > 0,
            "parameters": json.loads(request.parameters()),
            "version": request.model_version(),
            "dir": pb_utils.get_model_dir().rpartition("python_models/")[2],
            "greeting": self.greeting,
            "args": {**self.args, "model_repository": self.args["model_repository"].rpartition("/")[2]},
        }
        pb_utils.Logger.log_info(f"asked for {len(texts)} texts")
        loud = np.array([shout(each) for each in texts.reshape(-1)], dtype=np.object_).reshape(texts.shape)
        context = np.array([json.dumps(known, sort_keys=True)], dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", loud), pb_utils.Tensor("CONTEXT", context)])
