"""What a request to an ensemble must have, and which shape each step gets."""

import doctest

import pytest
from ensemble_kit import ensemble_spec, fitting_models, specs, step
from msgspec import structs

from mooring.core.errors import InvalidInput
from mooring.core.requests import RequestedOutput
from mooring.core.tensors import Tensor, TensorSpec
from mooring.engine.graphs import ensemble_plan
from mooring.engine.graphs.ensemble_plan import EnsemblePlan
from mooring.repository.ensemble_rules import StepModel

SPEC = ensemble_spec(
    step("a", "x=A", "y=m"), step("b", "x=m", "y=C"), step("c", "x=B", "y=D"), inputs="A B?", outputs="C D"
)


def plan(spec=SPEC):
    made = EnsemblePlan(spec)
    made.models = fitting_models(spec)
    return made


def tensor(name, *shape, datatype="FP32"):
    return Tensor(name, datatype, [*shape], b"")


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(ensemble_plan).failed == 0


def test_only_the_steps_behind_the_wanted_outputs_run():
    made = plan()
    assert made.steps_for(made.wanted_outputs(None)) == {0, 1, 2}
    assert made.steps_for(made.wanted_outputs([RequestedOutput("C")])) == {0, 1}
    assert made.tensors_behind(0) == {"m", "C"}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ([tensor("A", 1, 2), tensor("A", 1, 2)], "input 'A' is sent twice"),
        ([tensor("B", 1, 2)], "input 'A' is missing"),
        ([tensor("Z", 1, 2)], "unexpected input 'Z'"),
        ([tensor("A", 1, 2, datatype="FP64")], "input 'A' is FP64; the model takes FP32"),
        ([tensor("A", 2)], "input 'A' has shape [2]; the model takes [-1, 2]"),
        ([tensor("A", 1, 3)], "input 'A' has shape [1, 3]"),
        ([tensor("A", -1, 2)], "input 'A' has shape [-1, 2]"),
        ([tensor("A", 1, 2), tensor("B", 2, 2)], "input 'B' batch size does not match other inputs for 'e'"),
        ([tensor("A", 9, 2)], "inference request batch-size must be <= 8 for 'e', and is 9"),
    ],
)
def test_inputs_are_checked_before_any_step_runs(tensors, said):
    with pytest.raises(InvalidInput) as caught:
        plan().check_inputs(tensors)
    assert said in caught.value.message


def test_a_batch_is_counted_where_there_is_one():
    assert plan().check_inputs([tensor("A", 3, 2), tensor("B", 3, 2)]) == 3
    whole = ensemble_spec(step("a", "x=A", "y=C"), inputs="A", outputs="C", batch=0)
    assert plan(whole).check_inputs([tensor("A", 3, 2)]) == 0


@pytest.mark.parametrize(
    ("model", "shape", "rows", "expected"),
    [
        (StepModel("a", 8, specs("x", (-1, 3))), [3], 0, [1, 3]),  # a batch of one is put in front
        (StepModel("a", 8, specs("x", (-1, 3))), [4, 3], 0, [4, 3]),
        (StepModel("a", 0, specs("x", (3,))), [1, 3], 1, [3]),  # and taken away
        (StepModel("a", 0, specs("x", (-1, 3))), [2, 3], 2, [2, 3]),  # or it is a dimension like any other
        (StepModel("a", 0, specs("x", (3,))), [2, 3], 2, [2, 3]),
        (StepModel("a", None), [2, 3], 2, [2, 3]),
    ],
)
def test_a_batch_dimension_comes_and_goes_as_the_model_of_a_step_has_it(model, shape, rows, expected):
    made = EnsemblePlan(SPEC)
    made.models = [model, model, model]
    assert made.shape_for_step(0, "x", shape, rows) == expected


def test_a_reshape_of_the_ensemble_is_between_the_client_and_the_steps():
    spec = structs.replace(
        SPEC,
        inputs=[TensorSpec("A", "FP32", [-1, 4], reshape=[-1, 2, 2])],
        outputs=[TensorSpec("C", "FP32", [-1, 4], reshape=[-1, 2, 2])],
    )
    made = EnsemblePlan(spec)
    assert made.shape_of_input("A", [3, 4]) == [3, 2, 2]
    assert made.shape_for_client("C", [3, 2, 2], 3) == [3, 4]
