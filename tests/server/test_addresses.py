"""What each address serves: settings with one address share it."""

from contextlib import AsyncExitStack

import pytest

from mooring.config.settings import Address, Config
from mooring.server.server import Server

MANAGED, MEASURED, INFERRED = "/models/{model_name}", "/metrics", "/predictions/{model_name}"


@pytest.fixture
async def mounts_of():
    async with AsyncExitStack() as stack:

        def mounts(**settings):
            server = Server(Config(arena_size=65_536, **settings), stack)
            return {
                mount.setting: {endpoint.pattern for endpoint in mount.endpoints}
                for mount in server.addresses.mounts()
            }

        yield mounts


def address(port):
    return Address.parse(f"http://127.0.0.1:{port}", 0)


async def test_each_address_serves_its_own(mounts_of):
    mounts = mounts_of()
    assert list(mounts) == ["inference_address", "management_address", "metrics_address"]
    assert {name for name, served in mounts.items() if MANAGED in served} == {"management_address"}
    assert {name for name, served in mounts.items() if MEASURED in served} == {"metrics_address"}
    assert {name for name, served in mounts.items() if INFERRED in served} == {"inference_address"}


async def test_one_port_shows_all(mounts_of):
    one = address(9100)
    mounts = mounts_of(inference_address=one, management_address=one, metrics_address=address(9101))
    assert list(mounts) == ["inference_address", "metrics_address"]
    assert {MANAGED, MEASURED, INFERRED} <= mounts["inference_address"]
    assert MEASURED in mounts["metrics_address"]


async def test_port_0_is_an_address_of_its_own_each_time(mounts_of):
    zero = address(0)
    mounts = mounts_of(inference_address=zero, management_address=zero, metrics_address=zero)
    assert list(mounts) == ["inference_address", "management_address", "metrics_address"]


async def test_a_second_address_serves_inference_without_console_and_management(mounts_of):
    one = address(9100)
    mounts = mounts_of(inference_address=one, management_address=one, second_inference_address=address(9101))
    assert list(mounts) == ["inference_address", "second_inference_address", "metrics_address"]
    second = mounts["second_inference_address"]
    assert {INFERRED, "/v1/models/{model_name}:predict", "/v2/models/{model_name}/infer"} <= second
    assert MANAGED not in second
    console = {each for each in mounts["inference_address"] if each.startswith("/console")}
    assert console
    assert not console & second


async def test_a_second_address_that_is_the_first_adds_nothing(mounts_of):
    same = mounts_of(inference_address=address(9100), second_inference_address=address(9100))
    assert list(same) == ["inference_address", "management_address", "metrics_address"]


@pytest.mark.parametrize(
    ("shown", "metrics", "told"),
    [
        (None, "127.0.0.1", True),
        (None, "0.0.0.0", False),
        (True, "0.0.0.0", True),
        (False, "127.0.0.1", False),
    ],
)
async def test_strangers_are_told_of_no_other_address(shown, metrics, told):
    config = Config(arena_size=65_536, show_errors=shown, metrics_address=Address(metrics, 9102))
    async with AsyncExitStack() as stack:
        addresses = Server(config, stack).addresses
        addresses.mounts()
        message = addresses._not_found(b"/models").message
    assert ("http://127.0.0.1:8081/models" in message) is told


async def test_nobody_serves_metrics_that_are_switched_off(mounts_of):
    assert not any(MEASURED in served for served in mounts_of(enable_metrics_api=False).values())
