"""Which version answers who names none: the highest that is ready of a repository, the first registered of archives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_kit import model_spec

from mooring.core.service import ModelMetadata
from mooring.core.versions import VersionPolicy
from mooring.engine.lifecycle import MOVES, State
from mooring.engine.registry import DefaultRule, ModelVersion, Registry, Unavailable


class Queue:
    """A scheduler that nobody asks anything."""

    pool = None

    def accept_new(self):
        pass

    def refuse_new(self, error):
        pass

    def refuse_all(self, error):
        pass


class Models:
    """A registry of one model, whose versions go from state to state without any process."""

    def __init__(self, policy=None):
        self.registry = Registry()
        self.policy = policy

    def add(self, version, policy="mine"):
        policy = self.policy if policy == "mine" else policy
        spec = model_spec(name="m", version=version, backend="function", location=".", version_policy=policy)
        added = ModelVersion(spec)
        self.registry.add_version(added)
        added.start_loading(Queue(), None)
        return added

    def ready(self, version):
        added = self.add(version)
        added.on_worker_event(ModelMetadata("m"))
        return added

    @property
    def default(self):
        return self.registry.find_version("m").spec.version


@pytest.fixture
def repository():
    return Models(VersionPolicy())


def test_of_a_repository_the_highest_version_that_is_ready_answers(repository):
    repository.ready("2")
    repository.ready("10")
    repository.ready("1")
    assert repository.default == "10"


def test_a_version_that_loads_or_has_failed_does_not_answer_while_another_does(repository):
    repository.ready("1")
    newer = repository.add("2")
    assert repository.default == "1"
    newer._lifecycle.move_to(State.FAILED)
    assert repository.default == "1"
    newer._lifecycle.move_to(State.READY)
    assert repository.default == "2"
    newer._lifecycle.move_to(State.LOADING)  # its last worker died
    assert repository.default == "1"


def test_while_none_is_ready_requests_wait_for_the_highest_that_may_be(repository):
    repository.add("1")
    newer = repository.add("2")
    assert repository.default == "2"
    newer._lifecycle.move_to(State.FAILED)
    assert repository.default == "1"


def test_a_lower_one_takes_over_before_the_highest_is_gone(repository):
    repository.ready("1")
    newer = repository.ready("2")
    repository.registry.remove_version(newer)
    assert repository.default == "1"
    newer.start_unloading()
    newer.finish_unloading()
    assert repository.default == "1"


def test_what_an_operator_chose_stays_until_it_goes(repository):
    old = repository.ready("1")
    repository.registry.find_model("m").choose_default("1")
    repository.ready("2")
    assert (repository.default, repository.registry.find_model("m").default_rule) == ("1", DefaultRule.CHOSEN)
    old._lifecycle.move_to(State.LOADING)
    assert repository.default == "1"
    repository.registry.remove_version(old)
    assert (repository.default, repository.registry.find_model("m").default_rule) == (
        "2",
        DefaultRule.HIGHEST,
    )


def test_of_archives_the_first_that_was_registered_answers():
    archives = Models()
    first = archives.ready("2.0")
    archives.ready("10.0")
    assert (archives.default, archives.registry.find_model("m").default_rule) == ("2.0", DefaultRule.FIRST)
    first._lifecycle.move_to(State.LOADING)
    assert archives.default == "2.0"
    archives.registry.remove_version(first)
    assert archives.default == "10.0"


def test_an_archive_beside_versions_of_a_repository_does_not_take_over(repository):
    repository.ready("1")
    repository.add("7.0", None).on_worker_event(ModelMetadata("m"))
    repository.ready("2")
    assert repository.default == "1"


def test_a_version_that_was_loaded_anew_is_the_default_as_the_old_one_was(repository):
    repository.ready("1")
    old = repository.ready("2")
    new = ModelVersion(old.spec)
    new.start_loading(Queue(), None)
    new.on_worker_event(ModelMetadata("m"))
    repository.registry.replace_version(old, new)
    old.start_unloading()
    assert repository.registry.find_version("m") is new
    new._lifecycle.move_to(State.LOADING)
    assert repository.default == "1"


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2", "9", "10", "11"]), st.sampled_from([*State, "remove"])),
        max_size=40,
    )
)
def test_whatever_happens_the_default_is_ready_where_any_is_and_the_highest_of_those(moves):
    models = Models(VersionPolicy())
    versions = {}
    for version, move in moves:
        if version not in versions:
            versions[version] = models.add(version)
        elif move == "remove":
            models.registry.remove_version(versions.pop(version))
        elif move in MOVES[versions[version].state]:
            versions[version]._lifecycle.move_to(move)
        ready = [int(name) for name, each in versions.items() if each.ready]
        if ready:
            assert models.default == str(max(ready))
        elif versions:
            assert models.default in versions


def test_what_the_start_asked_for_is_missed_until_it_is_there_or_nobody_wants_it():
    registry = Registry()
    registry.note_missing("m", "", Unavailable("/r/m", "a typing error", expected=True))
    registry.note_missing("m", "", Unavailable("/r/m", "another one"))
    registry.note_missing("other", "", Unavailable("/r/other", "never asked for"))
    assert registry.lacks_expected
    assert registry.unavailable["m", ""].reason == "another one"
    registry.forget_missing("called_so", "/r/m")
    assert not registry.lacks_expected
    assert list(registry.unavailable) == [("other", "")]


def test_a_model_of_which_nothing_can_be_loaded_is_missed_as_a_whole():
    registry = Registry()
    registry.note_missing("m", "1", Unavailable("/r/m", "why", expected=True))
    registry.note_missing("m", "", Unavailable("/r/m", "it is empty"))
    assert registry.unavailable == {("m", ""): Unavailable("/r/m", "it is empty", expected=True)}


def test_one_version_that_is_there_leaves_the_others_missing():
    registry = Registry()
    for version in ("", "1", "2"):
        registry.note_missing("m", version, Unavailable("/r/m", "why", expected=True))
    registry.forget_missing("m", "/r/m", "1")
    assert list(registry.unavailable) == [("m", "2")]
