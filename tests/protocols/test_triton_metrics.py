"""Triton's metric names say what our own counts say."""

from mooring.observability.metrics import Metrics
from mooring.observability.statistics import Failure
from mooring.protocols.kserve.triton_metrics import TritonMetrics


def samples(metrics):
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in metrics.render_text().decode().splitlines()
        if line.startswith("nv_")
    }


def test_counts_have_tritons_names_and_labels():
    metrics = Metrics()
    TritonMetrics(metrics, lambda: [("simple", "1", 3)])
    counted = metrics.statistics_for("simple", "1")
    counted.observe_request(0.5, 0.125, True)
    counted.observe_request(0.25, 0.25, True)
    counted.observe_batches([(2, 0.25, 1), (4, 0.25, 1)])
    counted.observe_cache(0.001, hit=True)
    for failure in (Failure.BACKEND, None, Failure.REJECTED):
        counted.observe_request(1.0, 0.0, False)
        if failure is not None:
            counted.count_failure(failure)
    found = samples(metrics)
    labels = '{model="simple",version="1"}'
    assert {name: found[f"nv_{name}{labels}"] for name in (
        "inference_request_success", "inference_count", "inference_exec_count", "inference_request_duration_us",
        "inference_queue_duration_us", "inference_compute_infer_duration_us", "inference_pending_request_count",
        "cache_num_hits_per_model", "cache_num_misses_per_model", "cache_hit_duration_per_model",
    )} == {
        "inference_request_success": 2, "inference_count": 6, "inference_exec_count": 2,
        "inference_request_duration_us": 750_000, "inference_queue_duration_us": 375_000,
        "inference_compute_infer_duration_us": 500_000, "inference_pending_request_count": 3,
        "cache_num_hits_per_model": 1, "cache_num_misses_per_model": 0, "cache_hit_duration_per_model": 1000,
    }  # fmt: skip
    reasons = {
        reason: found[f'nv_inference_request_failure{{model="simple",version="1",reason="{reason}"}}']
        for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")
    }
    assert reasons == {"REJECTED": 1, "CANCELED": 0, "BACKEND": 1, "OTHER": 1}
    assert 0 <= found["nv_cpu_utilization"] <= 1
    assert found["nv_cpu_memory_total_bytes"] > found["nv_cpu_memory_used_bytes"] > 0


def test_without_metrics_of_the_machine_there_are_none_of_tritons():
    metrics = Metrics(system=False)
    TritonMetrics(metrics, list)
    assert not [name for name in samples(metrics) if name.startswith("nv_cpu")]
