"""Which processes model-config.yaml asks for, and what of it cannot be."""

import pytest

from mooring.core.errors import ModelLoadFailed
from mooring.core.options import Parallel, ParallelType
from mooring.repository.parallel import check_machines, find_faults, read_parallel

TORCHRUN = {"nproc-per-node": 2, "OMP_NUMBER_THREADS": 3, "master-addr": "10.0.0.1", "master-port": 29500}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"parallelType": "tp"}, None),
        ({"parallelLevel": 4}, None),
        ({"torchrun": {}}, None),
        ({"torchrun": {"nproc-per-node": 2}}, Parallel(level=2)),
        ({"torchrun": {"max-restarts": 3}}, Parallel(level=1)),
        ({"parallelType": "PP", "parallelLevel": 2}, Parallel(type=ParallelType.PIPELINE, level=2)),
        (
            {"parallelType": "tp", "parallelLevel": 8, "torchrun": {"nproc-per-node": 2}},
            Parallel(type=ParallelType.TENSOR, level=2),
        ),
        (
            {"parallelType": "pptp", "torchrun": TORCHRUN, "deviceType": "gpu", "deviceIds": [2, 3]},
            Parallel(
                type=ParallelType.PIPELINE_TENSOR,
                level=2,
                threads=3,
                master="10.0.0.1",
                master_port=29500,
                device_type="gpu",
                devices=[2, 3],
            ),
        ),
        ({"parallelType": "custom", "parallelLevel": 4}, Parallel(type=ParallelType.CUSTOM, level=4)),
        ({"torchrun": {"nproc-per-node": "auto", "OMP_NUM_THREADS": 2}}, Parallel(level=1, threads=2)),
    ],
)
def test_a_group_is_asked_for_as_in_torchserve(config, expected):
    assert read_parallel(config) == expected


def test_only_a_group_of_the_handlers_own_is_one_process_for_the_server():
    assert not Parallel(type=ParallelType.CUSTOM).grouped
    assert Parallel().grouped


def test_wrong_values_are_named_with_what_was_expected():
    config = {
        "parallelType": "diagonal",
        "parallelLevel": "two",
        "torchrun": {"nproc-per-node": "auto"},
        "deviceIds": ["a"],
    }
    assert dict(find_faults(config)) == {
        "parallelType": "expected one of tp, pp, pptp, custom",
        "parallelLevel": "expected a whole number from 1",
        "torchrun": "expected a whole number from 1 as nproc-per-node",
        "deviceIds": "expected a list of whole numbers",
    }
    assert dict(find_faults({"torchrun": 2})) == {
        "torchrun": "expected a mapping of settings, as in 'nproc-per-node: 2'"
    }
    assert not dict(find_faults({"parallelType": "NONE", "parallelLevel": 0, "torchrun": {}}))


def test_a_group_on_several_machines_is_refused():
    check_machines({"torchrun": {"nnodes": 1}}, "c.yaml")
    with pytest.raises(
        ModelLoadFailed, match=r"^c\.yaml: torchrun\.nnodes is 2, and a parallel group runs on one"
    ):
        check_machines({"torchrun": {"nnodes": 2}}, "c.yaml")
