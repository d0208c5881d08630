"""A backend for tests of the workers themselves: echoes payloads, and misbehaves when it is told to."""

import os
import resource
import signal
import time
from pathlib import Path

from mooring.backends.backend import Backend
from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.requests import InferenceResponse
from mooring.core.service import ModelMetadata
from mooring.core.tensors import Tensor


class EchoBackend(Backend):
    def load(self, spec, context):
        if spec.parameters.get("fail_at_load"):
            raise RuntimeError("told to fail at load")
        if Path(spec.parameters.get("fail_while", "/nowhere")).exists():
            raise RuntimeError("told to fail for now")
        broken = Path(spec.location, "broken")
        if broken.exists():
            raise ModelLoadFailed(f"the file is broken: {broken.read_text()}", detail="a long explanation")
        if spec.parameters.get("exit_at_load"):
            os._exit(3)
        time.sleep(float(spec.parameters.get("slow", 0.0)))
        self.leaked = []
        self.sleep = float(spec.parameters.get("sleep", 0.0))
        return ModelMetadata(spec.name, [spec.version], "test")

    def infer(self, requests, reply):
        if self.sleep:
            time.sleep(self.sleep)
        return [self.answer(row, request, reply) for row, request in enumerate(requests)]

    def answer(self, row, request, reply):
        if (request.parameters or {}).get("leak"):
            self.leaked.append(b"x" * request.parameters["leak"])
        command = (request.parameters or {}).get("do")
        if command == "raise":
            raise ValueError("told to raise")
        if command == "refuse":
            return InvalidInput("told to refuse")
        if command == "die":
            os._exit(7)
        if command == "kill":
            os.kill(os.getpid(), 9)
        if command == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if command == "print":
            print("last words", flush=True)
            os._exit(9)
        if command == "sleep":
            time.sleep(float(request.parameters["seconds"]))
        if command == "wait_for_cancel":
            for _ in range(500):
                if reply.cancelled(row):
                    return InferenceResponse([Tensor("out", "BYTES", [1], [b"cancelled"])])
                time.sleep(0.01)
        if command == "pid":
            return InferenceResponse([Tensor("out", "BYTES", [1], [b"%d" % os.getpid()])])
        if command == "fork" and not os.fork():
            time.sleep(600)
        if command == "stream":
            for number in range(3):
                reply.emit(
                    row, InferenceResponse([Tensor("out", "BYTES", [1], [b"%d" % number])], final=False)
                )
        if command == "flood_line":
            for _ in range(100):
                os.write(1, b"z" * 1_000_000)
        if command == "descriptors":
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return InferenceResponse([Tensor("out", "BYTES", [1], [b"%d" % limit])])
        if command == "flood":
            for number in range(200_000):
                print("line", number)
        if command == "copy_for_ever":
            view = request.inputs[0].data[0].view
            while True:
                assert len(bytes(view)) == len(view)
        data = request.inputs[0].data
        payloads = data if isinstance(data, list) else [data]
        out = [payload if isinstance(payload, bytes) else bytes(payload.view) for payload in payloads]
        return InferenceResponse([Tensor("out", "BYTES", [len(out)], out)])
