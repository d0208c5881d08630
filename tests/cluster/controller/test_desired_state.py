"""The desired state is changed by making a new one, and survives its encoding whole."""

import msgspec

from mooring.cluster.controller.desired_state import (
    DesiredState,
    DesiredVersion,
    Rollout,
    VersionSettings,
)
from mooring.cluster.records import ModelFiles
from mooring.core.options import Placement

FILES = ModelFiles("ab" * 32, "m.onnx", 7, sources=["file:///m.onnx"])


def version(**fields):
    return DesiredVersion(settings=VersionSettings(files=FILES), **fields)


def test_a_state_survives_its_encoding():
    settings = VersionSettings(
        files=FILES, options={"batch_size": 4}, placement=Placement(num_gpus=2, labels={"zone": "a"})
    )
    rollout = Rollout(make_default=True, retire="1", before=VersionSettings(files=FILES))
    state = DesiredState(generation=7, drained=["b"]).with_version("m", "1", version(replicas=3))
    state = state.with_version("m", "2", DesiredVersion(settings=settings, rollout=rollout))
    state = state.with_default("m", "1")
    assert msgspec.json.decode(msgspec.json.encode(state), type=DesiredState) == state


def test_a_version_that_goes_is_no_default_and_the_last_one_takes_the_model_with_it():
    state = DesiredState().with_version("m", "1", version()).with_version("m", "2", version())
    state = state.with_default("m", "1")
    state = state.with_version("m", "1", None)
    assert state.models["m"].default == ""
    assert [(model, name) for model, name, _ in state] == [("m", "2")]
    assert state.with_version("m", "2", None) == DesiredState()
