"""Which variables the workers see."""

import re
from collections.abc import Mapping

_GPUS = "CUDA_VISIBLE_DEVICES"


def worker_environment(
    own: Mapping[str, str], *, hidden: str = "", gpus: int | None = None
) -> dict[str, str]:
    """The server's ``own`` variables without those whose whole name the expression ``hidden`` matches.

    With ``gpus`` only the first so many of the GPUs are there that the server itself may use.

    >>> worker_environment({"HOME": "/root", "AWS_KEY": "x"}, hidden="AWS_.*|HO", gpus=2)
    {'HOME': '/root', 'CUDA_VISIBLE_DEVICES': '0,1'}
    """
    names = re.compile(hidden)
    seen = {name: value for name, value in own.items() if not (hidden and names.fullmatch(name))}
    if gpus is not None:
        there = seen[_GPUS].split(",") if _GPUS in seen else [str(number) for number in range(gpus)]
        seen[_GPUS] = ",".join(there[:gpus])
    return seen
