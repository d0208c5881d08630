"""Which node has which sequence, as far as one node remembers it."""

from mooring.cluster.sequence_nodes import Home, Sequence, SequenceNodes


def name(number):
    return Sequence("m", "1", str(number))


def test_a_sequence_is_remembered_until_it_is_over():
    nodes = SequenceNodes()
    nodes.remember(name(1), Home("b", 5))
    assert nodes.find(name(1)) == Home("b", 5)
    assert nodes.find(Sequence("m", "2", "1")) is None
    nodes.forget(name(1))
    assert (nodes.find(name(1)), nodes.is_lost(name(1))) == (None, False)


def test_a_lost_sequence_is_lost_until_it_begins_anew():
    nodes = SequenceNodes()
    nodes.remember(name(1), Home("b"))
    nodes.lose(name(1))
    assert (nodes.find(name(1)), nodes.is_lost(name(1))) == (None, True)
    nodes.remember(name(1), Home("c"))
    assert not nodes.is_lost(name(1))


def test_only_the_last_ones_are_remembered():
    nodes = SequenceNodes(3)
    for number in range(4):
        nodes.remember(name(number), Home("b"))
        nodes.find(name(0))  # in use, so not the first to go
        nodes.lose(name(100 + number))
    assert [number for number in range(4) if nodes.find(name(number))] == [0, 2, 3]
    assert [number for number in range(100, 104) if nodes.is_lost(name(number))] == [101, 102, 103]
