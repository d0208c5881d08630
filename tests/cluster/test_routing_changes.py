"""A table and what has changed give the other table; what has changed is small."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mooring.cluster.records import RoutingTable
from mooring.cluster.routing_changes import RoutingChanges, SentTables, apply_changes, find_changes

names = st.sampled_from("abcd")
texts = st.dictionaries(names, names)
tables = st.builds(
    RoutingTable,
    generation=st.integers(0, 9),
    nodes=texts,
    replicas=st.dictionaries(names, st.dictionaries(names, st.lists(names, max_size=2), min_size=1)),
    defaults=texts,
    starting=st.dictionaries(names, st.lists(names, min_size=1, max_size=2)),
    pending=st.dictionaries(names, texts),
    files=st.dictionaries(names, texts),
)


@given(tables, tables)
def test_the_changes_lead_from_one_table_to_the_other(before, after):
    sent = msgspec.json.encode(find_changes(before, after))
    changes = msgspec.json.decode(sent, type=RoutingChanges)
    assert apply_changes(before, changes) == after


def test_changes_of_another_table_are_not_applied():
    changes = find_changes(RoutingTable(generation=3), RoutingTable(generation=4))
    assert apply_changes(RoutingTable(generation=2), changes) is None


def test_one_line_that_changes_is_all_that_is_sent():
    lines = {f"m{number}": {"1": ["a"]} for number in range(1000)}
    after = RoutingTable(5, replicas={**lines, "m7": {"1": ["a", "b"]}})
    changes = find_changes(RoutingTable(4, replicas=lines), after)
    assert changes.replicas == {"m7": {"1": ["a", "b"]}}
    assert len(msgspec.json.encode(changes)) < 100


def test_a_node_gets_what_changed_since_the_table_that_it_is_known_to_have():
    sent, first, second = SentTables(), RoutingTable(1), RoutingTable(2, defaults={"m": "1"})
    assert sent.changes_for("a", first) is None
    sent.note_taken("a", first)
    sent.note_taken("b", first)
    changes = sent.changes_for("a", second)
    assert (changes.base, changes.defaults) == (1, {"m": "1"})
    assert sent.changes_for("b", second) is changes
    sent.forget("a")
    assert sent.changes_for("a", second) is None
