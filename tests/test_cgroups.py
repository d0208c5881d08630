"""Limits are read from control groups of both versions, in folders made up here."""

import math
import re
import resource
from pathlib import Path
from types import SimpleNamespace

import psutil
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


def test_of_a_container_s_own_groups_the_end_of_their_path_is_there(groups):
    """An agent in a container has put the server into a group below that of the container, which is the top it sees."""
    groups.own.write_text("2:cpu:/docker/0123abcd/agent/server\n4:memory:/docker/0123abcd/agent/server\n")
    groups.put("cpu/cpu.cfs_quota_us", "-1\n")
    groups.put("cpu/cpu.cfs_period_us", "100000\n")
    groups.put("cpu/agent/server/cpu.cfs_quota_us", "50000\n")
    groups.put("cpu/agent/server/cpu.cfs_period_us", "100000\n")
    groups.put("memory/agent/memory.limit_in_bytes", "1000000\n")
    groups.put("memory/agent/server/memory.limit_in_bytes", "2000000\n")
    assert cgroups.cpu_quota(groups.root, groups.own) == 0.5
    assert cgroups.memory_limit(groups.root, groups.own) == 1_000_000


def test_a_group_beside_the_top_of_a_name_space_does_not_lead_out(groups):
    groups.own.write_text("0::/../other\n")
    (groups.root.parent / "other").mkdir()
    (groups.root.parent / "other/pids.max").write_text("5")
    groups.put("pids.max", "100\n")
    assert cgroups.process_limit(groups.root, groups.own) == 100


def test_memory_above_which_the_kernel_takes_pages_away_is_a_limit(groups):
    groups.own.write_text("0::/pods/one\n")
    groups.put("pods/one/memory.high", "500000\n")
    groups.put("pods/one/memory.max", "max\n")
    groups.put("pods/memory.max", "900000\n")
    assert cgroups.memory_limit(groups.root, groups.own) == 500_000


@pytest.mark.parametrize(
    ("quota", "cores"), [(0.5, 1), (1.0, 1), (1.5, 2), (3.0, 3), (64.0, 8), (math.inf, 8)]
)
def test_a_quota_leaves_so_many_of_the_cores(monkeypatch, quota, cores):
    monkeypatch.setattr(hardware, "cpu_quota", lambda: quota)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(8)))
    assert hardware.count_cores() == cores


@pytest.mark.parametrize(("limit", "usable"), [(None, 4096), (1000, 1000), (1 << 40, 4096)])
def test_memory_is_what_the_machine_has_or_less(monkeypatch, limit, usable):
    monkeypatch.setattr(hardware, "memory_limit", lambda: limit)
    monkeypatch.setattr(hardware.os, "sysconf", {"SC_PHYS_PAGES": 4, "SC_PAGE_SIZE": 1024}.get)
    assert hardware.usable_memory() == usable


@pytest.mark.parametrize(("left", "free"), [(None, 5000), (400, 400), (9000, 5000)])
def test_free_memory_is_what_machine_and_groups_leave(monkeypatch, left, free):
    monkeypatch.setattr(hardware, "memory_left", lambda: left)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5000))
    assert hardware.free_memory() == free


@pytest.mark.parametrize(
    ("group", "user", "most"),
    [
        (None, resource.RLIM_INFINITY, None),
        (400, resource.RLIM_INFINITY, 400),
        (400, 300, 300),
        (None, 300, 300),
    ],
)
def test_processes_are_limited_by_groups_and_by_the_user(monkeypatch, group, user, most):
    monkeypatch.setattr(hardware, "process_limit", lambda: group)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (user, user))
    assert hardware.most_processes() == most
    assert (hardware.explain_process_limit() == "") == (most is None)
    if most:
        assert f"; there may be {most} processes and threads here" in hardware.explain_process_limit()


def test_a_pool_of_threads_has_no_more_than_the_cores_ask_for(monkeypatch):
    monkeypatch.setattr(hardware, "count_cores", lambda: 1)
    assert hardware.count_pool_threads() == 5
    monkeypatch.setattr(hardware, "count_cores", lambda: 200)
    assert hardware.count_pool_threads() == 32


def test_nobody_counts_the_machine_s_cores_or_memory_but_in_one_place():
    """A container has fewer. These tell of the machine itself, as TorchServe and Triton do, and decide nothing by it."""
    telling = {
        "observability/load.py", "observability/host.py", "protocols/kserve/triton_metrics.py",
        "backends/handler/system_metrics.py",
    }  # fmt: skip
    counting = re.compile(r"cpu_count|virtual_memory|sched_getaffinity|SC_PHYS_PAGES|SC_NPROCESSORS|meminfo")
    source = Path(hardware.__file__).parent
    found = {
        str(file.relative_to(source))
        for file in source.rglob("*.py")
        if counting.search(file.read_text(encoding="utf-8"))
    }
    assert found - telling == {"hardware.py"}
