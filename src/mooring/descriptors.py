"""How many files this process may have open: all that the system allows, where shells and units give 1024."""

import resource

# Some systems allow a billion; a process that goes through all numbers would take minutes.
_MOST = 1 << 20

_inherited = resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def highest_limit() -> int:
    """To what the soft limit can be raised."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)


def raise_limit() -> int:
    """Raise this process's soft limit to its hard one, as a JVM does; the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = highest_limit()
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS takes fewer than it says
            return soft
        return wanted
    return soft


def inherited_limit() -> int:
    """The soft limit that this process was started with: models run with it.

    Their code may call ``select``, which fails for numbers above 1023.
    """
    return _inherited


def set_soft_limit(limit: int) -> None:
    """Have this soft limit in this process and in those that it starts, as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != limit and (hard == resource.RLIM_INFINITY or 0 <= limit <= hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
