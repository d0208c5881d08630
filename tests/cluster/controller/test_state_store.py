"""The desired state in real folders and in file systems of fsspec: epochs, claims, and what is found there that is not ours."""

import asyncio
import itertools
import random
import time

import fsspec
import msgspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mooring.cluster.controller.desired_state import DesiredState
from mooring.cluster.controller.state_store import (
    DirectoryObjects,
    FsspecObjects,
    StateStore,
    StateStoreError,
    Superseded,
    open_state_store,
)

KINDS = ["path", "file", "memory", "bare"]
numbers = itertools.count()


class BareFileSystem(MemoryFileSystem):
    """An object store without conditional writes: a second writing takes the place of the first."""

    protocol = "bare"
    store = {}  # noqa: RUF012 - as in its base class
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path, value, **kwargs):
        assert not kwargs
        self.open(path, "wb", data=value)


fsspec.register_implementation("bare", BareFileSystem, clobber=True)


@pytest.fixture(params=KINDS)
def location(request, tmp_path):
    folder = f"folder{next(numbers)}"
    return {
        "path": str(tmp_path / "a" / "state"),
        "file": f"file://{tmp_path}/a/state",
        "memory": f"memory://{folder}",
        "bare": f"bare://{folder}",
    }[request.param]


def state(generation):
    return DesiredState(generation=generation, drained=["b"])


async def test_who_takes_an_epoch_gets_the_state_of_the_one_before(location):
    first = open_state_store(location, "c")
    assert await first.take_epoch() == (1, DesiredState())
    await first.write(state(7))
    await first.write(state(8))
    second = open_state_store(location, "c")
    assert await second.take_epoch() == (2, state(8))
    # Another cluster in the same folder begins anew.
    assert await open_state_store(location, "d").take_epoch() == (1, DesiredState())


async def test_a_controller_whose_epoch_is_over_is_told_so_and_changes_nothing(location):
    first, second = open_state_store(location, "c"), open_state_store(location, "c")
    await first.take_epoch()
    await first.check()
    await second.take_epoch()
    with pytest.raises(Superseded, match="the epoch 2"):
        await first.write(state(9))
    with pytest.raises(Superseded):
        await first.check()
    assert (await open_state_store(location, "c").take_epoch())[1] == DesiredState()


async def test_a_claim_without_a_state_leaves_that_of_the_epoch_before(location):
    first = open_state_store(location, "c")
    await first.take_epoch()
    await first.write(state(5))
    dying = open_state_store(location, "c")
    assert dying._claim()
    assert await open_state_store(location, "c").take_epoch() == (3, state(5))


async def test_files_of_old_epochs_are_deleted_and_the_last_ones_kept(location):
    for number in range(1, 12):
        store = open_state_store(location, "c")
        assert (await store.take_epoch())[0] == number
    assert sorted(store._claims()) == [7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"kind":"mooring cluster state","format":1,"clu', "torn or no state"),
        (b"\xff\xfe", "torn or no state"),
        (b"", "torn or no state"),
        (b'{"kind":"a shopping list","format":1,"cluster":"c"}', "no state of a cluster, but 'a shopping list'"),
        (b'{"kind":"mooring cluster state","format":99,"cluster":"c"}', "format 99, and this Mooring knows 1"),
        (b'{"kind":"mooring cluster state","format":1,"cluster":"d"}', "of the cluster 'd', not of 'c'"),
        (b'{"kind":"mooring cluster state","format":1,"cluster":"c","epoch":4,"state":{"models":3}}', "torn"),
    ],
)  # fmt: skip
async def test_a_torn_or_foreign_file_is_named(location, content, fault):
    store = open_state_store(location, "c")
    await store.take_epoch()
    store._objects.replace("epoch-000000000004.json", content)
    with pytest.raises(StateStoreError, match=fault) as caught:
        await open_state_store(location, "c").take_epoch()
    assert "/c/epoch-000000000004.json" in str(caught.value)


async def test_other_files_of_the_folder_are_left_alone(location):
    store = open_state_store(location, "c")
    await store.take_epoch()
    store._objects.replace("notes.txt", b"mine")
    assert (await open_state_store(location, "c").take_epoch())[0] == 2
    assert store._objects.read("notes.txt") == b"mine"


async def test_a_store_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StateStoreError, match="file/c"):
        await open_state_store(str(tmp_path / "file"), "c").take_epoch()
    with pytest.raises(StateStoreError, match="nosuch://a"):
        open_state_store("nosuch://a", "c")


class Refusing(BareFileSystem):
    """A store whose library raises what is no OSError."""

    protocol = "refusing"

    def ls(self, path, **kwargs):
        raise ValueError("no credentials")


async def test_what_a_stores_library_raises_is_told():
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    with pytest.raises(StateStoreError, match=r"refusing://a.*no credentials"):
        await open_state_store("refusing://a", "c").take_epoch()


def test_the_state_is_never_half_written(tmp_path, monkeypatch):
    """A writer that dies before the rename leaves the file that was there."""
    objects = DirectoryObjects(tmp_path)
    objects.replace("a", b"whole")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        objects.replace("a", b"new")
    assert objects.read("a") == b"whole"
    assert objects.names() == ["a"]


async def test_threads_that_take_epochs_at_once_never_get_the_same(location):
    async def take():
        while True:
            try:
                return (await open_state_store(location, "c").take_epoch())[0]
            except Superseded:
                await asyncio.sleep(random.uniform(0, 0.01))

    taken = await asyncio.gather(*(take() for _ in range(4)))
    assert len(set(taken)) == 4


class Slow:
    """Objects of which each access takes a moment: threads get in between two of them."""

    def __init__(self, objects):
        self._objects = objects
        self.can_create = objects.can_create

    def __getattr__(self, name):
        time.sleep(random.uniform(0, 0.002))
        return getattr(self._objects, name)


@pytest.mark.parametrize("scheme", ["memory", "bare"])
async def test_controllers_that_live_at_once_share_no_epoch_and_lose_no_change(scheme):
    """Each acknowledged change is in what the last of them reads, whoever was superseded when."""

    async def live(store, name):
        await asyncio.sleep(random.uniform(0, 0.02))
        try:
            epoch, held = await store.take_epoch()
            begun.append(epoch)
            for number in range(4):
                held = msgspec.structs.replace(held, drained=[*held.drained, f"{name}{number}"])
                await store.write(held)
                acknowledged.append(f"{name}{number}")
        except Superseded:
            pass

    for _ in range(15):
        filesystem, folder = fsspec.core.url_to_fs(f"{scheme}://order{next(numbers)}")
        stores = [StateStore(Slow(FsspecObjects(filesystem, folder)), "c") for _ in range(4)]
        begun, acknowledged = [], []
        await asyncio.gather(*(live(store, name) for store, name in zip(stores, "abc", strict=False)))
        assert len(set(begun)) == len(begun)
        _, final = await stores[-1].take_epoch()
        assert set(acknowledged) <= set(final.drained)
