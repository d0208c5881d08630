"""The public surface is a list, and short."""

from importlib import resources

import mooring


def test_at_most_twenty_names_are_public():
    assert len(mooring.__all__) <= 20


def test_every_public_name_is_there_once():
    assert len(set(mooring.__all__)) == len(mooring.__all__)
    for name in mooring.__all__:
        assert getattr(mooring, name) is not None


def test_the_package_says_that_it_is_typed():
    assert resources.files("mooring").joinpath("py.typed").is_file()
