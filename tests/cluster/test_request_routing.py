"""Where a request goes, as pure rules: what a table says, who is less loaded, and which node has a sequence."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mooring.cluster.records import RoutingTable
from mooring.cluster.routing import (
    ReplicaLoad,
    Route,
    Routes,
    draw_two,
    rank_for_sequence,
    relative_load,
)

NODES = [f"node-{number}" for number in range(6)]


def test_a_table_becomes_routes_as_one_node_sees_them():
    table = RoutingTable(
        1,
        replicas={"m": {"1": ["a", "b"], "2": ["b", "c"]}},
        defaults={"m": "2", "new": "1", "gone": "7"},
        starting={"new": ["1"]},
        pending={"big": {"1": "1 GPU"}},
        files={"m": {"2": "ab"}},
    )
    routes = Routes(table, "b").by_version
    assert routes["m", "1"] == Route("m", "1", ("a",), here=True)
    assert routes["m", "2"] == Route("m", "2", ("c",), here=True, stamp="ab")
    assert routes["m", ""] is routes["m", "2"]
    assert routes["new", ""] == Route("new", "1", (), here=False, starting=True)
    assert routes["big", "1"].missing == "1 GPU"
    assert ("big", "") not in routes
    assert ("gone", "") not in routes
    assert set(Routes(table, "b").models) == {"m", "new", "big"}


@given(st.integers(0, 6), st.integers())
def test_two_different_nodes_are_drawn_where_there_are_two(count, seed):
    drawn = draw_two(NODES[:count], Random(seed))
    assert len(set(drawn)) == len(drawn) == min(count, 2)
    assert set(drawn) <= set(NODES[:count])


def test_of_two_equal_nodes_neither_is_always_first():
    assert {draw_two(["a", "b"])[0] for _ in range(100)} == {"a", "b"}


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 8), st.integers(0, 100), st.integers(0, 100))
def test_more_of_my_own_requests_never_look_like_less_load(waiting, running, workers, reported, mine):
    load = ReplicaLoad(waiting, running, workers)
    now = relative_load(load, reported, mine)
    assert relative_load(load, reported, mine + 1) > now >= 0
    assert relative_load(ReplicaLoad(waiting + 1, running, workers), reported, mine) >= now


@given(st.text(max_size=30), st.sets(st.sampled_from(NODES), min_size=1))
def test_all_nodes_rank_a_sequence_alike_and_one_that_goes_moves_only_what_it_had(sequence, nodes):
    ranked = rank_for_sequence("m", "1", sequence, nodes)
    assert sorted(ranked) == sorted(nodes)
    assert rank_for_sequence("m", "1", sequence, sorted(nodes, reverse=True)) == ranked
    for gone in nodes:
        assert rank_for_sequence("m", "1", sequence, nodes - {gone}) == [
            node for node in ranked if node != gone
        ]


def test_sequences_are_spread_over_all_nodes():
    homes = Counter(rank_for_sequence("m", "1", str(number), NODES)[0] for number in range(3000))
    assert min(homes.values()) > 350
    assert max(homes.values()) < 650


def test_models_and_versions_have_sequences_of_their_own():
    assert (
        len({rank_for_sequence(*key, "7", NODES)[0] for key in zip("abcdefgh", "12345678", strict=True)}) > 1
    )
