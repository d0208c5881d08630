"""Which variables the workers see."""

import re
from collections.abc import Mapping, Sequence

from mooring.config.settings import ConfigError
from mooring.hardware import CPU

_GPUS = "CUDA_VISIBLE_DEVICES"


def worker_environment(
    own: Mapping[str, str], *, hidden: str = "", gpus: int | None = None, device: str = ""
) -> dict[str, str]:
    """The server's ``own`` variables without those whose whole name the expression ``hidden`` matches.

    With ``gpus`` only the first so many of the GPUs are there that the server itself may use; ``device`` wins over it:
    cpu is none of them, gpu all, and numbers count in what the server may use.

    >>> worker_environment({"HOME": "/root", "AWS_KEY": "x"}, hidden="AWS_.*|HO", gpus=2)
    {'HOME': '/root', 'CUDA_VISIBLE_DEVICES': '0,1'}
    """
    names = re.compile(hidden)
    seen = {name: value for name, value in own.items() if not (hidden and names.fullmatch(name))}
    wanted = _wanted_gpus(device, gpus)
    if wanted is not None:
        there = _gpus_of(seen)
        seen[_GPUS] = ",".join(
            str(number) if there is None else there[number]
            for number in wanted
            if there is None or number < len(there)
        )
    return seen


def _wanted_gpus(device: str, gpus: int | None) -> Sequence[int] | None:
    """Return the numbers of the GPUs that workers may use; None for all."""
    if device == "cpu":
        return []
    if device:
        return None if device == "gpu" else [int(number) for number in device.split(",")]
    return None if gpus is None else range(gpus)


def _gpus_of(variables: Mapping[str, str]) -> list[str] | None:
    """Return what a process with these variables has as its GPUs; None where they leave all to it."""
    return [each for each in variables[_GPUS].split(",") if each] if _GPUS in variables else None


def check_device(device: str, own: Mapping[str, str], machine: Mapping[str, int]) -> None:
    """Raise ``ConfigError`` for GPUs that are not there; ``machine`` is ``hardware.find_devices()``."""
    there = _gpus_of(own)
    count = sum(number for kind, number in machine.items() if kind != CPU)
    count = count if there is None else min(count, len(there))
    if not count:
        hidden = f"{_GPUS} hides the GPUs" if there == [] else "there is no GPU on this machine"
        raise ConfigError(f"device = {device!r}: {hidden}; give cpu, or leave it out")
    for number in _wanted_gpus(device, None) or ():
        if number >= count:
            last = "0 alone" if count == 1 else f"0 to {count - 1}"
            raise ConfigError(f"device = {device!r}: there is no GPU {number}; this machine has {last}")
