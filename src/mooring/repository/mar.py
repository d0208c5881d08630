"""A TorchServe archive's folder -> ``ModelSpec``: its MANIFEST.json and model-config.yaml (docs/contracts/torchserve.md, section 4).

A folder without a manifest is taken as what it looks like: ``handler.py``, ``model.py``, the one file of weights,
``model-config.yaml``.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from mooring.core.errors import ModelLoadFailed
from mooring.observability.logs import get_logger
from mooring.repository.model_config import WarmupRequest, read_model_config, server_settings
from mooring.repository.requirements import install, install_in_venv, packages_of
from mooring.repository.spec import MOST_CONCURRENT, Defaults, ModelSpec, SequenceSettings, Warmup

log = get_logger(__name__)

MANIFEST = "MAR-INF/MANIFEST.json"
SUFFIXES = (".mar", ".model", ".tar.gz", ".tgz", ".zip")
WEIGHTS = (".pt", ".pth", ".onnx", ".safetensors", ".bin")

_MOST_BYTES = 1 << 20
_TEXTS = (
    "modelName",
    "modelVersion",
    "handler",
    "modelFile",
    "serializedFile",
    "requirementsFile",
    "configFile",
    "sourceVocab",
)
_USUAL_NAMES = {
    "handler": "handler.py",
    "modelFile": "model.py",
    "configFile": "model-config.yaml",
    "requirementsFile": "requirements.txt",
}


def read_model(
    folder: Path, url: str, *, name: str = "", fallback: str = "", defaults: Defaults | None = None
) -> ModelSpec:
    """The model in an unpacked folder. ``name`` wins over the manifest's own, ``fallback`` stands in where it has none.

    Its requirements are installed where the settings say so, which takes as long as pip does.
    Raises ``ModelLoadFailed`` naming ``url``, or the file in it that is at fault.
    """
    defaults = defaults or Defaults()
    manifest = read_manifest(folder, url, defaults.handler)
    model = manifest["model"]
    model["modelName"] = checked_name(name or model.get("modelName") or fallback, url, "name")
    model.setdefault("modelVersion", "1.0")
    version = checked_name(model["modelVersion"], url, "version")
    config: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if model.get("configFile"):
        file = inside(folder, model["configFile"], url)
        config = read_model_config(file)
        settings = server_settings(config, str(file))
    return ModelSpec(
        name=model["modelName"],
        version=version,
        backend="handler",
        location=str(folder),
        entry=model["handler"],
        url=url,
        **_server_side(settings, model["modelName"], version, defaults),
        warmup=_warmup(settings, folder, url),
        envelope=defaults.envelope,
        metrics_config=defaults.metrics_config,
        max_response_bytes=defaults.max_response_bytes,
        json_nan=defaults.json_nan,
        decode_input=defaults.decode_input,
        limit_image_pixels=defaults.limit_image_pixels,
        sequence_headers=defaults.sequence_headers,
        **_packages(
            folder,
            model,
            url,
            install_them=defaults.install_requirements,
            in_venv=settings.get("useVenv", False),
        ),
        manifest=manifest,
        config=config,
    )


def _packages(
    folder: Path, model: dict[str, Any], url: str, *, install_them: bool, in_venv: bool
) -> dict[str, Any]:
    """Where the model's requirements are; empty where it has none, or where they are not to be installed."""
    requirements = model.get("requirementsFile")
    if not requirements:
        return {}
    if not install_them:
        log.warning(
            "requirements not installed",
            model=model["modelName"],
            file=requirements,
            install_with="install_py_dep_per_model=true",
        )
        return {}
    file = inside(folder, requirements, url)
    if in_venv:
        environment = install_in_venv(file, folder, model["modelName"])
        return {"venv": str(environment), "packages": str(packages_of(environment))}
    return {"packages": str(install(file, folder, model["modelName"]))}


def read_manifest(folder: Path, url: str, handler: str = "") -> dict[str, Any]:
    """The manifest as handlers see it, with ``runtime``, ``model`` and a handler in it, its known texts checked.

    ``handler`` stands in where it names none. Raises ``ModelLoadFailed``.
    """
    file = folder / MANIFEST
    manifest = _parsed(file, url) if file.is_file() else _guessed(folder)
    runtime = manifest.setdefault("runtime", "python")
    if not isinstance(runtime, str) or not runtime.startswith("python"):
        raise ModelLoadFailed(f"model '{url}': runtime {runtime!r} cannot run here; expected python")
    model = manifest.setdefault("model", {})
    if not isinstance(model, dict):
        raise ModelLoadFailed(f"model '{url}': 'model' in {MANIFEST} must be an object")
    for key in _TEXTS:
        value = model.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and key == "modelVersion":
            model[key] = str(value)
        elif value is None:
            model.pop(key, None)
        elif not isinstance(value, str):
            raise ModelLoadFailed(f"model '{url}': '{key}' in {MANIFEST} must be text")
    if not model.get("handler") and handler:
        model["handler"] = handler
    if not model.get("handler"):
        raise ModelLoadFailed(
            f"model '{url}' names no handler: it has neither 'handler' in {MANIFEST} nor a file handler.py"
        )
    return manifest


def checked_name(name: str, where: str, what: str) -> str:
    """A name or version that can stand in a URL. Raises ``ModelLoadFailed``."""
    if (
        not name
        or name in (".", "..")
        or len(name) > 255
        or not name.isprintable()
        or "/" in name
        or "\\" in name
    ):
        raise ModelLoadFailed(f"model '{where}': {name[:255]!r} cannot be the {what} of a model")
    return name


def name_of_file(path: Path) -> str:
    """What a model is called that does not say: its file without the ending, other signs than letters as ``_``."""
    name = path.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return re.sub(r"\W", "_", name)


def inside(folder: Path, name: str, url: str) -> Path:
    """A file of the model by its relative name. Raises ``ModelLoadFailed`` where it is missing or lies elsewhere."""
    file = folder / name
    try:
        if file.resolve().is_relative_to(folder.resolve()) and file.is_file():
            return file
    except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a NUL
        pass
    raise ModelLoadFailed(f"model '{url}' names a file {name[:255]!r} that is not in it")


def _parsed(file: Path, url: str) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ModelLoadFailed(f"model '{url}': {MANIFEST} is larger than {_MOST_BYTES} bytes")
        return msgspec.json.decode(file.read_bytes().removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (OSError, RecursionError, ValueError) as error:
        raise ModelLoadFailed(f"model '{url}': {MANIFEST} cannot be read: {error}") from error


def _guessed(folder: Path) -> dict[str, Any]:
    """What the manifest of a folder without one would say."""
    model = {key: name for key, name in _USUAL_NAMES.items() if (folder / name).is_file()}
    weights = [entry.name for entry in folder.iterdir() if entry.name.endswith(WEIGHTS) and entry.is_file()]
    if len(weights) == 1:
        model["serializedFile"] = weights[0]
    return {"runtime": "python", "model": model}


def _server_side(settings: dict[str, Any], name: str, version: str, defaults: Defaults) -> dict[str, Any]:
    """What the server does with the model: its own config first, then the ``models`` setting, then the defaults."""
    given = defaults.settings.get(name, {}).get(version)
    if given is not None:
        settings = {
            "batchSize": given.batch_size,
            "maxBatchDelay": given.max_batch_delay,
            "responseTimeout": given.response_timeout,
            "startupTimeout": given.startup_timeout,
            **settings,
        }
        if "minWorkers" not in settings and "maxWorkers" not in settings:
            settings |= {"minWorkers": given.min_workers, "maxWorkers": given.max_workers}
    chosen = {key: value for key, value in settings.items() if value is not None}
    workers = chosen.get("minWorkers", min(defaults.workers, chosen.get("maxWorkers", defaults.workers)))
    most, rows = max(workers, chosen.get("maxWorkers", workers), 1), max(chosen.get("batchSize", 1), 1)
    sequence = _sequence(chosen, most * rows)
    return {
        "min_workers": workers,
        "max_workers": most,
        "max_batch_size": rows,
        "sequence": sequence,
        "retry": sequence is None and chosen.get("retryRequests", True),
        "max_delay": max(chosen.get("maxBatchDelay", 100), 0) / 1000,
        "exact_delay": chosen.get("exactBatchDelay", defaults.exact_delay),
        "response_timeout": float(chosen.get("responseTimeout", defaults.response_timeout)),
        "startup_timeout": float(chosen.get("startupTimeout", defaults.startup_timeout)),
        "retry_timeout": float(chosen.get("maxRetryTimeoutInSec", 300)),
        "client_timeout": chosen.get("clientTimeoutInMills", 0) / 1000,
        "queue_size": chosen.get("jobQueueSize", defaults.queue_size),
        "stepwise": chosen.get("continuousBatching", False),
        "concurrency": chosen.get("maxConcurrentRequests", MOST_CONCURRENT),
        "job_ticket": chosen.get("useJobTicket", False),
        "recycling": defaults.recycling.changed(
            chosen.get("maxRequestsPerWorker"), chosen.get("workerMemoryLimit")
        ),
    }


def _warmup(settings: dict[str, Any], folder: Path, url: str) -> list[Warmup]:
    requests = msgspec.convert(settings.get("warmupRequests", []), list[WarmupRequest])
    return [
        Warmup(
            name=each.name or str(number),
            count=each.count,
            body=str(inside(folder, each.body, url).resolve()),
            content_type=each.content_type,
        )
        for number, each in enumerate(requests, 1)
    ]


def _sequence(chosen: dict[str, Any], rows: int) -> SequenceSettings | None:
    """How the model has its sequences, where it does. As in TorchServe, every row of every worker's batch may be one."""
    if not chosen.get("sequenceBatching"):
        return None
    return SequenceSettings(
        most=max(chosen.get("maxNumSequence", 1), rows),
        waiting=chosen.get("maxSequenceJobQueueSize", 1),
        max_idle=chosen.get("sequenceMaxIdleMSec", 0) / 1000,
        timeout=chosen.get("sequenceTimeoutMSec", 0) / 1000,
    )
