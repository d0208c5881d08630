"""``mooring cluster`` and ``mooring serve --cluster``: what they print, and what they say where there is no cluster or no Ray."""

import json
import sys

import msgspec
import pytest
from click import ClickException

from mooring.cli import cluster_serve
from mooring.cli.cluster import Cluster
from mooring.cluster.ray.orders import ControllerOrder
from mooring.cluster.records import (
    ClusterView,
    DrainNode,
    NodeView,
    ReplicaState,
    ReplicaView,
    ScaleVersion,
    VersionStatus,
    VersionView,
)


def node(name, state="READY", reason=""):
    return NodeView(name, state, reason, f"http://{name}:8080", "0.1.0", 0.2, {"CPU": 2.0})


def version(model, state="READY", reason="", replicas=(), wanted=1):
    return VersionView(model, "1.0", state, reason, True, wanted, 1, 2, list(replicas))


def replica(where, state=ReplicaState.READY, reason=""):
    status = VersionStatus("m", "1.0", state, reason, ready_workers=1, wanted_workers=2, waiting=3)
    return ReplicaView(where, status)


VIEW = ClusterView(
    "mooring",
    4,
    7,
    [node("alpha"), node("beta", "LOST", "no word for 4 s")],
    [
        version("digits", replicas=[replica("alpha"), replica("beta", ReplicaState.LOADING)], wanted=2),
        version("huge", "PENDING", "needs 2 GPUs on one node"),
    ],
)


class FakeController:
    """Stands in for the connection to a controller; keeps what it was asked."""

    def __init__(self):
        self.views = [VIEW]
        self.asked = []
        self.stopped = None

    def ask(self, change=None):
        if change is not None:
            self.asked.append(change)
        return self.views.pop(0) if len(self.views) > 1 else self.views[0]

    def stop(self, patience):
        self.stopped = patience
        return []


@pytest.fixture
def controller(monkeypatch):
    from contextlib import contextmanager

    controller = FakeController()

    @contextmanager
    def found(where):
        assert where == Cluster("auto", "mooring")
        yield controller

    monkeypatch.setattr("mooring.cli.cluster._controller", found)
    return controller


def test_status_shows_the_nodes_and_is_1_when_one_is_not_well(mooring, controller):
    result = mooring("cluster", "status")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0].split() == ["NODE", "STATE", "ADDRESS", "MODELS", "SOFTWARE"]
    assert lines[1].split() == ["alpha", "READY", "http://alpha:8080", "1", "0.1.0"]
    assert lines[2].split(maxsplit=5) == ["beta", "LOST", "http://beta:8080", "1", "0.1.0", "no word for 4 s"]
    controller.views = [ClusterView("mooring", 4, 7, [node("alpha")])]
    assert mooring("cluster", "status").exit_code == 0


def test_models_shows_a_line_for_each_replica_and_what_is_missing(mooring, controller):
    lines = mooring("cluster", "models").output.splitlines()
    assert " ".join(lines[1].split()) == "digits 1.0 (default) READY 1 of 2 (1-2) alpha 1 of 2 3"
    assert " ".join(lines[2].split()) == "beta 1 of 2 3 LOADING"
    assert lines[3].split(maxsplit=8)[3:] == [
        "PENDING",
        "0",
        "of",
        "1",
        "(1-2)",
        "-      -        -        needs 2 GPUs on one node",
    ]


@pytest.mark.parametrize("command", ["status", "models"])
def test_json_is_all_that_is_known(mooring, controller, command):
    shown = json.loads(mooring("cluster", command, "--json").output)
    assert shown["nodes"][0]["resources"] == {"CPU": 2.0}
    assert shown["versions"][0]["replicas"][1]["status"]["state"] == "LOADING"


def test_scale_asks_for_replicas_and_workers(mooring, controller):
    assert (
        mooring("cluster", "scale", "digits", "--replicas", "1-4", "--workers", "3").output
        == "digits is scaled\n"
    )
    mooring("cluster", "scale", "digits", "--version", "2", "--replicas", "0", "--no-wait")
    assert controller.asked == [
        ScaleVersion("digits", "", min_workers=3, max_workers=3, min_replicas=1, max_replicas=4),
        ScaleVersion("digits", "2", min_replicas=0, max_replicas=0, wait=False),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to change: --replicas, --workers or both"),
        (["--replicas", "many"], "--replicas many: must be a number, or two as in 1-4"),
        (["--workers", "4-1"], "--workers 4-1: the first number must not be the larger one"),
    ],
)
def test_scale_says_what_is_wrong_with_its_numbers(mooring, controller, arguments, said):
    result = mooring("cluster", "scale", "digits", *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert controller.asked == []


def test_drain_and_stop(mooring, controller):
    assert mooring("cluster", "drain", "alpha").output == "alpha is drained\n"
    assert mooring("cluster", "drain", "alpha", "--undo").output == "alpha serves again\n"
    assert controller.asked == [DrainNode("alpha"), DrainNode("alpha", undo=True)]
    assert mooring("cluster", "stop", "--timeout", "5").output == "mooring is stopped\n"
    assert controller.stopped == 5.0


def test_drain_says_what_has_no_other_place(mooring, controller):
    controller.views = [ClusterView("mooring", 4, 7, [node("alpha", "DRAINING", "model m 1: needs a GPU")])]
    result = mooring("cluster", "drain", "alpha")
    assert result.exit_code == 1
    assert result.output == "alpha keeps what has no other place: model m 1: needs a GPU\n"


def test_without_ray_the_command_that_installs_it_is_named(mooring, monkeypatch):
    for name in [each for each in sys.modules if each.startswith("mooring.cluster.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    for command in (["cluster", "status"], ["serve", "--cluster", "auto"]):
        result = mooring(*command)
        assert result.exit_code == 1
        assert 'a cluster needs Ray, which is not installed: pip install "mooring[ray]"' in result.output


def test_a_secret_is_not_sent_to_a_cluster(mooring):
    result = mooring("serve", "--cluster", "auto", MOORING_MANAGEMENT_TOKEN="hidden")
    assert result.exit_code == 1
    assert "name a file that every node has, as management_token_file" in result.output
    assert "hidden" not in result.output


def follow(monkeypatch, views, wanted):
    monkeypatch.setattr(cluster_serve, "_LOOK", 0.0)
    monkeypatch.setattr(cluster_serve, "_PENDING_PATIENCE", 0.0)
    controller = FakeController()
    controller.views = views
    return cluster_serve._follow(controller, wanted)


def of(*versions):
    return ClusterView("mooring", 1, 1, [node("alpha"), node("beta", "LOST")], list(versions))


def test_a_start_follows_the_models_until_all_are_ready(monkeypatch, capsys):
    loading = version("m", "LOADING", replicas=[replica("alpha", ReplicaState.LOADING)])
    views = [of(), of(loading), of(version("m"), version("other", "FAILED", "not ours"))]
    assert follow(monkeypatch, views, {("m", "1.0")}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "loading m 1.0 ..."
    assert lines[1].startswith("m 1.0 is ready after ")
    assert lines[2:] == [
        "'mooring' is up. Ask any of its nodes:",
        "  http://alpha:8080  (alpha)",
        "mooring cluster status shows it, mooring cluster stop ends it.",
    ]


def test_a_model_that_has_no_place_yet_is_not_told_to_load(monkeypatch, capsys):
    views = [of(version("m", "LOADING")), of(version("m", "PENDING", "needs 2 GPUs"))]
    assert follow(monkeypatch, views, {("m", "1.0")}) == 3
    assert "loading" not in capsys.readouterr().out


def test_a_start_waits_for_nodes_that_are_being_started_and_names_those_that_fail(monkeypatch, capsys):
    failed = node("gamma", "FAILED", "the port 8080 is in use")
    views = [
        ClusterView("mooring", 1, 1, [node("alpha"), node("beta", "STARTING")], [version("m")]),
        ClusterView("mooring", 1, 1, [node("alpha"), node("beta"), failed], [version("m")]),
    ]
    assert follow(monkeypatch, views, {("m", "1.0")}) == 0
    shown = capsys.readouterr()
    assert "http://beta:8080" in shown.out
    assert shown.err == "node gamma is FAILED: the port 8080 is in use\n"


def test_a_model_that_is_unloaded_meanwhile_ends_the_start(monkeypatch, capsys):
    views = [of(version("m", "UNLOADING"), version("n")), of(version("n"))]
    assert follow(monkeypatch, views, {("m", "1.0"), ("n", "1.0")}) == 1
    assert "m 1.0 was unregistered meanwhile" in capsys.readouterr().err


def test_a_model_that_is_loaded_again_is_told_of_once(monkeypatch, capsys):
    loading, waits = version("m", "LOADING", replicas=[replica("alpha")]), version("n", "LOADING")
    views = [of(loading, waits), of(version("m"), waits), of(loading, waits), of(version("m"), version("n"))]
    assert follow(monkeypatch, views, {("m", "1.0"), ("n", "1.0")}) == 0
    lines = [line.partition(" after")[0] for line in capsys.readouterr().out.splitlines()[:4]]
    assert lines == ["loading m 1.0 ...", "m 1.0 is ready", "loading n 1.0 ...", "n 1.0 is ready"]


def test_a_start_without_a_node_gives_up_soon_where_all_have_failed(monkeypatch):
    monkeypatch.setattr(cluster_serve, "_FAILED_PATIENCE", 0.0)
    controller = FakeController()
    controller.views = [ClusterView("mooring", 1, 1, [node("alpha", "FAILED", "the port 8080 is in use")])]
    with pytest.raises(ClickException) as raised:
        cluster_serve._wait_for_node(controller)
    assert "node alpha is FAILED: the port 8080 is in use" in raised.value.message
    assert "mooring cluster stop" in raised.value.message


def test_a_start_ends_with_1_and_the_reason_when_a_model_fails(monkeypatch, capsys):
    assert follow(monkeypatch, [of(version("m", "FAILED", "app.py:1 imports 'x'"))], {("m", "1.0")}) == 1
    assert "m 1.0 failed: app.py:1 imports 'x'" in capsys.readouterr().err


def test_a_start_ends_with_3_and_what_is_missing_when_a_model_fits_nowhere(monkeypatch, capsys):
    assert follow(monkeypatch, [of(version("m", "PENDING", "needs 2 GPUs"))], {("m", "1.0")}) == 3
    assert "m 1.0 waits for room: needs 2 GPUs" in capsys.readouterr().err


def test_what_differs_from_the_settings_of_a_cluster_that_runs_is_named():
    one = ControllerOrder("mooring", 1, "0.1.0", "port = 9000\njob_queue_size = 7\n")
    other = msgspec.structs.replace(one, settings="job_queue_size = 8\n", nodes=["zone=a"], protocol=2)
    found = cluster_serve._differences(one, other)
    assert found == ["job_queue_size", "port", "cluster_nodes", "the version of its messages"]
