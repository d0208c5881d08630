"""Workers see the server's variables but for those that are hidden, and no more GPUs than they may."""

import pytest

from mooring.workers.environment import worker_environment

OWN = {"AWS_KEY": "a", "MY_AWS_KEY": "b", "TOKEN": "c"}


def test_only_whole_names_are_hidden():
    assert worker_environment(OWN) == OWN
    assert worker_environment(OWN, hidden="AWS_.*|TOK") == {"MY_AWS_KEY": "b", "TOKEN": "c"}


@pytest.mark.parametrize(
    ("there", "gpus", "seen"),
    [
        (None, 2, "0,1"),
        (None, 0, ""),
        ("3,5,7", 2, "3,5"),
        ("3", 2, "3"),
        ("", 2, ""),
        ("GPU-1,GPU-2", 1, "GPU-1"),
    ],
)
def test_of_the_gpus_that_are_there_so_many_are_seen(there, gpus, seen):
    own = {} if there is None else {"CUDA_VISIBLE_DEVICES": there}
    assert worker_environment(own, gpus=gpus) == {"CUDA_VISIBLE_DEVICES": seen}
