"""Chains over a real server, where it matters how large answers travel from node to node."""

import json
import struct

from e2e_kit import Server

# As many of the numbers as the first of them says.
SHORTER = """
import numpy as np

def infer(inputs, parameters):
    x = inputs["x"]
    return {"x": np.ascontiguousarray(x[: int(x[0])])}
"""
CHAIN = """
name = "twice"
[[models]]
name = "first"
entry = "shorter.py:infer"
[[models]]
name = "second"
entry = "shorter.py:infer"
"""
MANY = 60_000


def test_a_node_gets_the_answer_before_it_in_its_own_length_after_larger_ones(tmp_path):
    place = tmp_path / "models/twice"
    (place / "1").mkdir(parents=True)
    (place / "config.toml").write_text(CHAIN)
    (place / "1/shorter.py").write_text(SHORTER)
    server = Server(tmp_path, "--model-repository", tmp_path / "models").started()
    try:
        for count in (50_000, 50_000, 30_000, 20_000, MANY, 18_000):
            numbers = struct.pack(f"<{MANY}f", *[float(count)] * MANY)
            entry = {
                "name": "x",
                "datatype": "FP32",
                "shape": [MANY],
                "parameters": {"binary_data_size": 4 * MANY},
            }
            text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
            answer = server.ask(
                "POST", "/v2/models/twice/infer", text + numbers, f"Inference-Header-Content-Length: {len(text)}"
            )  # fmt: skip
            assert answer.code == 200
            assert answer.body.endswith(numbers[: 4 * count])
            assert len(answer.body) < 4 * count + 500
        assert server.stop() == 0
    finally:
        server.kill()
