"""The keys of model-config.yaml that ask for several processes in a worker: parallelType, parallelLevel, torchrun and devices.

As in TorchServe, there is a group where ``torchrun`` is, or a ``parallelType`` with a ``parallelLevel``. The settings of
torchrun that are about several machines, or about how it watches its processes, mean nothing here.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

from mooring.core.errors import ModelLoadFailed
from mooring.core.options import Parallel, ParallelType

GROUPS_TAKE_NO_STEPS = (
    "continuousBatching cannot run in a parallel group, whose ranks would take different steps: "
    "take it out of model-config.yaml"
)

_MAX_PORT = 65_535
_PROCESSES = "nproc-per-node"
_THREADS = ("OMP_NUMBER_THREADS", "OMP_NUM_THREADS")  # TorchServe's name, and the variable's


def read_parallel(config: Mapping[str, Any]) -> Parallel | None:
    """The group that a model-config.yaml asks for. Wrong values count as absent; ``find_faults`` names them."""
    torchrun = _torchrun_of(config)
    kind = _type_of(config.get("parallelType"))
    level = _whole(torchrun.get(_PROCESSES), 1) or _whole(config.get("parallelLevel"), 1)
    named = level is not None and kind is not ParallelType.UNNAMED
    if not torchrun and not named and kind is not ParallelType.CUSTOM:
        return None
    threads = next((_whole(torchrun[name], 1) for name in _THREADS if name in torchrun), None)
    return Parallel(
        type=kind,
        level=level or 1,
        threads=threads or 0,
        master=str(torchrun.get("master-addr") or ""),
        master_port=_whole(torchrun.get("master-port"), 1, _MAX_PORT) or 0,
        device_type=str(config.get("deviceType") or ""),
        devices=_devices_of(config.get("deviceIds")) or [],
    )


def find_faults(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each of these keys that has a wrong value, and what was expected."""
    kinds = ", ".join(kind for kind in ParallelType if kind)
    if (kind := config.get("parallelType")) and not _type_of(kind) and str(kind).lower() != "none":
        yield "parallelType", f"expected one of {kinds}"
    if (level := config.get("parallelLevel")) is not None and _whole(level, 0) is None:
        yield "parallelLevel", "expected a whole number from 1"
    torchrun = config.get("torchrun")
    if torchrun is not None and not isinstance(torchrun, dict):
        yield "torchrun", f"expected a mapping of settings, as in '{_PROCESSES}: 2'"
    elif torchrun and torchrun.get(_PROCESSES) is not None and _whole(torchrun[_PROCESSES], 1) is None:
        yield "torchrun", f"expected a whole number from 1 as {_PROCESSES}"
    if (devices := config.get("deviceIds")) is not None and _devices_of(devices) is None:
        yield "deviceIds", "expected a list of whole numbers"


def check_machines(config: Mapping[str, Any], where: str) -> None:
    """Raise ``ModelLoadFailed`` for a group that is to run on several machines."""
    if refusal := find_refusal(config):
        raise ModelLoadFailed(f"{where}: {refusal}")


def find_refusal(config: Mapping[str, Any]) -> str:
    """Why a group cannot run here; empty where it can."""
    nodes = _torchrun_of(config).get("nnodes")
    if nodes in (None, 1, "1", "1:1"):
        return ""
    return f"torchrun.nnodes is {nodes!r}, and a parallel group runs on one machine here: set it to 1"


def _torchrun_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    torchrun = config.get("torchrun")
    return torchrun if isinstance(torchrun, dict) else {}


def _type_of(value: object) -> ParallelType:
    try:
        return ParallelType(str(value).lower())
    except ValueError:
        return ParallelType.UNNAMED


def _whole(value: object, least: int, most: int = 1 << 16) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    return None


def _devices_of(value: object) -> list[int] | None:
    whole = isinstance(value, list) and all(_whole(each, 0) is not None for each in value)
    return cast("list[int]", value) if whole else None
