"""A model without any server, in one process on one thread: the most that a server can reach.

    echo "8 3" | python limits.py ENGINE MODEL FOLDER

ENGINE is torch, optimized (torch, with the model as the server rearranges it) or onnx. It prints ``ready`` after the first
call. For every line of rows and seconds it then calls the model with that many rows for that long, and prints the figures.
in_process.py runs several of these processes in turn with the servers.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import models


def load_callable(engine: str, name: str, folder: Path) -> models.Model:
    """Load a model in this process, on one thread."""
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
    program = torch.jit.load(str(folder / name / "model.pt")).eval()
    if engine == "optimized":
        from mooring.backends.onednn_layout import optimize_for_onednn

        program = optimize_for_onednn(torch.jit.freeze(program)) or program

    def call(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return program(torch.from_numpy(x)).numpy()

    return call


def main(engine: str, name: str, folder: Path) -> None:
    call = load_callable(engine, name, folder)
    call(models.example(name, 1))
    print("ready", flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        print(json.dumps(measure_calls(call, models.example(name, int(batch)), float(seconds))), flush=True)


def measure_calls(call: models.Model, x: np.ndarray, seconds: float) -> dict[str, float]:
    """Return the number of whole calls, at least one, with their seconds and CPU seconds."""
    for _ in range(3):
        call(x)
    began, used, calls = time.perf_counter(), time.process_time(), 0
    while not calls or time.perf_counter() - began < seconds:
        call(x)
        calls += 1
    used = time.process_time() - used
    return {"calls": calls, "seconds": time.perf_counter() - began, "cpu": used}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
