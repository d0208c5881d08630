"""Where model files come from: each source in order, and never other bytes than were registered."""

import asyncio
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import msgspec
import pytest

from mooring.cluster.file_sources import FileSources
from mooring.cluster.model_files import ModelFileCache
from mooring.cluster.records import ModelFiles
from mooring.core.errors import FetchFailed, OutOfResources
from mooring.repository.fetch import Fetcher

BYTES = b"weights" * 1000


def registered(*sources, name="model.onnx", content=BYTES):
    digest = hashlib.sha256(content).hexdigest()
    return ModelFiles(sha256=digest, name=name, size=len(content), sources=list(sources))


async def nobody(_sha256, node):
    raise FetchFailed(f"node '{node}' is not in the cluster")


@pytest.fixture
def cache(tmp_path):
    return ModelFileCache(tmp_path / "cache")


@pytest.fixture
def sources(cache):
    return FileSources(cache, Fetcher(), nobody, "me")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        """Say nothing."""


@pytest.fixture
def web(tmp_path):
    """A real HTTP server with one model file, and its address."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "model.onnx").write_bytes(BYTES)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_shared_path_gives_the_file_and_what_is_here_is_not_fetched_again(sources, tmp_path):
    (tmp_path / "model.onnx").write_bytes(BYTES)
    files = registered(f"file://{tmp_path}/model.onnx")
    assert (await sources.open_files(files)).place.read_bytes() == BYTES
    (tmp_path / "model.onnx").unlink()
    assert (await sources.open_files(files)).place.read_bytes() == BYTES


async def test_a_shared_folder_gives_what_was_packed_of_it(sources, cache, tmp_path):
    (tmp_path / "talker").mkdir()
    (tmp_path / "talker" / "model.py").write_text("one")
    files = ModelFileCache(tmp_path / "elsewhere").add(tmp_path / "talker")
    files = msgspec.structs.replace(files, sources=[f"file://{tmp_path}/talker"])
    assert ((await sources.open_files(files)).place / "model.py").read_text() == "one"
    assert cache.hashes() == [files.sha256]


async def test_an_address_is_fetched_from_where_the_allow_list_names_it_only(cache, sources, web):
    files = registered(f"{web}/model.onnx?signature=secret")
    with pytest.raises(FetchFailed, match="matches none of the allowed URLs") as refused:
        await sources.open_files(files)
    assert "secret" not in refused.value.message
    allowing = FileSources(cache, Fetcher([r"http://127\.0\.0\.1:.*"]), nobody)
    assert (await allowing.open_files(files)).place.read_bytes() == BYTES


async def test_a_storage_of_fsspec_gives_the_file(sources):
    with fsspec.open("memory://models/model.onnx", "wb") as remote:
        remote.write(BYTES)
    files = registered("memory://models/model.onnx")
    assert (await sources.open_files(files)).place.read_bytes() == BYTES


async def test_a_storage_whose_package_is_missing_says_what_to_install(sources):
    for address, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs")):
        with pytest.raises(
            FetchFailed, match=f"what reads {address}:// is not installed: pip install {package}"
        ):
            await sources.open_files(registered(f"{address}://bucket/model.onnx"))


async def test_another_node_gives_the_file(cache, tmp_path):
    async def fetch(sha256, node):
        (tmp_path / "come").write_bytes(BYTES)
        assert (sha256, node) == (files.sha256, "other-1")
        return tmp_path / "come"

    files = registered("node:me", "node:other-1")
    opened = await FileSources(cache, Fetcher(), fetch, "me").open_files(files)
    assert opened.place.read_bytes() == BYTES
    assert not (tmp_path / "come").exists()


async def test_a_source_with_other_bytes_is_logged_and_the_next_one_is_tried(
    sources, cache, tmp_path, caplog
):
    (tmp_path / "corrupt").write_bytes(BYTES[:-1] + b"!")
    (tmp_path / "half").write_bytes(BYTES[:99])
    (tmp_path / "model.onnx").write_bytes(BYTES)
    files = registered(*(f"file://{tmp_path}/{name}" for name in ("corrupt", "half", "model.onnx")))
    assert (await sources.open_files(files)).place.read_bytes() == BYTES
    errors = [each for each in caplog.records if each.levelname == "ERROR"]
    assert len(errors) == 2
    assert cache.hashes() == [files.sha256]


async def test_a_source_with_more_bytes_than_were_registered_does_not_fill_the_disk(sources, cache, tmp_path):
    (tmp_path / "endless").write_bytes(BYTES * 3)
    with fsspec.open("memory://models/endless", "wb") as remote:
        remote.write(BYTES * 3)
    with pytest.raises(FetchFailed, match=f"more than {len(BYTES)} bytes.*more than the {len(BYTES)} bytes"):
        await sources.open_files(registered(f"file://{tmp_path}/endless", "memory://models/endless"))
    assert not list((tmp_path / "cache").iterdir())


async def test_what_another_node_sent_with_other_bytes_is_removed(cache, tmp_path):
    async def fetch(_sha256, _node):
        (tmp_path / "come").write_bytes(b"other")
        return tmp_path / "come"

    with pytest.raises(FetchFailed, match="'node:other' has other bytes than were registered"):
        await FileSources(cache, Fetcher(), fetch).open_files(registered("node:other"))
    assert not (tmp_path / "come").exists()


async def test_room_is_made_before_a_file_is_fetched(tmp_path):
    fetches = []

    async def fetch(sha256, _node):
        fetches.append(sha256)
        raise FetchFailed("gone")

    small = ModelFileCache(tmp_path / "small", most_bytes=len(BYTES) - 1)
    with pytest.raises(OutOfResources, match="no room for a model file"):
        await FileSources(small, Fetcher(), fetch).open_files(registered("node:other"))
    assert not fetches


async def test_each_source_is_named_with_its_reason_where_none_has_the_file(sources, tmp_path):
    files = registered(
        f"file://{tmp_path}/missing", "memory://models/none", "node:me", "node:gone", "ftp2://x/y"
    )
    with pytest.raises(FetchFailed) as failed:
        await sources.open_files(files)
    for part in (
        f"model file 'model.onnx' (sha256 {files.sha256}) could not be had: ",
        f"'file://{tmp_path}/missing' is not on this machine",
        "'memory://models/none': ",
        "'node:me': this node itself has it no more",
        "node 'gone' is not in the cluster",
        "'ftp2://x/y': ",
    ):
        assert part in failed.value.message
    with pytest.raises(FetchFailed, match="it has no source"):
        await sources.open_files(registered())


async def test_a_file_that_was_changed_in_the_cache_is_fetched_anew(sources, tmp_path):
    (tmp_path / "model.onnx").write_bytes(BYTES)
    files = registered(f"file://{tmp_path}/model.onnx")
    (await sources.open_files(files)).close()
    (tmp_path / "cache" / files.sha256).chmod(0o644)
    (tmp_path / "cache" / files.sha256).write_bytes(b"tampered")
    assert (await sources.open_files(files)).place.read_bytes() == BYTES


async def test_two_who_want_a_file_at_once_wait_for_one_fetch(cache, tmp_path):
    fetches = []

    async def fetch(sha256, _node):
        fetches.append(sha256)
        await asyncio.sleep(0.05)
        (tmp_path / "come").write_bytes(BYTES)
        return tmp_path / "come"

    sources = FileSources(cache, Fetcher(), fetch)
    opened = await asyncio.gather(*(sources.open_files(registered("node:other")) for _ in range(5)))
    assert len(fetches) == 1
    assert {each.place.read_bytes() for each in opened} == {BYTES}


async def test_the_log_says_how_much_of_a_file_has_come(cache, tmp_path, monkeypatch, caplog):
    async def fetch(_sha256, _node):
        await asyncio.sleep(0.1)
        raise FetchFailed("node 'slow' is gone")

    monkeypatch.setattr("mooring.cluster.file_sources._PROGRESS_EVERY", 0.02)
    caplog.set_level("INFO")
    with pytest.raises(FetchFailed, match="gone"):
        await FileSources(cache, Fetcher(), fetch).open_files(registered("node:slow"))
    assert any("fetching a model file" in each.getMessage() for each in caplog.records)
