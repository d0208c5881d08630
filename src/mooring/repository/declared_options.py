"""The options that a model's own configuration declares, as layers over the server's defaults."""

from typing import Any, TypeVar

from mooring.core.options import (
    UNDECLARED,
    Batching,
    BatchMode,
    Control,
    HandlerOptions,
    ImplicitState,
    ModelLimits,
    ModelOptions,
    OptionGroup,
    Placement,
    QueuePolicy,
    RuntimeOptions,
    Scaling,
    SequenceOptions,
    Timeouts,
    WaitPolicy,
    declare,
    or_undeclared,
    resolve_options,
)
from mooring.repository.declaration import (
    Declaration,
    PlacementTable,
    QueuePolicyTable,
    SequencesTable,
    StateTable,
    Table,
    TritonDeclaration,
    WaitPolicyTable,
)
from mooring.repository.platforms import AMD_PLATFORMS, DEFAULT_BATCH, FUNCTION, LIBRARIES, unshared_reason
from mooring.repository.spec import Defaults

G = TypeVar("G", bound=OptionGroup)

# How many sequences a model of our own may have at a time where it does not say; TorchServe's and Triton's say.
_MAX_SEQUENCES = 1000


def declared_options(declared: Declaration, backend: str, defaults: Defaults) -> ModelOptions:
    """The options of a model whose configuration is ``declared`` and that ``backend`` runs.

    A file of PyTorch or ONNX whose configuration leaves ``max_batch_size`` out is batched where it can be, and a function
    as its code says.
    """
    usual = defaults.options_for(sharing=defaults_to_core_count(declared, backend))
    layers = option_layers(declared)
    if declared.max_batch_size is None and backend in LIBRARIES:
        layers.append(declare(Batching, max_batch_size=DEFAULT_BATCH, size_by_default=True))
    elif declared.max_batch_size is None and backend == FUNCTION:
        layers.append(declare(Batching, size_by_default=True))
    return with_sequences(resolve_options(usual, *layers), declared.sequences)


def defaults_to_core_count(declared: Declaration, backend: str) -> bool:
    """Whether a model that names no number of workers gets one for each core: they share it and divide the cores."""
    if declared.threads or declared.sequences is not None:
        return False
    module = bool(declared.parameters.get("module"))
    return not unshared_reason(backend, module=module, preload=declared.preload)


def option_layers(declared: Declaration) -> list[OptionGroup]:
    """What the configuration declares, but for its sequences: how many there may be depends on the workers in force."""
    batching, workers, policy = declared.batching, declared.workers, declared.queue_policy
    delay, target = batching.max_delay_ms, declared.scaling.target_queue_ms
    return [
        declare(
            Batching,
            mode=or_undeclared(batching.mode or _mode_of_platform(declared)),
            max_batch_size=or_undeclared(declared.max_batch_size),
            size_by_default=UNDECLARED if declared.max_batch_size is None else False,
            batch_dimension=or_undeclared(
                declared.batch_dimension if isinstance(declared, TritonDeclaration) else None
            ),
            max_delay=or_undeclared(None if delay is None else delay / 1000),
            exact_delay=or_undeclared(batching.exact_delay),
            concurrency=or_undeclared(declared.concurrency),
        ),
        _declare_table(
            Scaling,
            workers,
            min_workers=or_undeclared(workers.min),
            max_workers=or_undeclared(workers.max),
            target_queue=or_undeclared(None if target is None else target / 1000),
            scaling_window=or_undeclared(declared.scaling.window),
            cool_down=or_undeclared(declared.scaling.cool_down),
        ),
        placement_layer(declared.placement),
        _declare_table(Timeouts, declared),
        _declare_table(
            ModelLimits, declared, queue_policy=UNDECLARED if policy is None else _queue_policy(policy)
        ),
        _declare_table(HandlerOptions, declared),
        _declare_table(RuntimeOptions, declared),
    ]


def placement_layer(declared: PlacementTable) -> Placement:
    """What a table says of a model's place in a cluster. Whoever names one end of the range of replicas decides both."""
    least, most = declared.min_replicas, declared.max_replicas
    if isinstance(declared.nodes, int):
        least = most = declared.nodes
    elif least is not None or most is not None:
        least = 1 if least is None else least
        most = max(least, 1) if most is None else most
    return _declare_table(
        Placement,
        declared,
        all_nodes=UNDECLARED if declared.nodes is None else declared.nodes == "all",
        min_replicas=or_undeclared(least),
        max_replicas=or_undeclared(most),
    )


def _declare_table(group: type[G], table: Table, **converted: Any) -> G:
    """A layer with every option for which the table has a key of the same name, and with the ``converted`` ones.

    A key that is left out leaves its option undeclared.
    """
    names = set(group.__struct_fields__) & set(table.__struct_fields__)
    same = {name: or_undeclared(getattr(table, name)) for name in names}
    return declare(group, **{**same, **converted})


def with_sequences(options: ModelOptions, declared: SequencesTable | None) -> ModelOptions:
    """The options of a model that keeps state where its configuration says so; every worker has its share of sequences.

    Where a worker has a limit, new sequences wait for room, unless ``max`` refuses them.
    """
    if declared is None:
        return options
    direct = declared.strategy == "direct"
    per_worker = options.batching.max_batch_size if direct else declared.per_worker
    layer = declare(
        SequenceOptions,
        enabled=True,
        max_sequences=declared.max or (0 if per_worker else _MAX_SEQUENCES),
        max_per_worker=per_worker,
        direct=direct,
        minimum_slot_utilization=declared.minimum_slot_utilization,
        preferred_batch_size=tuple(sorted(declared.preferred_batch_size)),
        max_queued_steps=declared.queue_size,
        max_idle=declared.max_idle,
        timeout=declared.timeout,
        controls=tuple(
            Control(each.name, each.kind, each.datatype, each.values) for each in declared.controls
        ),
        states=tuple(_implicit_state(each) for each in declared.states),
    )
    return resolve_options(options, layer)


def _implicit_state(declared: StateTable) -> ImplicitState:
    """The state; of an open size its first value has 1, as in Triton."""
    first = declared.initial_shape
    return ImplicitState(
        declared.input,
        declared.output,
        declared.datatype,
        tuple(declared.shape),
        tuple([abs(size) for size in declared.shape] if first is None else first),
        "" if declared.initial == "zero" else declared.initial,
    )


def _queue_policy(declared: QueuePolicyTable) -> QueuePolicy | None:
    """None where the policy asks for nothing that a queue does not do anyway."""
    policy = QueuePolicy(
        policy=_wait_policy(declared),
        levels=declared.priority_levels,
        default_level=declared.default_priority_level,
        by_level={int(level): _wait_policy(each) for level, each in declared.by_priority.items()},
        ordered=declared.preserve_ordering,
    )
    waits = policy.levels or policy.ordered or policy.policy.timeout or policy.policy.queue_size
    return policy if waits else None


def _wait_policy(declared: WaitPolicyTable) -> WaitPolicy:
    return WaitPolicy(declared.queue_size, declared.timeout, declared.timeout_action == "delay")


def _mode_of_platform(declared: Declaration) -> BatchMode | None:
    """AMD's requests are single samples, unless a shape shows the batch itself."""
    shapes = [tensor.shape for tensor in (*declared.inputs, *declared.outputs)]
    amd = declared.platform in AMD_PLATFORMS and not any(shape[:1] == [-1] for shape in shapes)
    return BatchMode.STACK if amd else None
