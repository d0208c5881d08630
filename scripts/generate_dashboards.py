"""Write the dashboards of deploy/grafana.

tests/deploy/test_dashboards.py fails when they are not what this writes.
"""

import json
from collections.abc import Callable
from pathlib import Path

from dashboard_parts import (
    ORANGE,
    RED,
    STATE_NAMES,
    Column,
    Panel,
    Query,
    Section,
    bars,
    buckets,
    choice,
    lines,
    link,
    number,
    place,
    source_choice,
    state_number,
    states,
    table,
)
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync

FOLDER = Path(__file__).parent.parent / "deploy/grafana"
OVERVIEW, MODEL = "mooring-overview", "mooring-model"  # the uids of the boards, and the names of their files

SERVER = 'job=~"$job",instance=~"$instance"'
MODELS = f'{SERVER},model_name=~"$model_name"'
VERSIONS = f'{SERVER},model_name="$model_name",model_version=~"$model_version"'
VERSION = "{{model_name}} {{model_version}}"
BY_VERSION = "model_name, model_version"
QUANTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))


def rate(metric: str, selector: str, by: str = "", labels: str = "") -> str:
    """The sum of the rates of a counter, for each combination of the labels ``by``."""
    chosen = f"{selector},{labels}" if labels else selector
    return f"sum{_by(by)} (rate({metric}{{{chosen}}}[$__rate_interval]))"


def gauge(metric: str, selector: str, by: str = "", combined: str = "sum") -> str:
    """The sum of a gauge, or what ``combined`` names, for each combination of the labels ``by``."""
    return f"{combined}{_by(by)} ({metric}{{{selector}}})"


def quantile(value: float, metric: str, selector: str, by: str = "") -> str:
    """A quantile of a histogram, for each combination of the labels ``by``."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({value}, {rate(f'{metric}_bucket', selector, labels)})"


def quantiles(metric: str, selector: str) -> list[Query]:
    return [Query(quantile(value, metric, selector), name) for value, name in QUANTILES]


def mean(metric: str, selector: str, by: str = "") -> str:
    """The mean of a histogram or summary, for each combination of the labels ``by``."""
    return f"{rate(f'{metric}_sum', selector, by)} / {rate(f'{metric}_count', selector, by)}"


def error_ratio(selector: str, by: str = "") -> str:
    """The share of requests that failed; nothing where there was no request."""
    failed = rate("mooring_requests_total", selector, by, 'outcome="failed"')
    return f"{failed} / ({rate('mooring_requests_total', selector, by)} > 0)"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def numbers_of_requests(selector: str) -> list[Panel]:
    """The panels of the first line that both boards have."""
    return [
        number(
            "Requests per second",
            "Requests that ended, answered or not.",
            rate("mooring_requests_total", selector),
            unit="reqps",
        ),
        number(
            "Failed requests",
            "Share of the requests that got an error: of the model, of a full queue or a time limit, or because the "
            "client's input was wrong.",
            f"({error_ratio(selector)}) or vector(0)",
            unit="percentunit",
            limits=[(0.01, ORANGE), (0.05, RED)],
        ),
        number(
            "p99 latency",
            "99 of 100 requests were answered faster, from their arrival at the server to their answer. Estimated "
            "from buckets.",
            quantile(0.99, "mooring_request_duration_seconds", selector),
            unit="s",
            limits=[(0.5, ORANGE), (1, RED)],
        ),
        number(
            "Waiting requests",
            "Requests that wait for a worker now.",
            gauge("mooring_waiting_requests", selector),
        ),
        number(
            "Oldest wait",
            "How long the request waits that has waited longest.",
            gauge("mooring_oldest_wait_seconds", selector, combined="max"),
            unit="s",
            limits=[(1, ORANGE), (10, RED)],
        ),
    ]


def table_of_models() -> Panel:
    """The panel with a row for each version of a model."""
    return table(
        "Versions",
        "Every version of a model that is loaded or has failed. A click on a name opens the board of that model.",
        keys=[("model_name", "Model"), ("model_version", "Version")],
        columns=[
            Column("State", state_number(MODELS, BY_VERSION)),
            Column("Workers ready", gauge("mooring_workers_ready", MODELS, BY_VERSION)),
            Column("Workers wanted", gauge("mooring_workers_wanted", MODELS, BY_VERSION)),
            Column("Requests", rate("mooring_requests_total", MODELS, BY_VERSION), "reqps"),
            Column("Failed", error_ratio(MODELS, BY_VERSION), "percentunit"),
            Column("p99", quantile(0.99, "mooring_request_duration_seconds", MODELS, BY_VERSION), "s"),
            Column("Waiting", gauge("mooring_waiting_requests", MODELS, BY_VERSION)),
            Column("Oldest wait", gauge("mooring_oldest_wait_seconds", MODELS, BY_VERSION, "max"), "s"),
        ],
        link=(
            "Open the board of this model",
            f"/d/{MODEL}?${{__url_time_range}}&var-model_name=${{__value.raw}}",
        ),
    )


def overview() -> Dashboard:
    """The board of all servers and models."""
    board = new_board(
        "Mooring: overview", OVERVIEW, "All models and servers of Mooring that Prometheus scrapes."
    )
    board.link(link("Model", MODEL))
    board.with_variable(
        choice("model_name", "Model", _values("mooring_model_state", SERVER, "model_name"), many=True, all_value=".+")
    )  # fmt: skip
    place(
        board,
        [
            Section("", _overview_numbers(), width=3, height=4),
            Section("Models", [table_of_models(), _timeline(MODELS)], height=10),
            Section("Requests", _overview_requests()),
            Section("Queues and workers", _overview_workers()),
            Section("Batches", _overview_batches()),
            Section("Servers", _servers()),
            Section("GPUs", _gpus(), collapsed=True),
        ],
    )
    return board


def model() -> Dashboard:
    """The board of one model and its versions."""
    board = new_board("Mooring: model", MODEL, "One model of Mooring, and its versions.")
    board.link(link("Overview", OVERVIEW))
    board.with_variable(
        choice("model_name", "Model", _values("mooring_model_state", SERVER, "model_name"), many=False)
    )
    of_model = f'{SERVER},model_name="$model_name"'
    board.with_variable(
        choice(
            "model_version", "Version", _values("mooring_model_state", of_model, "model_version"), many=True, all_value=".+",
        )
    )  # fmt: skip
    place(
        board,
        [
            Section("", _model_numbers(), width=3, height=4),
            Section("Requests", _model_requests()),
            Section("Queue and batches", _model_batches()),
            Section("Workers", _model_workers()),
            Section("Scaling by queue time", _model_scaling()),
            Section("Only some models have these", _model_rest()),
        ],
    )
    return board


def new_board(title: str, uid: str, description: str) -> Dashboard:
    """A board without panels, with the choice of servers."""
    return (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["mooring"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(source_choice())
        .with_variable(choice("job", "Job", "label_values(mooring_arena_size_bytes, job)", many=True))
        .with_variable(
            choice("instance", "Server", _values("mooring_arena_size_bytes", 'job=~"$job"', "instance"), many=True)
        )
    )  # fmt: skip


def _values(metric: str, selector: str, label: str) -> str:
    return f"label_values({metric}{{{selector}}}, {label})"


def _overview_numbers() -> list[Panel]:
    return [
        number(
            "Servers down",
            "Servers that Prometheus could not scrape the last time.",
            f"count(up{{{SERVER}}} == 0) or vector(0)",
            limits=[(1, RED)],
        ),
        number(
            "Versions ready",
            "Versions of models that answer requests.",
            f'sum(mooring_model_state{{{MODELS},state="READY"}}) or vector(0)',
        ),
        number(
            "Versions not ready",
            "Versions that are being loaded or unloaded, or have failed.",
            f'sum(mooring_model_state{{{MODELS},state!="READY"}}) or vector(0)',
            limits=[(1, RED)],
        ),
        *numbers_of_requests(MODELS),
    ]


def _timeline(selector: str) -> Panel:
    return states(
        "State of versions",
        "The state that each version was in.",
        Query(state_number(selector, BY_VERSION), VERSION),
    )


def _overview_requests() -> list[Panel]:
    return [
        lines(
            "Requests by model",
            "Requests per second that ended, answered or not.",
            Query(rate("mooring_requests_total", MODELS, BY_VERSION), VERSION),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Failed requests by model",
            "Share of the requests of each model that got an error.",
            Query(error_ratio(MODELS, BY_VERSION), VERSION),
            unit="percentunit",
            limit=0.05,
        ),
        lines(
            "Latency of all models",
            "From the arrival of a request to its answer. Estimated from buckets.",
            *quantiles("mooring_request_duration_seconds", MODELS),
            unit="s",
        ),
        lines(
            "p99 latency by model",
            "From the arrival of a request to its answer. Estimated from buckets.",
            Query(quantile(0.99, "mooring_request_duration_seconds", MODELS, BY_VERSION), VERSION),
            unit="s",
            limit=1,
        ),
        lines(
            "HTTP responses by class",
            "All responses over HTTP, of every API; those over gRPC are not in it.",
            *[Query(rate(f"Requests{first}XX", SERVER), f"{first}xx") for first in (2, 4, 5)],
            unit="reqps",
        ),
        lines(
            "Bytes in and out",
            "Bytes that clients sent and got, by protocol.",
            Query(rate("mooring_received_bytes_total", SERVER, "protocol"), "in, {{protocol}}"),
            Query(rate("mooring_sent_bytes_total", SERVER, "protocol"), "out, {{protocol}}"),
            unit="Bps",
        ),
    ]


def _overview_workers() -> list[Panel]:
    return [
        lines(
            "Waiting requests by model",
            "Requests that wait for a worker.",
            Query(gauge("mooring_waiting_requests", MODELS, BY_VERSION), VERSION),
            stacked=True,
        ),
        lines(
            "Oldest wait by model",
            "How long the request waits that has waited longest.",
            Query(gauge("mooring_oldest_wait_seconds", MODELS, BY_VERSION, "max"), VERSION),
            unit="s",
            limit=10,
        ),
        lines(
            "Time in the queue",
            "How long requests waited for a worker, of all models. Estimated from buckets.",
            *quantiles("mooring_queue_duration_seconds", MODELS),
            unit="s",
        ),
        lines(
            "Requests in workers by model",
            "Requests that a worker has and has not answered yet.",
            Query(gauge("mooring_in_flight_requests", MODELS, BY_VERSION), VERSION),
            stacked=True,
        ),
        lines(
            "Workers ready and wanted",
            "Workers of all models that are ready, and how many there should be.",
            Query(gauge("mooring_workers_ready", MODELS), "ready"),
            Query(gauge("mooring_workers_wanted", MODELS), "wanted"),
        ),
        lines(
            "Missing workers by model",
            "Workers that should be ready and are not: they start, or they failed.",
            Query(
                f"clamp_min({gauge('mooring_workers_wanted', MODELS, BY_VERSION)} - "
                f"{gauge('mooring_workers_ready', MODELS, BY_VERSION)}, 0)",
                VERSION,
            ),
        ),
        lines(
            "Restarts of workers by reason",
            "Workers that were replaced. Reasons are listed in docs/guide-metrics.md.",
            Query(f"sum by (reason) (increase(mooring_worker_restarts_total{{{MODELS}}}[$__rate_interval]))", "{{reason}}"),
            bars=True,
            stacked=True,
        ),
        bars(
            "Mean time to load",
            "How long loads of a model took, since the server's start.",
            Query(
                f"{gauge('mooring_model_load_duration_seconds_sum', MODELS, BY_VERSION)} / "
                f"{gauge('mooring_model_load_duration_seconds_count', MODELS, BY_VERSION)}",
                VERSION,
            ),
            unit="s",
        ),
    ]  # fmt: skip


def _overview_batches() -> list[Panel]:
    return [
        lines(
            "Rows in a call by model",
            "Mean of the rows that a model was called with.",
            Query(mean("mooring_batch_rows", MODELS, BY_VERSION), VERSION),
        ),
        lines(
            "Time of a call by model",
            "p99 of the time that a call of the model took. Estimated from buckets.",
            Query(quantile(0.99, "mooring_inference_duration_seconds", MODELS, BY_VERSION), VERSION),
            unit="s",
        ),
    ]


def _servers() -> list[Panel]:
    machine = "Hostname"
    return [
        lines(
            "CPU time of the server process",
            "Cores that the first process of the server uses; workers and frontends are not in it.",
            Query(rate("process_cpu_seconds_total", SERVER, "instance"), "{{instance}}"),
            unit="short",
        ),
        lines(
            "Memory of the server process",
            "Resident memory of the first process; workers and frontends are not in it.",
            Query(gauge("process_resident_memory_bytes", SERVER, "instance"), "{{instance}}"),
            unit="bytes",
        ),
        lines(
            "Machine",
            "Use of the machine by everything that runs on it. disable_system_metrics leaves this out.",
            Query(gauge("CPUUtilization", SERVER, machine, "max"), "CPU of {{Hostname}}"),
            Query(gauge("MemoryUtilization", SERVER, machine, "max"), "memory of {{Hostname}}"),
            Query(gauge("DiskUtilization", SERVER, machine, "max"), "disk of {{Hostname}}"),
            unit="percent",
            top=100,
        ),
        lines(
            "Lag of the event loop",
            "p99 of how late the event loop ran what was due, by process. Estimated from buckets.",
            Query(
                quantile(0.99, "mooring_event_loop_lag_seconds", SERVER, "instance, process"),
                "{{process}} of {{instance}}",
            ),
            unit="s",
            limit=0.1,
        ),
        lines(
            "Arena",
            "Shared memory for bodies on their way to workers and back. A body that finds no room travels over a "
            "socket, which is slower.",
            Query(gauge("mooring_arena_used_bytes", SERVER, "instance"), "used, {{instance}}"),
            Query(gauge("mooring_arena_size_bytes", SERVER, "instance"), "size, {{instance}}"),
            unit="bytes",
        ),
        lines(
            "Memory of bodies",
            "Memory that bodies take beyond the arena, and how much they may take. A limit of 0 is none.",
            Query(gauge("mooring_body_memory_used_bytes", SERVER, "instance"), "used, {{instance}}"),
            Query(gauge("mooring_body_memory_limit_bytes", SERVER, "instance"), "limit, {{instance}}"),
            unit="bytes",
        ),
    ]


def _gpus() -> list[Panel]:
    gpu = "Hostname, DeviceId"
    name = "GPU {{DeviceId}} of {{Hostname}}"
    return [
        lines(
            "GPU utilization",
            "Where NVIDIA's driver reports it.",
            Query(gauge("GPUUtilization", SERVER, gpu, "max"), name),
            unit="percent",
            top=100,
        ),
        lines(
            "GPU memory",
            "Memory of the GPU in use, where NVIDIA's driver reports it.",
            Query(gauge("GPUMemoryUsed", SERVER, gpu, "max"), name),
            unit="mbytes",
        ),
    ]


def _model_numbers() -> list[Panel]:
    return [
        number(
            "State",
            "The state of the version; of several, the worst.",
            f"max({state_number(VERSIONS, 'instance, model_version')})",
            mappings=[STATE_NAMES],
        ),
        number("Workers ready", "Workers that take requests.", gauge("mooring_workers_ready", VERSIONS)),
        number("Workers wanted", "Workers that there should be.", gauge("mooring_workers_wanted", VERSIONS)),
        *numbers_of_requests(VERSIONS),
    ]


def _model_requests() -> list[Panel]:
    return [
        lines(
            "Requests by outcome",
            "Requests per second that were answered, and that got an error.",
            Query(rate("mooring_requests_total", VERSIONS, "outcome"), "{{outcome}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Requests by version",
            "Requests per second that ended, answered or not.",
            Query(rate("mooring_requests_total", VERSIONS, "model_version"), "{{model_version}}"),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Latency",
            "From the arrival of a request to its answer. Estimated from buckets.",
            *quantiles("mooring_request_duration_seconds", VERSIONS),
            unit="s",
        ),
        lines(
            "p99 latency by version",
            "From the arrival of a request to its answer. Estimated from buckets.",
            Query(quantile(0.99, "mooring_request_duration_seconds", VERSIONS, "model_version"), "{{model_version}}"),
            unit="s",
            limit=1,
        ),
        buckets(
            "Distribution of latency",
            "How many requests took how long.",
            f"sum by (le) (increase(mooring_request_duration_seconds_bucket{{{VERSIONS}}}[$__rate_interval]))",
            unit="s",
        ),
        lines(
            "Where the time goes",
            "Means: how long a request waits for a worker, how long a call of the model takes, which the requests of a "
            "batch share, and how long a whole request takes.",
            Query(mean("mooring_queue_duration_seconds", VERSIONS), "waits for a worker"),
            Query(mean("mooring_inference_duration_seconds", VERSIONS), "call of the model"),
            Query(mean("mooring_request_duration_seconds", VERSIONS), "whole request"),
            unit="s",
        ),
    ]  # fmt: skip


def _model_batches() -> list[Panel]:
    return [
        lines(
            "Requests that wait or run",
            "Requests that wait for a worker, and that a worker has.",
            Query(gauge("mooring_waiting_requests", VERSIONS), "wait"),
            Query(gauge("mooring_in_flight_requests", VERSIONS), "in a worker"),
        ),
        lines(
            "Oldest wait by version",
            "How long the request waits that has waited longest.",
            Query(
                gauge("mooring_oldest_wait_seconds", VERSIONS, "model_version", "max"), "{{model_version}}"
            ),
            unit="s",
            limit=10,
        ),
        lines(
            "Time in the queue",
            "How long requests waited for a worker. Estimated from buckets.",
            *quantiles("mooring_queue_duration_seconds", VERSIONS),
            unit="s",
        ),
        lines(
            "Time of a call",
            "How long a call of the model took, for all rows of a batch. Estimated from buckets.",
            *quantiles("mooring_inference_duration_seconds", VERSIONS),
            unit="s",
        ),
        lines(
            "Rows and requests in a call",
            "Means of what the model was called with.",
            Query(mean("mooring_batch_rows", VERSIONS), "rows"),
            Query(mean("mooring_batch_requests", VERSIONS), "requests"),
        ),
        buckets(
            "Sizes of batches",
            "How many calls of the model had so many rows.",
            f"sum by (le) (increase(mooring_batch_rows_bucket{{{VERSIONS}}}[$__rate_interval]))",
            unit="short",
        ),
    ]


def _model_workers() -> list[Panel]:
    return [
        lines(
            "Workers ready and wanted",
            "Workers that are ready, and how many there should be.",
            Query(gauge("mooring_workers_ready", VERSIONS), "ready"),
            Query(gauge("mooring_workers_wanted", VERSIONS), "wanted"),
        ),
        lines(
            "Restarts of workers by reason",
            "Workers that were replaced. Reasons are listed in docs/guide-metrics.md.",
            Query(f"sum by (reason) (increase(mooring_worker_restarts_total{{{VERSIONS}}}[$__rate_interval]))", "{{reason}}"),
            bars=True,
            stacked=True,
        ),
        lines(
            "Workers that failed or were recycled",
            "Failed: it died, or could not load the model. Recycled: a fresh one took its place at a limit.",
            Query(f"sum(increase(mooring_worker_failures_total{{{VERSIONS}}}[$__rate_interval]))", "failed"),
            Query(f"sum(increase(mooring_workers_recycled_total{{{VERSIONS}}}[$__rate_interval]))", "recycled"),
            bars=True,
        ),
        bars(
            "Mean time to load",
            "How long loads of the model took, since the server's start.",
            Query(
                f"{gauge('mooring_model_load_duration_seconds_sum', VERSIONS, 'model_version')} / "
                f"{gauge('mooring_model_load_duration_seconds_count', VERSIONS, 'model_version')}",
                "{{model_version}}",
            ),
            unit="s",
        ),
    ]  # fmt: skip


def _model_scaling() -> list[Panel]:
    changes = f"sum by (direction) (increase(mooring_scaling_events_total{{{VERSIONS}}}[$__rate_interval]))"
    return [
        lines(
            "Queue and its target",
            "How long 95 of 100 requests waited at most that were answered lately, and how long the oldest waits now; "
            "of models with a target for that.",
            Query(gauge("mooring_queue_p95_seconds", VERSIONS, combined="max"), "p95"),
            Query(gauge("mooring_oldest_wait_seconds", VERSIONS, combined="max"), "oldest"),
            Query(gauge("mooring_queue_target_seconds", VERSIONS, combined="max"), "target"),
            unit="s",
        ),
        lines(
            "Workers needed and allowed",
            "Workers that the target takes, those that there may be, and those that have a request.",
            Query(gauge("mooring_workers_needed", VERSIONS), "needed"),
            Query(gauge("mooring_workers_limit", VERSIONS), "limit"),
            Query(gauge("mooring_workers_busy", VERSIONS), "busy"),
        ),
        lines(
            "Changes of the number of workers",
            "How often workers were added (up) or removed (down) for the time that requests wait.",
            Query(changes, "{{direction}}"),
            bars=True,
        ),
    ]


def _model_rest() -> list[Panel]:
    handler = f'{SERVER},ModelName="$model_name"'
    hits = rate("mooring_response_cache_requests_total", VERSIONS, labels='outcome="hit"')
    return [
        lines(
            "Response cache",
            "Share of the requests that the response cache answered, of models that have one.",
            Query(f"{hits} / ({rate('mooring_response_cache_requests_total', VERSIONS)} > 0)", "hits"),
            unit="percentunit",
            top=1,
        ),
        lines(
            "Sequences",
            "Sequences that are open or wait to begin, of models that keep state.",
            Query(gauge("mooring_sequences", VERSIONS, "model_version"), "{{model_version}}"),
        ),
        lines(
            "Times of a TorchServe handler",
            "What a handler records of its last call: PredictionTime, and HandlerTime of those that come from BaseHandler.",
            Query(gauge("PredictionTime", handler, combined="max"), "PredictionTime"),
            Query(gauge("HandlerTime", handler, combined="max"), "HandlerTime"),
            unit="ms",
        ),
    ]


BOARDS: dict[str, Callable[[], Dashboard]] = {OVERVIEW: overview, MODEL: model}


def text_of(board: Dashboard) -> str:
    """The JSON of a board, as it is imported."""
    return json.dumps(board.build(), cls=JSONEncoder, indent=2) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in BOARDS.items():
        (FOLDER / f"{name}.json").write_text(text_of(make()))
