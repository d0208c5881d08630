"""Names that must stay below a folder, and where links really lead."""

from pathlib import Path


def leads_out(name: str) -> bool:
    """Whether a relative name would lead out of the folder it is looked for in, links apart.

    >>> [leads_out(name) for name in ("1/model.py", "../model.py", "/etc/passwd")]
    [False, True, True]
    """
    return ".." in Path(name).parts or Path(name).is_absolute() or "\0" in name


def real_path(place: Path) -> Path:
    """Where a path leads with every link followed; the path itself, made absolute, where that is something else.

    /proc/PID/root of another container, through which KServe's modelcar links, reads as "/" and is not ours.
    """
    real = place.resolve()
    try:
        same = real.samefile(place)
    except OSError:
        same = not place.exists()
    return real if same else place.absolute()
