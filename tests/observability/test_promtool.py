"""The page as Prometheus' own linter sees it, with everything on it that can be: all dialects, and a model's own metrics."""

import shutil
import subprocess

import pytest

from mooring.core.service import VersionLoad
from mooring.observability.cluster_metrics import ClusterMetrics
from mooring.observability.metrics import Metrics
from mooring.observability.records import Record
from mooring.protocols.amd.metrics import AmdMetrics
from mooring.protocols.kserve.triton_metrics import TritonMetrics

PROMTOOL = shutil.which("promtool")
OWN = ("mooring_", "process_")


def full_page(names=None):
    metrics = Metrics()
    AmdMetrics(metrics, lambda: 3)
    TritonMetrics(metrics, lambda: [("m", "1", 3)])
    metrics.read_versions(
        lambda: {("m", "1")},
        lambda: [("m", "1", "READY")],
        lambda: [VersionLoad("m", "1", 3, 1.5, 2, 1, 1, 0)],
    )
    metrics.host.read_load_times(lambda: [("W-9000-m_1", 1.5)])
    statistics = metrics.statistics_for("m", "1")
    statistics.sequences = 2
    statistics.observe_cache(0.001, hit=True)
    statistics.observe_batches([(2, 0.01, 2)])
    for defaulted in (True, False):
        statistics.observe_request(0.1, 0.01, ok=True, defaulted=defaulted)
    for kind, value in (("counter", 3.0), ("gauge", 2.5), ("histogram", 7.0)):
        metrics.record_values("m", [Record(f"Handler{kind}", "ms", kind, {"ModelName": "m"}, [value])])
    cluster = ClusterMetrics()
    cluster.nodes = lambda: ["b"]
    for counts in (cluster.sent, cluster.ran, cluster.lost):
        counts["b"] += 1
    cluster.ways.observe(0.001)
    metrics.registry.register(cluster)
    return metrics.render_text(names)


def lint(page):
    """What promtool says of a page, line by line; each line begins with the name of a metric."""
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, check=False)
    assert checked.returncode in (0, 3), checked.stderr.decode()  # 1: the page cannot be read
    return checked.stderr.decode().splitlines()


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus)")
def test_promtool_has_nothing_to_say_of_our_own_names():
    page = full_page()
    text = page.decode()
    assert all(f"# TYPE {prefix}" in text for prefix in (*OWN, "nv_", "amdinfer_", "ts_", "Handler"))
    assert [line for line in lint(page) if line.startswith(OWN)] == []
    # The linter looks: names of TorchServe's are not as it likes them.
    assert [line for line in lint(page) if line.startswith("Requests2XX")]


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian's package prometheus)")
def test_a_page_of_our_own_names_alone_is_clean():
    text = full_page().decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert lint(full_page({name for name in names if name.startswith(OWN)})) == []
