"""The hosts that tests of clusters run on: they reach each other, are cut off, freeze and die, and leave nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest
from hosts import Network, until, why_no_hosts
from slow_cable import slow_cable

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts() or "there can be hosts"),
]

ECHO = "import socket,sys; s=socket.create_server((sys.argv[1], 4000)); print('up', flush=True)\nwhile True: s.accept()[0].sendall(b'x')"
ASK = "import socket,sys; s=socket.create_connection((sys.argv[1], 4000), 0.5); s.settimeout(0.5); assert s.recv(1) == b'x'"


@pytest.fixture(scope="module")
def network():
    with Network(3) as network:
        for host in network.hosts:
            server = host.start(sys.executable, "-c", ECHO, host.address, stdout=subprocess.PIPE)
            server.stdout.readline()
            server.stdout.close()
        yield network


def reaches(host, other):
    return host.try_to_run(sys.executable, "-S", "-c", ASK, other.address).returncode == 0


def test_hosts_reach_each_other_until_they_are_parted(network):
    one, two, three = network.hosts
    assert reaches(one, two)
    network.partition(one, two)
    assert not reaches(one, two)
    assert not reaches(two, one)
    assert reaches(one, three)
    network.heal(one, two)
    assert reaches(one, two)
    assert reaches(two, one)


def test_a_slow_cable_takes_its_time(network):
    one, two, _ = network.hosts
    timed = (
        f"import time; began = time.monotonic(); {ASK.replace('0.5', '5')}; print(time.monotonic() - began)"
    )

    def seconds():
        return float(one.run(sys.executable, "-S", "-c", timed, two.address))

    with slow_cable(two, delay=0.2):
        assert 0.4 < seconds() < 5
    assert seconds() < 0.4


def test_a_frozen_host_answers_when_it_thaws_and_a_dead_one_never(network):
    one, two, _ = network.hosts
    two.freeze()
    assert not reaches(one, two)
    two.thaw()
    assert reaches(one, two)
    two.die()
    assert two.processes() == []
    assert not reaches(one, two)


def test_nothing_is_left_of_a_network():
    with Network(1) as network:
        (host,) = network.hosts
        child = host.start("sleep", "1000")
        until(lambda: host.find("sleep 1000"))
    assert child.wait(5) < 0
    assert network.name not in subprocess.check_output(["ip", "netns", "list"], text=True)
    assert network.name not in subprocess.check_output(["ip", "link"], text=True)
    assert not network.folder.exists()


def test_what_a_killed_run_has_left_goes_with_the_next_network():
    code = (
        "from hosts import Network; n = Network(1); print(n.name, flush=True); import time; time.sleep(1000)"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parent, text=True
    )
    name = killed.stdout.readline().strip()
    killed.stdout.close()
    killed.kill()
    killed.wait()
    assert name in subprocess.check_output(["ip", "netns", "list"], text=True)
    with Network(1):
        assert name not in subprocess.check_output(["ip", "netns", "list"], text=True)
