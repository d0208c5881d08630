"""Snapshots: what was served, as TorchServe writes it to ``logs/config`` and reads it at the next start.

    20261121094105123-startup.cfg       after the start, ...-snapshot.cfg after every change, ...-shutdown.cfg at the end

Each is a config.properties with one key more, ``model_snapshot``. TorchServe keeps them all for ever; here the newest
hundred stay.
"""

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from mooring.config.properties import format_properties
from mooring.config.settings import ModelSettings, Snapshot, snapshot_text
from mooring.repository.spec import ModelSpec

Kind = Literal["startup", "snapshot", "shutdown"]

KEPT = 100
_NAME = re.compile(r"\d{17}-(?:startup|snapshot|shutdown)\.cfg")


def newest(folder: Path) -> Path | None:
    """The snapshot written last; None where there is none."""
    found = _snapshots(folder)
    return found[-1] if found else None


def settings_of(spec: ModelSpec, archive: str, *, is_default: bool) -> ModelSettings:
    """What a snapshot says of a version. ``archive`` is where it can be had again."""
    return ModelSettings(
        default_version=is_default,
        mar_name=archive,
        min_workers=spec.min_workers,
        max_workers=spec.max_workers,
        batch_size=spec.max_batch_size,
        max_batch_delay=round(spec.max_delay * 1000),
        response_timeout=spec.response_timeout,
        startup_timeout=spec.startup_timeout,
        runtime_type=spec.manifest.get("runtime", "python"),
        handler=spec.handler,
    )


def restored(spec: ModelSpec, settings: ModelSettings) -> ModelSpec:
    """A version as it was served: what the snapshot says wins over the model's own configuration."""
    said = {
        "min_workers": settings.min_workers,
        "max_workers": settings.max_workers,
        "max_batch_size": settings.batch_size,
        "max_delay": None if settings.max_batch_delay is None else settings.max_batch_delay / 1000,
        "response_timeout": settings.response_timeout,
        "startup_timeout": settings.startup_timeout,
        "entry": settings.handler or None,
        "handler": settings.handler,
    }
    changed = msgspec.structs.replace(
        spec, **{name: value for name, value in said.items() if value is not None}
    )
    if not settings.handler:
        return changed
    model = spec.manifest.get("model", {}) | {"handler": settings.handler}
    return msgspec.structs.replace(changed, manifest=spec.manifest | {"model": model})


def save(
    folder: Path,
    kind: Kind,
    now: datetime,
    properties: Mapping[str, str],
    models: Mapping[str, Mapping[str, ModelSettings]],
) -> Path:
    """Write a snapshot, whole or not at all, and remove those that are too old. Raises ``OSError``.

    ``now`` is the local time, as TorchServe names its files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / _name(folder, kind, now)
    snapshot = Snapshot(
        name=place.name,
        model_count=sum(len(versions) for versions in models.values()),
        created=round(now.timestamp() * 1000),
        models={name: dict(versions) for name, versions in models.items()},
    )
    text = format_properties({**properties, "model_snapshot": snapshot_text(snapshot)})
    partial = folder / f".{place.name}.{os.getpid()}"
    try:
        # Only for its owner: settings may say more than others should know. And on the disk before it gets its name, since after a
        # power cut the newest snapshot is the one that the next start believes.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(place)
    finally:
        partial.unlink(missing_ok=True)
    _remove(_snapshots(folder)[:-KEPT])
    return place


def _name(folder: Path, kind: Kind, now: datetime) -> str:
    """The time it was written; the next millisecond that is free where two are written in one."""
    stamp = int(f"{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}")
    while any((folder / f"{stamp}-{each}.cfg").exists() for each in ("startup", "snapshot", "shutdown")):
        stamp += 1
    return f"{stamp}-{kind}.cfg"


def _snapshots(folder: Path) -> list[Path]:
    """The oldest first; by their age and not their names, which go back an hour when the clock does."""
    found: list[tuple[int, str]] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        found = [
            (entry.stat().st_mtime_ns, entry.name)
            for entry in os.scandir(folder)
            if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        ]
    return [folder / name for _, name in sorted(found)]


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
