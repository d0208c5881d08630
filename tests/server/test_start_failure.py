"""What a start says that ends because of a model."""

import pytest

from mooring.core.errors import ModelLoadFailed, PackageMissing, WorkerDied
from mooring.core.service import ModelState
from mooring.server.start_failure import check_all_loaded, start_failure


def state(name, state="LOADING", *, listed=True):
    return ModelState(name, "1", state, ready=state == "READY", is_default=True, listed=listed)


def test_the_reason_is_told_with_its_traceback_for_who_prints_it():
    told = start_failure("m", ModelLoadFailed("no weights", version="2", detail="Traceback"), [state("m")])
    assert (told.message, told.version, told.detail) == (
        "model 'm' cannot be loaded: no weights",
        "2",
        "Traceback",
    )


def test_what_the_log_has_and_what_needs_no_traceback_has_none():
    died = WorkerDied("Worker died.", detail="the last lines")
    died.how = "was killed by signal 9 (SIGKILL)"
    told = start_failure("m", died, [])
    assert told.message == "model 'm' cannot be loaded: Worker died: it was killed by signal 9 (SIGKILL)"
    assert (
        told.detail
        == start_failure("m", PackageMissing("pip install x", detail="Traceback"), []).detail
        == ""
    )


def test_the_others_are_named_with_their_state_and_a_crowd_of_them_is_counted():
    models = [state("m"), state("a", "READY"), state("b"), state("c", "FAILED"), state("step", listed=False)]
    told = start_failure("m", ModelLoadFailed("no"), models).message
    others = "'a' was ready, 'b' was being loaded, 'c' failed as well"
    assert told.endswith(f"no (of the others, {others}; --keep-going serves what can be loaded)")
    crowd = start_failure("m", ModelLoadFailed("no"), [state(f"x{number}") for number in range(200)]).message
    assert "and 195 more; " in crowd


def test_with_exit_on_error_every_model_must_be_ready():
    check_all_loaded([state("a", "READY")])
    with pytest.raises(ModelLoadFailed, match="not loaded: b, c; with exit_on_error"):
        check_all_loaded([state("a", "READY"), state("b", "FAILED"), state("c"), state("c")])
