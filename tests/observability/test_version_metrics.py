"""What is told of each version: its counts, and what it has to do while it is loaded."""

import re

import pytest

from mooring.core.service import VersionLoad
from mooring.observability.metrics import MAX_UNSERVED, Metrics
from mooring.observability.statistics import RestartReason
from mooring.observability.version_metrics import LOADED

GAUGES = (
    "mooring_waiting_requests", "mooring_oldest_wait_seconds", "mooring_in_flight_requests", "mooring_workers_ready",
    "mooring_workers_wanted", "mooring_model_state", "mooring_sequences",
)  # fmt: skip


class Served:
    """Metrics of the models that are ``names``, as the engine tells of them."""

    def __init__(self, *names):
        self.names = list(names)
        self.metrics = Metrics(system=False)
        self.metrics.read_versions(
            lambda: {(name, "1") for name in self.names},
            lambda: [(name, "1", "READY") for name in self.names],
            lambda: [VersionLoad(name, "1", 3, 1.5, 2, 1, 4, 3) for name in self.names],
        )
        for name in names:
            self.load(name)

    def load(self, name):
        if name not in self.names:
            self.names.append(name)
        return self.metrics.statistics_for(name, "1")

    def samples(self):
        text = self.metrics.render_text().decode()
        return {
            (name, labels): float(value)
            for name, labels, value in re.findall(r"^(\w+){(.*)} (\S+)$", text, re.MULTILINE)
        }

    def of(self, name):
        own = f'model_name="{name}",model_version="1"'
        found = {}
        for (sample, labels), value in self.samples().items():
            if labels.startswith(own):
                found[sample + labels.removeprefix(own)] = value
        return found


def test_what_a_version_has_to_do_is_told_while_it_is_loaded():
    served = Served("m", "other")
    served.metrics.statistics_for("m", "1").sequences = 7
    found = served.of("m")
    assert [found.get(name) for name in GAUGES] == [3, 1.5, 2, 1, 4, None, 7]
    assert found['mooring_model_state,state="READY"'] == 1
    assert "mooring_sequences" not in served.of("other")
    served.names.remove("m")
    gone = served.of("m")
    assert not [name for name in gone if name.startswith(GAUGES)]
    assert gone["mooring_request_duration_seconds_count"] == 0
    assert served.of("other")["mooring_workers_wanted"] == 4


def test_every_reason_of_a_restart_is_there_from_the_beginning():
    served = Served("m")
    served.metrics.statistics_for("m", "1").restarts[RestartReason.FROZEN] += 2
    restarts = {name: value for name, value in served.of("m").items() if "restarts" in name}
    assert len(restarts) == len(RestartReason)
    assert {name: value for name, value in restarts.items() if value} == {
        'mooring_worker_restarts_total,reason="frozen"': 2
    }


def test_the_requests_of_a_call_and_the_seconds_of_a_load_are_histograms():
    served = Served("m")
    statistics = served.metrics.statistics_for("m", "1")
    statistics.observe_batches([(8, 0.01, 3), (8, 0.01, 3), (1, 0.01, 1)])
    statistics.loads.observe(0.2)
    found = served.of("m")
    assert [found[f'mooring_batch_requests_bucket,le="{bound}"'] for bound in ("1.0", "2.0", "4.0")] == [
        1,
        1,
        3,
    ]
    assert found["mooring_batch_requests_sum"] == 7
    assert found["mooring_batch_rows_sum"] == 17
    assert found['mooring_model_load_duration_seconds_bucket,le="0.25"'] == 1


def test_what_another_process_counted_is_added():
    served, frontend = Served("m"), Metrics(system=False)
    frontend.statistics_for("m", "1").observe_batches([(2, 0.01, 2)])
    served.metrics.statistics_for("m", "1").observe_batches([(4, 0.01, 3)])
    served.metrics.add_counts(frontend.take_counts())
    assert served.of("m")["mooring_batch_requests_sum"] == 5
    assert served.of("m")["mooring_batch_rows_sum"] == 6


def test_the_counters_of_a_version_go_on_when_it_is_loaded_again():
    served = Served("m")
    served.metrics.statistics_for("m", "1").observe_request(0.1, 0.0, ok=True)
    served.names.clear()
    assert served.of("m")["mooring_request_duration_seconds_count"] == 1
    served.load("m").observe_request(0.1, 0.0, ok=True)
    assert served.of("m")["mooring_request_duration_seconds_count"] == 2


def test_a_server_that_loads_ten_thousand_models_one_after_the_other_has_a_page_that_does_not_grow():
    served = Served("stays")
    served.metrics.statistics_for("stays", "1").observe_request(0.1, 0.0, ok=True)
    sizes = []
    for number in range(10_000):
        statistics = served.load(f"model-{number:05}")
        statistics.last = float(number)  # when it was called last
        served.names.remove(f"model-{number:05}")
        if number in (500, 9_999):
            sizes.append(served.metrics.render_text().count(b"\n"))
    assert sizes[0] == sizes[1]
    assert len(served.metrics.all_statistics()) == MAX_UNSERVED + 1
    assert served.of("stays")["mooring_request_duration_seconds_count"] == 1
    assert served.of("model-09999")
    assert not served.of("model-00001")


def test_a_version_that_is_served_is_never_forgotten():
    served = Served(*(f"m{number}" for number in range(3 * MAX_UNSERVED)))
    for number in range(3 * MAX_UNSERVED):
        served.load(f"gone{number}")
        served.names.remove(f"gone{number}")
    assert len(served.metrics.all_statistics()) == 4 * MAX_UNSERVED
    assert served.of("m0")


async def test_a_page_that_is_written_in_turns_is_the_same():
    served = Served("m", "n")
    names = {family.name for family in served.metrics.versions.families}
    assert await served.metrics.render_in_turns(names) == served.metrics.render_text(names)


@pytest.mark.parametrize("count", [1, 300])
async def test_a_page_is_written_in_small_steps(count):
    served = Served(*(f"m{number}" for number in range(count)))
    steps = sum(1 for _ in served.metrics.versions.write(served.metrics._new_page(None)))
    assert steps >= count + len(LOADED)
