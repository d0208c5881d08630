"""How busy a thread and a machine are, and what a control group leaves of the machine."""

import math
import time
from types import SimpleNamespace

import pytest

from mooring.observability import load
from mooring.observability.load import IdleCores, ThreadLoad


def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_a_thread_s_load_is_its_share_of_a_core_since_the_last_look():
    times = [time.monotonic()]
    own = ThreadLoad()
    times.append(time.monotonic())
    spin(0.05)
    times.append(time.monotonic())
    share = own.read_share()
    times.append(time.monotonic())
    # Other work on the machine may come between any two of these lines.
    assert 0.05 / (times[3] - times[0]) <= share <= 1.2 * 0.05 / (times[2] - times[1])
    time.sleep(0.05)
    assert own.read_share() < 0.2


class Machine:
    """Cores that are idle for so many of the seconds that pass."""

    def __init__(self, monkeypatch, cores):
        self.now, self.idle = 0.0, [0.0] * cores
        # In place of the modules themselves, which others use, too.
        monkeypatch.setattr(load, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(load, "psutil", SimpleNamespace(cpu_times=self._times))
        monkeypatch.setattr(load, "os", SimpleNamespace(sched_getaffinity=lambda _: set(range(1, cores))))

    def _times(self, *, percpu):
        assert percpu
        return [SimpleNamespace(idle=idle) for idle in self.idle]

    def passes(self, seconds, *idle):
        self.now += seconds
        self.idle = [before + share * seconds for before, share in zip(self.idle, idle, strict=True)]


@pytest.fixture
def group(tmp_path):
    """A control group of this process."""
    own = tmp_path / "own"
    own.write_text("1:cpu:/ignored\n0::/some/group\n")
    folder = tmp_path / "groups/some/group"
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text("max 100000\n")
    (folder / "cpu.stat").write_text("usage_usec 0\nuser_usec 0\n")
    return folder


def test_only_cores_that_this_process_may_use_count(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, 4)
    idle = IdleCores(tmp_path, tmp_path / "none")
    machine.passes(0.5, 1.0, 0.5, 0.25, 0.0)
    assert idle.read_idle_cores() == pytest.approx(0.75)
    machine.passes(0.5, 0.0, 1.0, 1.0, 1.0)
    assert idle.read_idle_cores() == pytest.approx(3.0)


def test_a_control_group_s_quota_leaves_less_than_the_cores_do(monkeypatch, tmp_path, group):
    machine = Machine(monkeypatch, 5)
    idle = IdleCores(tmp_path / "groups", tmp_path / "own")
    machine.passes(1.0, *[1.0] * 5)
    assert idle.read_idle_cores() == pytest.approx(4.0)
    (group / "cpu.max").write_text("150000 100000\n")
    (group / "cpu.stat").write_text("usage_usec 1200000\n")
    machine.passes(1.0, *[1.0] * 5)
    assert idle.read_idle_cores() == pytest.approx(0.3)
    (group / "cpu.stat").write_text("usage_usec 9200000\n")
    machine.passes(1.0, *[1.0] * 5)
    assert idle.read_idle_cores() == 0.0


@pytest.mark.parametrize("spoiled", ["", "nonsense", "1 0"])
def test_a_quota_that_cannot_be_read_is_none(monkeypatch, tmp_path, group, spoiled):
    machine = Machine(monkeypatch, 3)
    idle = IdleCores(tmp_path / "groups", tmp_path / "own")
    (group / "cpu.max").write_text(spoiled)
    machine.passes(1.0, 1.0, 1.0, 1.0)
    assert idle.read_idle_cores() == pytest.approx(2.0)
    assert math.isfinite(idle.read_idle_cores())
