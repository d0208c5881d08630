"""Workers see the server's variables but for those that are hidden, and no more GPUs than they may."""

import pytest

from mooring.config.settings import ConfigError
from mooring.workers.environment import check_device, worker_environment

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


@pytest.mark.parametrize(
    ("there", "device", "seen"),
    [
        (None, "cpu", ""),
        (None, "gpu", None),
        (None, "1,3", "1,3"),
        ("3,5,7", "cpu", ""),
        ("3,5,7", "gpu", "3,5,7"),
        ("3,5,7", "2,0", "7,3"),
    ],
)
def test_a_device_wins_over_a_number_of_gpus(there, device, seen):
    own = {} if there is None else {"CUDA_VISIBLE_DEVICES": there}
    expected = {} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}
    assert worker_environment(own, gpus=None, device=device) == expected
    if device != "gpu":
        assert worker_environment(own, gpus=1, device=device) == expected


@pytest.mark.parametrize(
    ("device", "own", "machine", "reason"),
    [
        ("gpu", {}, {"CPU": 8}, "there is no GPU on this machine; give cpu, or leave it out"),
        ("0", {}, {"CPU": 8}, "there is no GPU on this machine; give cpu, or leave it out"),
        ("gpu", {"CUDA_VISIBLE_DEVICES": ""}, {"CPU": 8, "H200": 1}, "CUDA_VISIBLE_DEVICES hides the GPUs"),
        ("1", {}, {"CPU": 8, "H200": 1}, "there is no GPU 1; this machine has 0 alone"),
        ("0,4", {}, {"CPU": 8, "H200": 4}, "there is no GPU 4; this machine has 0 to 3"),
        ("0,1", {"CUDA_VISIBLE_DEVICES": "3"}, {"CPU": 8, "H200": 4}, "there is no GPU 1"),
    ],
)
def test_gpus_that_are_not_there_are_refused(device, own, machine, reason):
    with pytest.raises(ConfigError) as refused:
        check_device(device, own, machine)
    assert str(refused.value).startswith(f"device = '{device}': {reason}")


def test_gpus_that_are_there_are_taken():
    check_device("gpu", {}, {"CPU": 8, "H200": 1})
    check_device("3,0", {}, {"CPU": 8, "H200": 2, "L4": 2})
