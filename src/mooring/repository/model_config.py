"""model-config.yaml: its keys for the server (docs/contracts/torchserve.md, section 4.1).

The other keys are the handler's. A key of the server's with a value of the wrong kind is ignored with a warning, as in
TorchServe.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from mooring.core.errors import ModelLoadFailed
from mooring.observability.logs import get_logger
from mooring.repository.declaration import PlacementTable
from mooring.repository.declaration_rules import find_placement_fault
from mooring.repository.parallel import find_faults, read_parallel

log = get_logger(__name__)

_MAX_BYTES = 1 << 20
# Aliases make a small file a huge value; none that people write comes near.
_MAX_VALUES = 100_000
_MAX_DEPTH = 100

# What yaml raises: its own errors for bad syntax, and whatever its constructors run into (!!int "", !!timestamp x).
_YAML_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    yaml.YAMLError,
)


class WarmupRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A request that a worker makes of the handler before it is ready; ``body`` is a file of the archive."""

    body: str
    name: str = ""
    content_type: str = ""
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class _Number(msgspec.Struct, frozen=True):
    least: int
    whole: bool = True

    def accepts(self, value: object) -> bool:
        kinds = int if self.whole else (int, float)
        # The comparison of nan is False, and infinity is no duration.
        return isinstance(value, kinds) and not isinstance(value, bool) and self.least <= value < 1 << 53

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.least}"


class _Switch(msgspec.Struct, frozen=True):
    def accepts(self, value: object) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


class _Warmups(msgspec.Struct, frozen=True):
    def accepts(self, value: object) -> bool:
        try:
            msgspec.convert(value, list[WarmupRequest])
        except msgspec.ValidationError:
            return False
        return True

    def __str__(self) -> str:
        return "a list of requests: body, a file of the archive, and where it is wanted name, contentType and count"


class _Names(msgspec.Struct, frozen=True):
    def accepts(self, value: object) -> bool:
        return isinstance(value, list) and all(isinstance(each, str) and each for each in value)

    def __str__(self) -> str:
        return "a list of names, as in [ValueError, KeyError]"


def read_placement(value: object) -> PlacementTable:
    """Read the table ``placement``, whose keys are spelled as all in this file. Raises ``msgspec.ValidationError``."""
    if isinstance(value, Mapping):
        spelled = {name: _camel(name) for name in PlacementTable.__struct_fields__}
        known = {theirs: ours for ours, theirs in spelled.items()}
        value = {known.get(key, key): each for key, each in value.items()}
    return msgspec.convert(value, PlacementTable)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


class _Placements(msgspec.Struct, frozen=True):
    def accepts(self, value: object) -> bool:
        try:
            return not find_placement_fault(read_placement(value))
        except msgspec.ValidationError:
            return False

    def __str__(self) -> str:
        return (
            "a mapping of nodes (all or a number) or minReplicas and maxReplicas, numCpus, numGpus (whole, or below 1), "
            "memory, labels, acceleratorType, resources and strategy (spread or pack)"
        )


_KEYS: Mapping[str, _Number | _Switch | _Warmups | _Names | _Placements] = {
    "minWorkers": _Number(1),
    "maxWorkers": _Number(1),
    "batchSize": _Number(1),
    "maxBatchDelay": _Number(0, whole=False),
    "exactBatchDelay": _Switch(),
    "responseTimeout": _Number(1, whole=False),
    "startupTimeout": _Number(1, whole=False),
    "maxRetryTimeoutInSec": _Number(0, whole=False),
    "clientTimeoutInMills": _Number(0, whole=False),
    "jobQueueSize": _Number(1),
    "sequenceBatching": _Switch(),
    "maxNumSequence": _Number(1),
    "maxSequenceJobQueueSize": _Number(1),
    "sequenceMaxIdleMSec": _Number(0, whole=False),
    "sequenceTimeoutMSec": _Number(0, whole=False),
    "useVenv": _Switch(),
    "asyncCommunication": _Switch(),  # it changes nothing: whether a handler waits is seen in its code
    "continuousBatching": _Switch(),
    "maxConcurrentRequests": _Number(1),
    "maxRequestsPerWorker": _Number(0),
    "workerMemoryLimit": _Number(0),
    "targetQueueMs": _Number(0, whole=False),
    "scalingWindowInSec": _Number(1, whole=False),
    "scalingCoolDownInSec": _Number(1, whole=False),
    "retryRequests": _Switch(),
    "useJobTicket": _Switch(),
    "warmupRequests": _Warmups(),
    "clientErrors": _Names(),
    "placement": _Placements(),
}

# TorchServe's keys that have an effect only with a parallel group; without one a warning names them.
_OF_GROUPS = ("deviceIds", "deviceType", "parallelLevel", "parallelType")

# Of these values nobody misses anything: a model runs on the CPU, in one process.
_HARMLESS: tuple[object, ...] = (None, False, 0, 1, "", "cpu", "NONE", [], {})


class _Loader(yaml.SafeLoader):
    """Gives up at the first bracket that is too deep: for each one, the scanner looks at all that are open."""

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level >= _MAX_DEPTH:
            raise yaml.YAMLError(f"more than {_MAX_DEPTH} brackets are open")
        super().fetch_flow_collection_start(token)


def read_model_config(file: Path) -> dict[str, Any]:
    """Read the whole mapping, as the handler will see it. Raises ``ModelLoadFailed``, which names the file."""
    try:
        with file.open("rb") as source:
            text = source.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ModelLoadFailed(f"{file}: larger than a model's config can be ({_MAX_BYTES} bytes)")
        value = yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except _YAML_ERRORS as error:
        raise ModelLoadFailed(f"{file}: cannot be read: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelLoadFailed(f"{file}: expected a mapping of settings, as in 'batchSize: 4'")
    if not _is_bounded(value):
        raise ModelLoadFailed(f"{file}: too deep or too large once its aliases are followed")
    try:
        # To a worker it travels as msgpack: better to hear here what will not pass, with the file's name.
        msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=dict[str, Any])
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ModelLoadFailed(
            f"{file}: holds a value or a key that no handler can be given: {error}"
        ) from error
    return value


class ServerKeys(msgspec.Struct, frozen=True):
    """The server's own keys of a config: usable ones, the faults of others, and those without effect here."""

    chosen: dict[str, Any]
    faults: dict[str, str]
    without_effect: list[str]


def check_server_keys(config: Mapping[str, Any]) -> ServerKeys:
    """Sort the server's keys into usable ones, wrong ones and those without effect."""
    chosen, faults = {}, {}
    for key, kind in _KEYS.items():
        if key == "minWorkers" and config.get("targetQueueMs"):
            kind = _Number(0)  # noqa: PLW2901 - the first request starts a worker then
        value = config.get(key)
        if value is None:
            continue
        if kind.accepts(value):
            chosen[key] = value
        else:
            faults[key] = f"expected {kind}"
    if chosen.get("minWorkers", 1) > chosen.get("maxWorkers", 1 << 53):
        faults["minWorkers"] = "it is above maxWorkers"
        del chosen["minWorkers"], chosen["maxWorkers"]
    faults |= dict(find_faults(config))
    alone = () if read_parallel(config) is not None else _OF_GROUPS
    without_effect = [key for key in alone if key not in faults and _would_be_missed(config.get(key))]
    return ServerKeys(chosen, faults, without_effect)


def _would_be_missed(value: object) -> bool:
    return value is True or value not in _HARMLESS  # True is 1 in Python


def server_settings(config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The server's own keys that can be used. A warning names the others."""
    judged = check_server_keys(config)
    for key, fault in judged.faults.items():
        log.warning("setting ignored", file=file, key=key, value=repr(config[key]), reason=fault)
    if judged.without_effect:
        log.warning("settings without effect here", file=file, keys=", ".join(judged.without_effect))
    return judged.chosen


def _is_bounded(value: object) -> bool:
    """Whether a value stays small when its aliases are written out, as they are on the way to a worker."""
    waiting: list[tuple[object, int]] = [(value, 0)]
    seen = 0
    while waiting:
        current, depth = waiting.pop()
        inner: list[object] = []
        if isinstance(current, dict):
            inner = [*current, *current.values()]
        elif isinstance(current, list | tuple | set):
            inner = [*current]
        seen += 1 + len(inner)
        if depth > _MAX_DEPTH or seen > _MAX_VALUES:
            return False
        waiting += [(each, depth + 1) for each in inner]
    return True
