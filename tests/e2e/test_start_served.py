"""How a server starts: what its models seem to need is begun before they are read, and ended where they do not."""

import json

from e2e_kit import Server


def test_a_file_that_is_not_the_model_brings_nothing_of_its_kind(tmp_path):
    version = tmp_path / "repository" / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text("def infer(x):\n    return x * 2\n")
    (version / "leftover.onnx").write_bytes(b"")  # at a glance, a model of ONNX Runtime's
    (version.parent / "config.toml").write_text('platform = "python"\nentry = "model.py:infer"\n')
    server = Server(tmp_path, "--model-repository", tmp_path / "repository")
    try:
        server.started()
        answer = server.ask("POST", "/predictions/double", b'{"x": [1.5]}', "content-type: application/json")
        assert json.loads(answer.body) == {"output": [3.0]}
        (template,) = server.process.children()
        assert "mooring.backends.function" in template.cmdline()
        assert "onnxruntime" not in template.cmdline()
    finally:
        server.stop()
