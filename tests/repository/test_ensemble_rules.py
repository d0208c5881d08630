"""What makes an ensemble's configuration wrong, by itself; the models of its steps are in test_ensembles_served.py."""

import doctest

import pytest

from mooring.core.errors import ModelLoadFailed
from mooring.repository import ensemble_rules
from mooring.repository.declaration_reader import read_declaration

HEAD = 'platform = "ensemble"\n[[inputs]]\nname = "A"\ndatatype = "FP32"\nshape = [2]\n[[outputs]]\nname = "B"\ndatatype = "FP32"\nshape = [2]\n'


def steps(*each):
    return HEAD + "".join(
        f'[[ensemble.steps]]\nmodel = "{model}"\ninputs = {{ x = "{read}" }}\noutputs = {{ y = "{written}" }}\n'
        for model, read, written in each
    )


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(ensemble_rules).failed == 0


def test_one_is_declared_in_toml_as_well(tmp_path):
    (tmp_path / "config.toml").write_text(steps(("m", "A", "c"), ("n", "c", "B")))
    declared = read_declaration(tmp_path / "config.toml")
    assert [(each.model, each.version) for each in declared.ensemble.steps] == [("m", -1), ("n", -1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, "an ensemble needs ensemble_scheduling with a step"),
        (HEAD + "[ensemble]\n", "an ensemble needs a step"),
        (steps(("m", "A", "B")).replace("ensemble", "onnx", 1), "is for a model of the platform 'ensemble', and this one is 'onnx'"),
        (steps(("", "A", "B")), "step 0 of the ensemble has no model_name"),
        (steps(("../m", "A", "B")), "step 0 of the ensemble names '../m', which cannot be the name of a model"),
        (steps(*[("m", "A", f"b{each}") for each in range(1001)]), "ensemble.steps must have at most 1000 items"),
        (HEAD + '[[ensemble.steps]]\nmodel = "m"\n', "step 0 of the ensemble has no input_map"),
        (HEAD + '[[ensemble.steps]]\nmodel = "m"\ninputs = { x = "A" }\n', "step 0 of the ensemble has no output_map"),
        (steps(("m", "A", "A"), ("m", "A", "B")), "step 0 ('m') writes 'A', which is an input of the ensemble"),
        (steps(("m", "A", "B"), ("n", "A", "B")), "step 1 ('n') writes 'B', which is written already"),
        (steps(("m", "C", "B")), "step 0 ('m') reads 'C' as input 'x', which no step writes"),
        (steps(("m", "A", "C"), ("n", "C", "D")), "output 'B' of the ensemble is written by no step"),
        (steps(("m", "A", "B"), ("n", "A", "C")), "tensor 'C' is read by no step, and is not an output of the ensemble"),
        (steps(("m", "C", "B"), ("n", "B", "C")), "input 'A' of the ensemble is read by no step"),
        (steps(("k", "A", "B"), ("m", "C", "D"), ("n", "D", "C")), "the steps of 'm', 'n' wait for each other"),
    ],
)  # fmt: skip
def test_steps_that_cannot_run_are_refused(tmp_path, text, said):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ModelLoadFailed) as caught:
        read_declaration(tmp_path / "config.toml")
    assert said in caught.value.message
