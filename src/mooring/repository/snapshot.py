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
from mooring.config.settings import ModelSettings, Snapshot, encode_snapshot
from mooring.core.options import Batching, Scaling, Timeouts, declare, or_undeclared, resolve_options
from mooring.repository.spec import ModelSpec

Kind = Literal["startup", "snapshot", "shutdown"]

MAX_SNAPSHOTS = 100
_NAME = re.compile(r"\d{17}-(?:startup|snapshot|shutdown)\.cfg")


def newest_snapshot(folder: Path) -> Path | None:
    """Find the snapshot that was written last; None where there is none."""
    found = _list_snapshots(folder)
    return found[-1] if found else None


def snapshot_settings(spec: ModelSpec, archive: str, *, is_default: bool) -> ModelSettings:
    """The entry of a version in a snapshot. ``archive`` is the name under which the store has it."""
    return ModelSettings(
        default_version=is_default,
        mar_name=archive,
        min_workers=spec.scaling.min_workers,
        max_workers=spec.scaling.max_workers,
        batch_size=spec.batching.max_batch_size,
        max_batch_delay=round(spec.batching.max_delay * 1000),
        response_timeout=spec.timeouts.response_timeout,
        startup_timeout=spec.timeouts.startup_timeout,
        runtime_type=spec.manifest.get("runtime", "python"),
        handler=spec.handler_override,
    )


def restore_settings(spec: ModelSpec, settings: ModelSettings) -> ModelSpec:
    """Restore a version as it was served: the snapshot wins over the model's own configuration."""
    delay = settings.max_batch_delay
    options = resolve_options(
        spec.options,
        declare(
            Scaling,
            min_workers=or_undeclared(settings.min_workers),
            max_workers=or_undeclared(settings.max_workers),
        ),
        declare(
            Batching,
            max_batch_size=or_undeclared(settings.batch_size),
            max_delay=or_undeclared(None if delay is None else delay / 1000),
        ),
        declare(
            Timeouts,
            response_timeout=or_undeclared(settings.response_timeout),
            startup_timeout=or_undeclared(settings.startup_timeout),
        ),
    )
    changed = msgspec.structs.replace(spec, options=options)
    if not settings.handler:
        return changed
    model = spec.manifest.get("model", {}) | {"handler": settings.handler}
    return msgspec.structs.replace(
        changed,
        entry=settings.handler,
        handler_override=settings.handler,
        manifest=spec.manifest | {"model": model},
    )


def save_snapshot(
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
    place = folder / _free_name(folder, kind, now)
    snapshot = Snapshot(
        name=place.name,
        model_count=sum(len(versions) for versions in models.values()),
        created=round(now.timestamp() * 1000),
        models={name: dict(versions) for name, versions in models.items()},
    )
    text = format_properties({**properties, "model_snapshot": encode_snapshot(snapshot)})
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
    _remove_files(_list_snapshots(folder)[:-MAX_SNAPSHOTS])
    return place


def _free_name(folder: Path, kind: Kind, now: datetime) -> str:
    """Name a snapshot by the time, or by the next free millisecond where two are written in one."""
    stamp = int(f"{now:%Y%m%d%H%M%S}{now.microsecond // 1000:03d}")
    while any((folder / f"{stamp}-{each}.cfg").exists() for each in ("startup", "snapshot", "shutdown")):
        stamp += 1
    return f"{stamp}-{kind}.cfg"


def _list_snapshots(folder: Path) -> list[Path]:
    """List the snapshots, the oldest first: by their age, since names go back an hour when the clock does."""
    found: list[tuple[int, str]] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        found = [
            (entry.stat().st_mtime_ns, entry.name)
            for entry in os.scandir(folder)
            if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        ]
    return [folder / name for _, name in sorted(found)]


def _remove_files(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
