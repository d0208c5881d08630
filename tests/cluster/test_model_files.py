"""Model files by hash: same contents, same hash; never other bytes than were registered; bounded; whole or not there."""

import hashlib
import io
import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from mooring.cluster.model_files import ModelFileCache, hash_file
from mooring.cluster.records import ModelFiles
from mooring.core.errors import FetchFailed, ModelLoadFailed, OutOfResources


@pytest.fixture
def cache(tmp_path):
    return ModelFileCache(tmp_path / "cache")


def write_model(folder, text="one", when=1_000_000):
    """A model's folder with a link, a cache of Python's and times of its own."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.toml").write_text("[model]\n")
    (folder / "1" / "model.py").write_text(text)
    (folder / "1" / "__pycache__").mkdir()
    (folder / "1" / "__pycache__" / "model.pyc").write_text(str(when))
    (folder / "empty").mkdir()
    for place in folder.rglob("*"):
        os.utime(place, (when, when))
    return folder


def test_a_file_is_opened_under_its_name_with_its_bytes(cache, tmp_path):
    (tmp_path / "digits.onnx").write_bytes(b"weights")
    files = cache.add(tmp_path / "digits.onnx")
    assert (files.name, files.size, files.packing) == ("digits.onnx", 7, "file")
    assert files.sha256 == hash_file(tmp_path / "digits.onnx")
    opened = cache.open(files)
    assert opened.place.name == "digits.onnx"
    assert opened.place.read_bytes() == b"weights"
    assert cache.hashes() == [files.sha256]


def test_folders_with_the_same_contents_have_the_same_hash_whatever_their_times_owners_and_modes(
    cache, tmp_path
):
    one = write_model(tmp_path / "one", when=1_000_000)
    two = write_model(tmp_path / "two", when=2_000_000)
    (two / "1" / "model.py").chmod(0o600)
    if os.getuid() == 0:
        os.chown(two / "config.toml", 1234, 1234)
    linked = tmp_path / "three"
    linked.mkdir()
    for entry in one.iterdir():
        (linked / entry.name).symlink_to(entry)
    hashes = {cache.add(each).sha256 for each in (one, two, linked)}
    assert len(hashes) == 1
    (two / "1" / "model.py").chmod(0o600)
    (two / "1" / "model.py").write_text("two")
    assert cache.add(two).sha256 not in hashes


def test_a_folder_is_unpacked_once_with_what_was_packed(cache, tmp_path):
    files = cache.add(write_model(tmp_path / "talker"))
    first, second = cache.open(files), cache.open(files)
    assert first.place == second.place
    assert first.place.name == "talker"
    assert (first.place / "1" / "model.py").read_text() == "one"
    assert (first.place / "empty").is_dir()
    assert not (first.place / "1" / "__pycache__").exists()


def test_entries_that_are_left_out_are_not_packed(cache, tmp_path):
    folder = write_model(tmp_path / "talker")
    (folder / "2").mkdir()
    (folder / "2" / "1").write_text("a name that is left out only right in the folder")
    opened = cache.open(cache.add(folder, leave_out={"1"}))
    assert sorted(each.name for each in opened.place.iterdir()) == ["2", "config.toml", "empty"]
    assert (opened.place / "2" / "1").exists()


def test_a_file_that_was_changed_in_the_cache_is_not_there_any_more(cache, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"registered")
    files = cache.add(tmp_path / "model.onnx")
    opened = cache.open(files)
    (tmp_path / "cache" / files.sha256).chmod(0o644)
    (tmp_path / "cache" / files.sha256).write_bytes(b"tampered!!")
    assert cache.open(files) is None
    opened.close()
    assert cache.add(tmp_path / "model.onnx") == files
    assert cache.open(files).place.read_bytes() == b"registered"


def test_a_folder_that_was_changed_after_it_was_unpacked_is_unpacked_anew(cache, tmp_path):
    files = cache.add(write_model(tmp_path / "talker"))
    opened = cache.open(files)
    place = opened.place / "1" / "model.py"
    place.chmod(0o644)
    place.write_text("tampered")
    assert (cache.open(files).place / "1" / "model.py").read_text() == "one"
    assert place.exists()  # whoever has it open may still read it


def test_what_was_fetched_with_other_bytes_is_refused_with_both_hashes(cache, tmp_path):
    files = ModelFiles(sha256="0" * 64, name="model.onnx", size=5)
    (tmp_path / "fetched").write_bytes(b"other")
    with pytest.raises(
        FetchFailed, match=r"node 'b' has other bytes than were registered: their sha256 is \w{64}, not 0000"
    ):
        cache.put(tmp_path / "fetched", files, "node 'b'")
    assert cache.hashes() == []
    assert cache.open(files) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "x" * 300])
def test_names_that_lead_elsewhere_are_refused(cache, name):
    with pytest.raises(ModelLoadFailed, match="is not the name of a file"):
        cache.open(ModelFiles(sha256="0" * 64, name=name, size=1))


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "0" * 63, "G" * 64])
def test_hashes_that_are_none_are_refused(cache, sha256):
    with pytest.raises(ModelLoadFailed, match="is not a sha256"):
        cache.open(ModelFiles(sha256=sha256, name="model", size=1))


def test_a_tar_with_a_link_or_a_name_that_leads_out_is_not_unpacked(cache, tmp_path):
    for member in (tarfile.TarInfo("../escaped"), tarfile.TarInfo("link")):
        archive = tmp_path / "evil.tar"
        with tarfile.open(archive, "w") as tar:
            if member.name == "link":
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = 4
                tar.addfile(member, io.BytesIO(b"evil"))
        files = msgspec.structs.replace(cache.add(archive, name="evil"), packing="folder")
        with pytest.raises(ModelLoadFailed, match="is refused"):
            cache.open(files)
    assert not list(tmp_path.rglob("escaped"))
    assert not list((tmp_path / "cache").glob(".part-*"))


def test_what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays(tmp_path):
    cache = ModelFileCache(tmp_path / "cache", most_bytes=250)
    found = []
    for number in range(2):
        (tmp_path / f"{number}.onnx").write_bytes(bytes([number]) * 100)
        found.append(cache.add(tmp_path / f"{number}.onnx"))
        os.utime(tmp_path / "cache" / found[-1].sha256, (1000 + number, 1000 + number))
    kept = cache.open(found[0])
    (tmp_path / "2.onnx").write_bytes(b"2" * 100)
    third = cache.add(tmp_path / "2.onnx")
    assert set(cache.hashes()) == {found[0].sha256, third.sha256}
    last = cache.open(third)
    (tmp_path / "3.onnx").write_bytes(b"3" * 100)
    with pytest.raises(
        OutOfResources,
        match=r"200 bytes of model files are in use, and at most 250 are kept; raise cluster_files_size",
    ):
        cache.add(tmp_path / "3.onnx")
    assert kept.place.read_bytes() == b"\0" * 100
    last.close()
    last.close()
    assert cache.add(tmp_path / "3.onnx").sha256 in cache.hashes()
    assert third.sha256 not in cache.hashes()


def test_a_file_that_another_process_has_put_there_counts_too(tmp_path):
    cache = ModelFileCache(tmp_path / "cache", most_bytes=250)
    sent = hashlib.sha256(b"2" * 200).hexdigest()
    (tmp_path / "cache" / sent).write_bytes(b"2" * 200)
    (tmp_path / "1.onnx").write_bytes(b"1" * 100)
    added = cache.add(tmp_path / "1.onnx")
    assert cache.hashes() == [added.sha256]


def test_what_a_killed_process_left_half_done_is_never_used_and_goes(tmp_path):
    cache = ModelFileCache(tmp_path / "cache")
    (tmp_path / "model.onnx").write_bytes(b"whole")
    files = cache.add(tmp_path / "model.onnx")
    (tmp_path / "cache" / ".part-999999999-abc").write_bytes(b"ha")
    (tmp_path / "cache" / f".part-{os.getpid()}-abc").write_bytes(b"still written")
    (tmp_path / "cache" / files.sha256).chmod(0o644)
    (tmp_path / "cache" / files.sha256).write_bytes(b"wh")  # as after a power cut
    again = ModelFileCache(tmp_path / "cache")
    assert [each.name for each in (tmp_path / "cache").glob(".part-*")] == [f".part-{os.getpid()}-abc"]
    assert again.open(files) is None


def test_a_new_process_finds_what_is_there(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"whole")
    files = ModelFileCache(tmp_path / "cache").add(tmp_path / "model.onnx")
    again = ModelFileCache(tmp_path / "cache")
    assert again.hashes() == [files.sha256]
    assert again.open(files).place.read_bytes() == b"whole"


def test_many_threads_add_and_open_at_once(cache, tmp_path):
    folder = write_model(tmp_path / "talker")
    start = threading.Barrier(8)

    def use(_number):
        start.wait()
        files = cache.add(folder)
        opened = cache.open(files)
        text = (opened.place / "1" / "model.py").read_text()
        opened.close()
        return files.sha256, text, str(opened.place)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(use, range(8)))) == 1


def test_a_file_that_cannot_be_packed_is_named(cache, tmp_path):
    folder = write_model(tmp_path / "talker")
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelLoadFailed, match="pipe' is neither a file nor a folder"):
        cache.add(folder)
    (folder / "pipe").unlink()
    (folder / "self").symlink_to(folder)
    with pytest.raises(ModelLoadFailed, match="self' is a link to a folder that it is in itself"):
        cache.add(folder)
    (folder / "self").unlink()
    with pytest.raises(ModelLoadFailed, match="more than 5 bytes"):
        cache.add(folder, most_bytes=5)
    with pytest.raises(ModelLoadFailed, match="missing"):
        cache.add(tmp_path / "missing")
    assert cache.hashes() == []
    assert not list((tmp_path / "cache").iterdir())
