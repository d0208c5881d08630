"""When the server's probes say that it can answer."""

import pytest
from fakes import FakePool
from model_kit import model_spec

from mooring.core.errors import ModelLoadFailed
from mooring.core.service import ModelMetadata
from mooring.engine.graphs.ensembles import Ensembles
from mooring.engine.readiness import Readiness
from mooring.engine.registry import ModelVersion, Registry, Unavailable


class Queue:
    def accept_new(self):
        pass

    def refuse_new(self, error):
        pass

    def refuse_all(self, error):
        pass


class Site:
    """A registry and its readiness."""

    def __init__(self, *, strict=True):
        self.registry = Registry()
        self.readiness = Readiness(self.registry, Ensembles(self.registry), strict=strict)

    def load(self, name="m", outcome=None, **fields):
        """Have a version whose worker has loaded it, or failed to with this error."""
        version = ModelVersion(model_spec(name=name, backend="x", min_workers=1, **fields))
        self.registry.add_version(version)
        pool = FakePool(None, 0 if outcome else 1)
        pool.wanted = 1
        version.start_loading(Queue(), pool)
        version.on_worker_event(outcome or ModelMetadata(name, ["1"], "p"))
        return version


def test_a_server_without_models_is_ready_while_it_listens():
    readiness = Site().readiness
    assert readiness.is_ready()
    assert readiness.is_healthy()
    readiness.listening = False
    assert not readiness.is_ready()
    assert not readiness.is_healthy()
    readiness.listening, readiness.stopping = True, True
    assert not readiness.is_ready()
    assert not readiness.is_healthy()


@pytest.mark.parametrize("strict", [True, False])
def test_what_is_expected_must_be_there(strict):
    site = Site(strict=strict)
    site.readiness.expected.add("m")
    assert not site.readiness.is_ready()
    assert not site.readiness.is_healthy()
    site.load()
    assert site.readiness.is_ready()
    assert site.readiness.is_healthy()


@pytest.mark.parametrize("strict", [True, False])
def test_workflows_that_the_start_names_are_awaited(strict):
    readiness = Site(strict=strict).readiness
    readiness.awaits_workflows = True
    assert not readiness.is_ready()
    assert readiness.is_healthy()


def test_only_a_strict_server_waits_for_what_failed():
    for strict in (True, False):
        site = Site(strict=strict)
        site.readiness.expected.add("m")
        site.load(outcome=ModelLoadFailed("no such file"))
        assert site.readiness.is_ready() is not strict
        assert not site.readiness.is_healthy()


def test_only_a_strict_server_misses_what_the_start_could_not_find():
    for strict in (True, False):
        site = Site(strict=strict)
        site.registry.note_missing("m", "", Unavailable("m.mar", "no such file", expected=True))
        assert site.readiness.is_ready() is not strict
        assert site.readiness.is_healthy() is not strict


def test_a_model_answers_with_those_that_follow_it():
    site = Site()
    first = site.load("a", following=["b"])
    assert not site.readiness.can_answer(first)
    site.load("b")
    assert site.readiness.can_answer(first)
