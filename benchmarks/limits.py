"""What a model can do in this machine without any server: the most that one may hope for, in the layout of the servers.

    python limits.py ENGINE MODEL FOLDER PROCESSES BATCH SECONDS

So many processes of one thread each call the model with batches of this many rows; prints rows per second over all,
the seconds of one call, and the seconds of CPU of one row. ENGINE is torch, optimized (torch, with the model as the server rearranges it) or onnx.
"""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import models


def measured(
    engine: str, model: str, folder: Path, processes: int, batch: int, seconds: float
) -> tuple[float, float, float]:
    """Rows per second of all, the mean seconds of a call, and the mean seconds of CPU of a row."""
    command = [sys.executable, __file__, engine, model, str(folder), "0", str(batch), str(seconds)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()  # it is ready
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
    calls = []
    for process in running:
        assert process.stdout is not None
        calls.append(json.loads(process.stdout.read()))
        process.wait()
    rate = sum(each["calls"] * batch / each["seconds"] for each in calls)
    cpu = sum(each["cpu"] for each in calls) / sum(each["calls"] * batch for each in calls)
    return rate, calls[0]["seconds"] / calls[0]["calls"], cpu


def callable_of(engine: str, name: str, folder: Path) -> models.Model:
    """The model in this process, on one thread."""
    if engine == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(folder / name / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        return lambda x: session.run(None, {"x": x})[0]
    import torch

    torch.set_num_threads(1)
    program = torch.jit.load(str(folder / name / "model.pt"))
    if engine == "optimized":
        program = torch.jit.optimize_for_inference(program)

    def call(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return program(torch.from_numpy(x)).numpy()

    return call


def _run(engine: str, name: str, folder: Path, batch: int, seconds: float) -> None:
    call = callable_of(engine, name, folder)
    x = models.example(name, batch)
    for _ in range(3 if seconds else 1):
        call(x)
    print("ready", flush=True)
    if not seconds:
        return
    sys.stdin.read()
    began, used, calls = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        call(x)
        calls += 1
    used = time.process_time() - used
    print(json.dumps({"calls": calls, "seconds": time.perf_counter() - began, "cpu": used}))


if __name__ == "__main__":
    engine, name, folder, processes, batch, seconds = sys.argv[1:]
    if int(processes):
        print(*measured(engine, name, Path(folder), int(processes), int(batch), float(seconds)))
    else:
        _run(engine, name, Path(folder), int(batch), float(seconds))
