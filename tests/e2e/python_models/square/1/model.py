"""Gives the number n exactly n times, from a thread that goes on after execute has returned."""

import json
import signal
import threading

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        if not pb_utils.using_decoupled_model_transaction_policy(config):
            raise pb_utils.TritonModelException("square must be decoupled")
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as libraries do, and only the main thread may
        self.threads = []

    def execute(self, requests):
        assert threading.current_thread() is threading.main_thread()
        for request in requests:
            number = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            thread = threading.Thread(
                target=self._answer, args=(request.get_response_sender(), int(number[0]))
            )
            self.threads.append(thread)
            thread.start()

    def _answer(self, sender, number):
        for _ in range(number):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([number], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self):
        for thread in self.threads:
            thread.join()
