"""What a worker's template imports beforehand: torch only where a model's own code names it."""

import pytest
from model_kit import model_spec

from mooring.repository.preloads import fork_unsafe_reason, preload


def modules(folder, backend, entry):
    return preload(model_spec(name="m", version="1", backend=backend, location=str(folder), entry=entry))


@pytest.mark.parametrize(
    ("backend", "entry", "source", "torch"),
    [
        ("function", "model.py:f", "import numpy\n", False),
        ("function", "model.py:f", "import torch\n", True),
        ("function", "model.py:f", "from transformers import pipeline\n", True),
        ("handler", "model.py", "import json\n", False),
        ("handler", "model.py", "from ts.torch_handler.base_handler import BaseHandler\n", True),
        ("handler", "image_classifier", "", True),
        ("builtin", "echo", "import torch\n", False),
        ("function", "missing.py", "", False),
    ],
)
def test_torch_is_imported_beforehand_for_models_that_use_it(tmp_path, backend, entry, source, torch):
    (tmp_path / "model.py").write_text(source)
    assert ("torch" in modules(tmp_path, backend, entry)) is torch


def test_a_function_does_not_pay_for_the_scripts_beside_it(tmp_path):
    (tmp_path / "model.py").write_text("def f(x): return x\n")
    (tmp_path / "train.py").write_text("import torch\n")
    assert "torch" not in modules(tmp_path, "function", "model.py:f")
    assert "torch" in modules(tmp_path, "handler", "model.py")


@pytest.mark.parametrize("backend", ["handler", "function"])
def test_handlers_and_functions_are_loaded_in_each_worker_whatever_preload_says(backend):
    spec = model_spec(name="m", version="1", backend=backend, location=".", entry="model.py", preload=True)
    assert fork_unsafe_reason(spec, threads=1) == "its code is the user's own"
