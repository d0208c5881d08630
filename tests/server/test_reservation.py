"""A start binds every address before anything else is begun, and says in one line which it cannot have."""

import errno
import os
import socket
import subprocess
import sys
from contextlib import closing

import pytest
from port_kit import free_ports

from mooring.config.settings import Address, Config
from mooring.server.reservation import AddressUnavailable, Reservation, _shorten, listener_settings
from mooring.web import binding

HOST = "127.0.0.1"
FREE = {
    f"{name}_address": Address(HOST, 0)
    for name in ("inference", "management", "metrics", "grpc", "grpc_management")
}


@pytest.fixture
def reserved():
    made = []

    def reserve(flags=None, **settings):
        made.append(Reservation(Config(**{**FREE, **settings}), flags or {}))
        made[-1].reserve()
        return made[-1]

    yield reserve
    for each in made:
        each.close()


def refusal(reserved, **settings):
    with pytest.raises(AddressUnavailable) as refused:
        reserved(**settings)
    return str(refused.value)


def connect(port):
    with closing(socket.create_connection((HOST, port), timeout=5)):
        pass


def test_the_second_addresses_are_bound_unless_they_are_the_first(reserved):
    config = reserved(
        second_inference_address=Address(HOST, 0), second_grpc_address=Address(HOST, 0)
    ).listening
    ports = {config.second_inference_address.port, config.second_grpc_address.port}
    assert len(ports - {0}) == 2
    rpc = Address(HOST, 7070)
    same = Config(
        grpc_address=rpc, second_grpc_address=rpc, second_inference_address=Address("127.0.0.1", 8080)
    )
    assert not [name for name in listener_settings(same) if name.startswith("second")]


def test_a_reserved_port_is_known_refuses_clients_and_is_nobody_elses(reserved):
    port = reserved().listening.inference_address.port
    assert port
    with pytest.raises(ConnectionRefusedError):
        connect(port)
    with pytest.raises(OSError, match="in use"):
        socket.create_server((HOST, port))  # which has SO_REUSEADDR, as most servers have it
    again = refusal(reserved, inference_address=Address(HOST, port))
    assert again == (
        f"inference_address: {HOST}:{port} is in use by another process; stop it or choose another with --port or"
        " --inference-address"
    )


def test_whoever_listens_is_named(reserved):
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        port = int(owner.stdout.readline())
        said = refusal(reserved, flags={"grpc_address": "--grpc-port"}, grpc_address=Address(HOST, port))
        owner.kill()
    assert said.startswith(f"grpc_address: {HOST}:{port} is in use, by process {owner.pid} (python")
    assert said.endswith("; stop it or choose another with --grpc-port")


def test_a_start_that_cannot_have_one_address_leaves_no_other_bound(reserved, tmp_path):
    (port,) = free_ports(1)
    with socket.create_server((HOST, 0)) as taken:
        refusal(
            reserved,
            inference_address=Address(HOST, port),
            management_address=Address(path=str(tmp_path / "m")),
            grpc_address=Address(HOST, taken.getsockname()[1]),
        )
    socket.create_server((HOST, port)).close()
    assert list(tmp_path.iterdir()) == []


def test_two_settings_of_one_start_may_not_meet(reserved):
    (port,) = free_ports(1)
    said = refusal(reserved, inference_address=Address(HOST, port), grpc_address=Address(HOST, port))
    assert said == (
        f"grpc_address: {HOST}:{port} is the inference_address of this start already; choose another with --grpc-address"
    )


def test_connections_of_the_last_server_in_time_wait_are_no_hindrance(reserved):
    first = reserved()
    port = first.listening.inference_address.port
    (listening,) = first.take("inference_address")
    binding.prepare_to_listen([listening])
    listening.listen()
    client = socket.create_connection((HOST, port))
    accepted, _ = listening.accept()
    accepted.close()  # whoever closes first has the port in TIME-WAIT
    client.close()
    listening.close()
    second = reserved(inference_address=Address(HOST, port))
    with pytest.raises(OSError, match="in use"):
        socket.create_server((HOST, port))
    (listening,) = second.take("inference_address")
    with listening:
        binding.prepare_to_listen([listening])
        listening.listen()
        connect(port)


def test_a_unix_socket_has_a_file_only_once_the_server_listens(reserved, tmp_path):
    path = tmp_path / "s"
    first = reserved(inference_address=Address(path=str(path)))
    assert not path.exists()
    assert "is in use by another process" in refusal(reserved, inference_address=Address(path=str(path)))
    assert first.take("inference_address") == []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        assert "is in use" in refusal(
            reserved, inference_address=Address(path=str(path))
        )  # and about to listen
        listening.listen()
        assert "is in use" in refusal(reserved, inference_address=Address(path=str(path)))
    assert path.exists()  # left by a server that was killed
    reserved(inference_address=Address(path=str(path)))
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 120, "the path is too long (a path of a unix socket may have 107 bytes)"),
        ("no/such/folder", "No such file or directory"),
        ("file", "a file that is not a socket is there"),
    ],
)
def test_a_unix_socket_that_cannot_be_says_why(reserved, tmp_path, name, reason):
    (tmp_path / "file").touch()
    path = str(tmp_path / name)
    assert refusal(reserved, metrics_address=Address(path=path)) == (
        f"metrics_address: cannot listen on {path}: {reason}; choose another with --metrics-address"
    )
    assert (tmp_path / "file").exists()


def test_an_address_of_another_machine_and_an_unknown_host_are_named(reserved):
    said = refusal(reserved, management_address=Address("192.0.2.1", 80))
    assert said.startswith("management_address: 192.0.2.1 is not an address of this machine; ")
    said = refusal(reserved, management_address=Address("host.invalid", 80))
    assert said.startswith("management_address: no address is known for the host 'host.invalid' (")


def test_a_host_that_is_wrong_names_the_flag_of_hosts(reserved):
    said = refusal(reserved, inference_address=Address("host.invalid", 80))
    assert said.endswith("choose another with --host or --inference-address")


def test_a_port_for_which_the_user_has_no_right_is_said_so(reserved, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("mooring.server.reservation.bind_sockets", refuse)
    said = refusal(reserved, inference_address=Address(HOST, 80))
    assert said.startswith(
        "inference_address: this user may not listen on port 80: the ports below 1024 are "
    )


def test_settings_with_one_address_are_reserved_once():
    one, zero = Address(HOST, 9), Address(HOST, 0)
    same = Config(
        inference_address=one,
        management_address=one,
        metrics_address=one,
        grpc_management_address=Config().grpc_address,
    )
    assert list(listener_settings(same)) == ["inference_address", "grpc_address"]
    assert len(list(listener_settings(Config(**dict.fromkeys(FREE, zero))))) == 5
    assert list(listener_settings(Config(enable_management_api=False, enable_metrics_api=False))) == [
        "inference_address",
        "grpc_address",
    ]


def test_every_address_of_a_host_gets_the_same_port():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    places = [(socket.AF_INET, (HOST, 0)), (socket.AF_INET6, ("::1", 0, 0, 0))]
    bound = binding.bind_sockets("localhost", places)
    try:
        assert len({each.getsockname()[1] for each in bound}) == 1
    finally:
        for each in bound:
            each.close()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/usr/bin/python3.11", "/venv/bin/mooring", "serve", "digits.mar"], "mooring serve digits.mar"),
        (["/usr/bin/python3", "-m", "http.server"], "python3 -m http.server"),
        (["/usr/sbin/nginx", "a\x1b[2Jb"], "nginx a?[2Jb"),
        (["x" * 200], "x" * 77 + "..."),
        ([], ""),
    ],
)
def test_an_owner_is_shown_as_its_user_typed_it(words, shown):
    assert _shorten(words) == shown
