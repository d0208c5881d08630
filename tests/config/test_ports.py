"""One host and one port for a whole server: which address each listener gets, and which of two sources counts."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.config.settings import Address, Config, ConfigError
from mooring.config.sources.loading import load_config
from mooring.config.sources.ports import can_listen, place_listeners

NAMES = (
    "inference_address",
    "management_address",
    "metrics_address",
    "grpc_address",
    "grpc_management_address",
)


def ports_of(config):
    return [getattr(config, name).port for name in NAMES]


def placed(settings, busy=()):
    found = place_listeners(settings, lambda _host, port: port not in busy)
    return {name: address.port for name, address in found.items()}


def test_all_listeners_get_consecutive_ports_from_the_one_that_is_named():
    assert list(placed({"port": 9000}).items()) == list(zip(NAMES, range(9000, 9005), strict=True))


def test_taken_ports_are_passed_over_but_never_that_of_inference():
    assert list(placed({"port": 9000}, busy={9000, 9002, 9003}).values()) == [9000, 9001, 9004, 9005, 9006]


def test_an_address_of_its_own_stays_and_nobody_else_gets_its_port():
    own = {"port": 9000, "metrics_address": Address("0.0.0.0", 9001), "grpc_address": Address(path="/tmp/s")}
    assert placed(own) == {
        "inference_address": 9000,
        "management_address": 9002,
        "grpc_management_address": 9003,
    }


def test_port_0_is_a_free_port_for_each():
    assert set(placed({"port": 0}, busy={0}).values()) == {0}


def test_a_host_moves_inference_alone():
    hosts = {name: address.host for name, address in place_listeners({"host": "0.0.0.0"}, can_listen).items()}
    assert {name for name, host in hosts.items() if host == "0.0.0.0"} == {
        "inference_address",
        "grpc_address",
    }
    assert {host for host in hosts.values() if host != "0.0.0.0"} == {"127.0.0.1"}
    assert ports_of(load_config({"host": "0.0.0.0"}, {})) == ports_of(Config())


def test_too_few_ports_are_a_mistake_that_says_so():
    with pytest.raises(
        ConfigError, match="port = 65533: no port is free from there to 65535 for grpc_address"
    ):
        placed({"port": 65533})


@given(
    st.integers(1, 65_000),
    st.sets(st.integers(1, 65_535), max_size=40),
    st.dictionaries(st.sampled_from(NAMES), st.integers(1, 65_535), max_size=4),
)
def test_no_two_listeners_get_one_port_and_none_gets_a_taken_one(base, busy, named):
    found = placed({"port": base} | {name: Address("127.0.0.1", port) for name, port in named.items()}, busy)
    others = [port for name, port in found.items() if name != "inference_address"]
    assert found.keys() == set(NAMES) - named.keys()
    assert found.get("inference_address", base) == base
    assert not set(others) & (busy | set(named.values()))
    assert len(set(found.values())) == len(found)
    assert sorted(found.values()) == list(found.values())


def test_with_neither_nothing_changes():
    assert place_listeners({"inference_address": Address("127.0.0.1", 1)}, can_listen) == {}


def test_a_flag_wins_over_the_address_of_the_file_and_keeps_its_scheme(tmp_path):
    file = tmp_path / "m.toml"
    file.write_text('inference_address = "https://0.0.0.0:8443"\nmetrics_address = "http://127.0.0.1:1"')
    config = load_config({"port": "9443"}, {}, file)
    assert config.inference_address == Address("0.0.0.0", 9443, secure=True)
    assert config.metrics_address == Address("127.0.0.1", 1)
    assert load_config({"host": "::1"}, {}, file).inference_address == Address("::1", 8443, secure=True)


def test_an_address_of_a_later_source_wins_over_the_port(tmp_path):
    file = tmp_path / "m.toml"
    file.write_text("port = 0")
    config = load_config({"inference_address": "http://127.0.0.1:7"}, {}, file)
    assert ports_of(config) == [7, 0, 0, 0, 0]


def test_a_port_takes_the_place_of_a_socket_of_the_file(tmp_path):
    file = tmp_path / "m.toml"
    file.write_text('inference_address = "unix:/tmp/s"')
    assert load_config({"port": "0"}, {}, file).inference_address == Address("127.0.0.1", 0)


def test_what_a_command_has_as_its_own_is_no_reason_to_ignore_a_port():
    own = {"inference_address": Address("0.0.0.0", 8000), "grpc_address": Address("0.0.0.0", 8001)}
    config = load_config({}, {"MOORING_PORT": "0"}, defaults=own)
    assert config.inference_address == Address("0.0.0.0", 0)
    assert config.grpc_address == Address("0.0.0.0", 8001)


@pytest.mark.parametrize("text", ["0.0.0.0:80", "http://0.0.0.0", "a/b", "unix:/tmp/s", "user@host", "a b:1"])
def test_what_is_no_host_is_refused(text):
    with pytest.raises(ConfigError, match=r"--host = .*: give a host alone, such as"):
        load_config({"host": text}, {})


@pytest.mark.parametrize(("text", "host"), [("::1", "::1"), ("[::1]", "::1"), ("LocalHost", "localhost")])
def test_a_host_is_read_as_users_write_it(text, host):
    assert load_config({"host": text}, {}).inference_address.host == host


@pytest.mark.parametrize("text", ["-1", "65536", "http", "9000-9005"])
def test_what_is_no_port_is_refused(text):
    with pytest.raises(ConfigError, match="--port = "):
        load_config({"port": text}, {})


@pytest.mark.parametrize("text", ["tpu", "gpu,0", "0,-1", "cpu,", "²"])
def test_what_is_no_device_is_refused(text):
    with pytest.raises(ConfigError, match="give cpu, gpu, or numbers of GPUs"):
        load_config({"device": text}, {})


def test_a_port_at_which_somebody_listens_is_taken_and_one_where_nobody_does_is_not():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert not can_listen("127.0.0.1", port)
        assert not can_listen("0.0.0.0", port)
    assert can_listen("127.0.0.1", port)
    assert can_listen("no-such-host.invalid", 80)
