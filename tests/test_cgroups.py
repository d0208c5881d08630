"""Limits are read from control groups of both versions, in folders made up here."""

import math

import pytest

from mooring import cgroups, hardware


class Groups:
    """The control groups of a made-up process."""

    def __init__(self, folder):
        self.root, self.own = folder / "groups", folder / "own"
        self.root.mkdir()
        self.own.write_text("")

    def put(self, file, text):
        place = self.root / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


@pytest.fixture
def groups(tmp_path):
    return Groups(tmp_path)


def test_nothing_is_limited_where_there_are_no_groups(groups):
    assert cgroups.cpu_quota(groups.root, groups.own) == math.inf
    assert cgroups.memory_limit(groups.root, groups.own) is None
    assert cgroups.process_limit(groups.root, groups.own / "missing") is None


def test_the_limits_of_version_2_are_read(groups):
    groups.own.write_text("0::/pods/one\n")
    groups.put("pods/one/cpu.max", "150000 100000\n")
    groups.put("pods/one/memory.max", "max\n")
    groups.put("pods/one/pids.max", "4096\n")
    assert cgroups.cpu_quota(groups.root, groups.own) == 1.5
    assert cgroups.memory_limit(groups.root, groups.own) is None
    assert cgroups.process_limit(groups.root, groups.own) == 4096


def test_the_limits_of_version_1_are_read(groups):
    groups.own.write_text("4:memory:/docker/a\n3:pids:/docker/a\n2:cpu,cpuacct:/docker/a\n0::/\n")
    groups.put("cpu,cpuacct/docker/a/cpu.cfs_quota_us", "200000\n")
    groups.put("cpu,cpuacct/docker/a/cpu.cfs_period_us", "100000\n")
    groups.put("cpu,cpuacct/docker/a/cpuacct.usage", "2500000000\n")
    groups.put("memory/docker/a/memory.limit_in_bytes", "1073741824\n")
    groups.put("pids/docker/a/pids.max", "max\n")
    assert cgroups.cpu_quota(groups.root, groups.own) == 2.0
    assert [group.read_used_seconds() for group in cgroups.cpu_groups(groups.root, groups.own)] == [2.5]
    assert cgroups.memory_limit(groups.root, groups.own) == 1 << 30
    assert cgroups.process_limit(groups.root, groups.own) is None


def test_the_memory_that_is_left_is_that_of_the_fullest_group(groups):
    groups.own.write_text("0::/pods/one\n")
    groups.put("pods/one/memory.max", "1000\n")
    groups.put("pods/one/memory.current", "600\n")
    assert cgroups.memory_left(groups.root, groups.own) == 400
    groups.put("pods/one/memory.stat", "anon 500\ninactive_file 100\n")  # which the kernel may drop
    assert cgroups.memory_left(groups.root, groups.own) == 500
    groups.put("pods/memory.max", "900\n")
    groups.put("pods/memory.current", "1000\n")
    assert cgroups.memory_left(groups.root, groups.own) == 0
    groups.own.write_text("4:memory:/docker/a\n")
    groups.put("memory/docker/a/memory.limit_in_bytes", "1000\n")
    groups.put("memory/docker/a/memory.usage_in_bytes", "700\n")
    assert cgroups.memory_left(groups.root, groups.own) == 300
    assert cgroups.memory_left(groups.root, groups.own / "missing") is None


def test_no_quota_in_version_1_is_a_negative_one_and_no_memory_limit_a_huge_one(groups):
    groups.own.write_text("2:cpu:/\n4:memory:/\n")
    groups.put("cpu/cpu.cfs_quota_us", "-1\n")
    groups.put("cpu/cpu.cfs_period_us", "100000\n")
    groups.put("memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert cgroups.cpu_quota(groups.root, groups.own) == math.inf
    assert cgroups.memory_limit(groups.root, groups.own) is None


def test_the_least_of_a_group_and_its_ancestors_counts(groups):
    groups.own.write_text("0::/pods/one\n")
    groups.put("pods/one/cpu.max", "max 100000\n")
    groups.put("pods/cpu.max", "50000 100000\n")
    groups.put("pods/pids.max", "100\n")
    groups.put("pods/one/pids.max", "300\n")
    assert cgroups.cpu_quota(groups.root, groups.own) == 0.5
    assert cgroups.process_limit(groups.root, groups.own) == 100


def test_in_a_container_the_top_is_the_process_s_own_group(groups):
    """Its path is the machine's, and no such folder is mounted."""
    groups.own.write_text("2:cpu:/docker/0123abcd\n")
    groups.put("cpu/cpu.cfs_quota_us", "100000\n")
    groups.put("cpu/cpu.cfs_period_us", "100000\n")
    assert cgroups.cpu_quota(groups.root, groups.own) == 1.0


@pytest.mark.parametrize(
    ("quota", "cores"), [(0.5, 1), (1.0, 1), (1.5, 2), (3.0, 3), (64.0, 8), (math.inf, 8)]
)
def test_a_quota_leaves_so_many_of_the_cores(monkeypatch, quota, cores):
    monkeypatch.setattr(hardware, "cpu_quota", lambda: quota)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(8)))
    assert hardware.count_cores() == cores
