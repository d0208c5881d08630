"""The options of a model that the server's settings decide: what holds where the model itself says nothing."""

from mooring.config.settings import Config
from mooring.core.options import (
    Batching,
    HandlerOptions,
    ModelLimits,
    ModelOptions,
    Scaling,
    SequenceHeaders,
    SequenceOptions,
    Timeouts,
)


def model_options(config: Config) -> ModelOptions:
    """The server-wide defaults, each from its setting; what no setting decides is as it is built in."""
    workers = config.default_workers_per_model or 1
    return ModelOptions(
        batching=Batching(exact_delay=config.exact_batch_delay),
        scaling=Scaling(
            min_workers=workers,
            max_workers=workers,
            max_requests=config.max_requests_per_worker,
            memory_limit=config.worker_memory_limit,
            target_queue=config.target_queue_ms / 1000,
            scaling_window=config.scaling_window,
            cool_down=config.scaling_cool_down,
        ),
        timeouts=Timeouts(
            response_timeout=config.default_response_timeout,
            startup_timeout=config.default_startup_timeout,
        ),
        sequence=SequenceOptions(headers=sequence_headers(config)),
        limits=ModelLimits(queue_size=config.job_queue_size, max_response_bytes=config.max_response_size),
        handler=HandlerOptions(
            decode_input=config.decode_input_request,
            limit_image_pixels=config.limit_max_image_pixels,
            envelope=config.service_envelope,
            metrics_config="" if config.metrics_config is None else str(config.metrics_config.resolve()),
            metric_lines=config.metrics_mode != "prometheus",
            json_nan=config.json_nan,
            forward_headers=config.forward_headers,
        ),
    )


def sequence_headers(config: Config) -> SequenceHeaders:
    """The headers that say which sequence a request belongs to."""
    return SequenceHeaders(
        config.sequence_id_header, config.sequence_start_header, config.sequence_end_header
    )
