"""Resources of replicas: asked for once, passed over where refused, and given back."""

import asyncio

from virtual_time import turns, virtual_time

from mooring.cluster.controller.cluster_port import NotReserved, Reservation, ResourceRequest
from mooring.cluster.controller.placement import Key
from mooring.cluster.controller.reservations import Reservations, free_for_replicas

KEY = Key("m", "1")
CPU = ResourceRequest({"CPU": 1.0})


class Port:
    def __init__(self):
        self.held, self.calls, self.refusal = {}, [], ""

    async def reserve(self, node, model, version, request):
        self.calls.append(node)
        if self.refusal:
            raise NotReserved(self.refusal)
        return Reservation(node, model, version, request.resources, [3])

    async def release(self, node, model, version):
        self.calls.append(f"-{node}")

    async def reservations(self):
        return [Reservation("a", *KEY, {"CPU": 1.0}, [2])]


def make():
    port = Port()
    return port, Reservations(port, asyncio.get_running_loop().time)


@virtual_time
async def test_it_is_asked_for_once_held_and_given_back():
    port, reservations = make()
    assert reservations.find(("a", KEY), CPU) is None
    assert reservations.find(("a", KEY), CPU) is None
    assert reservations.asked_by_node() == {"a": {"CPU": 1.0}}
    await turns()
    assert reservations.find(("a", KEY), CPU) is not None
    assert (reservations.gpus_of(("a", KEY)), reservations.held_by_node()) == ([3], {"a": {"CPU": 1.0}})
    reservations.release_others({("a", KEY)})
    await turns()
    assert port.calls == ["a"]
    reservations.release_others(())
    await turns()
    assert port.calls == ["a", "-a"]
    assert reservations.held_by_node() == {}


@virtual_time
async def test_what_needs_nothing_is_never_asked_for():
    port, reservations = make()
    assert reservations.find(("a", KEY), ResourceRequest(labels={"zone": "x"})) is not None
    assert port.calls == []


@virtual_time
async def test_a_refusal_is_told_and_asked_again_later():
    port, reservations = make()
    port.refusal = "0.5 CPUs are free"
    for _ in range(3):
        assert reservations.find(("a", KEY), CPU) is None
        await turns()
    assert reservations.refused_by_version() == {KEY: {"a": "0.5 CPUs are free"}}
    assert port.calls == ["a"]
    await asyncio.sleep(11.0)
    reservations.release_others(())
    assert reservations.refused_by_version() == {}
    reservations.find(("a", KEY), CPU)
    await turns()
    assert port.calls == ["a", "a"]


@virtual_time
async def test_what_an_earlier_controller_reserved_is_held():
    _, reservations = make()
    await reservations.load()
    assert reservations.gpus_of(("a", KEY)) == [2]


def test_what_is_free_is_what_ray_and_our_own_accounts_both_leave():
    total = {"CPU": 4.0, "GPU": 2.0}
    assert free_for_replicas(total, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 1.0}, {"CPU": 0.5}) == {
        "CPU": 2.5,
        "GPU": 1.0,
    }
    assert free_for_replicas(total, {}, {"CPU": 9.0}, {}) == {"CPU": 0.0, "GPU": 0.0}
