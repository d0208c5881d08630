"""What a client remembers of models."""

from mooring.client.declarations import Declarations
from mooring.core.service import ModelMetadata

ONE, TWO = ModelMetadata("one"), ModelMetadata("two")


def test_a_model_is_known_by_name_and_version_until_it_changes():
    known = Declarations()
    assert known.get("m", "") is None
    known.put("m", "", ONE)
    known.put("m", "2", TWO)
    known.put("n", "", ONE)
    assert (known.get("m", ""), known.get("m", "2")) == (ONE, TWO)
    known.drop("m")
    assert (known.get("m", ""), known.get("m", "2"), known.get("n", "")) == (None, None, ONE)


def test_the_oldest_give_way():
    known = Declarations(most=2)
    for name in "abca":
        known.put(name, "", ONE)
    assert [name for name in "abc" if known.get(name, "") is not None] == ["a", "c"]
