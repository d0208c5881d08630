"""The variables of a server that a Python process starts."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PATH = "PYTHONPATH"


def child_environment(own: Mapping[str, str], path: Sequence[str]) -> dict[str, str]:
    """Return the caller's ``own`` variables, with which the server's workers import what the caller does.

    ``path`` is its ``sys.path``; what every interpreter of this installation has is left out.

    >>> child_environment({"PYTHONPATH": "/a"}, ["/a", "/b", f"{sys.prefix}/lib/python3.11"])["PYTHONPATH"]
    '/a:/b'
    """
    given = own.get(_PATH, "").split(os.pathsep) if own.get(_PATH) else []
    places = [str(Path(each).absolute()) for each in path if not _is_installed(each)]
    wanted = list(dict.fromkeys([*given, *places]))
    return {**own, _PATH: os.pathsep.join(wanted)} if wanted else dict(own)


def _is_installed(place: str) -> bool:
    # Not all that lies below the prefix: with a system's Python this is /usr, and projects are in /usr/src.
    folders = [
        Path(prefix, name)
        for prefix in (sys.prefix, sys.base_prefix)
        for name in ("bin", "lib", sys.platlibdir)
    ]
    return bool(place) and any(Path(place).is_relative_to(each) for each in folders)
