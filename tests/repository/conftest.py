"""A model in a folder, for tests of configurations."""

import pytest


@pytest.fixture
def model(tmp_path):
    """A function model in a folder ``adder`` with a version 1."""
    (tmp_path / "adder" / "1").mkdir(parents=True)
    (tmp_path / "adder" / "1" / "model.py").write_text("def infer(inputs, parameters): return inputs\n")
    return tmp_path / "adder"
