"""A TorchServe archive's folder -> ``ModelSpec``: its MANIFEST.json and model-config.yaml (docs/contracts/torchserve.md, section 4).

The files of a folder without a manifest go by their usual names: ``handler.py``, ``model.py``, the one file of weights,
``model-config.yaml``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mooring.config.settings import ModelSettings
from mooring.core.errors import ModelLoadFailed
from mooring.core.options import (
    Batching,
    HandlerOptions,
    ModelLimits,
    ModelOptions,
    OptionGroup,
    Scaling,
    SequenceOptions,
    Timeouts,
    declare,
    or_undeclared,
    override,
    resolve_options,
)
from mooring.observability.logs import get_logger
from mooring.repository.declared_options import placement_layer
from mooring.repository.model_config import WarmupRequest, read_model_config, read_placement, server_settings
from mooring.repository.parallel import check_machines, read_parallel
from mooring.repository.requirements import install_in_venv, install_requirements, packages_of
from mooring.repository.spec import Defaults, ModelSpec, Warmup

log = get_logger(__name__)

MANIFEST = "MAR-INF/MANIFEST.json"
SUFFIXES = (".mar", ".model", ".tar.gz", ".tgz", ".zip")
WEIGHTS = (".pt", ".pth", ".onnx", ".safetensors", ".bin")

_MAX_BYTES = 1 << 20
_MAX_DELAY = 0.1  # seconds: TorchServe's maxBatchDelay of an archive that says none
_TEXT_KEYS = (
    "modelName",
    "modelVersion",
    "handler",
    "modelFile",
    "serializedFile",
    "requirementsFile",
    "configFile",
    "sourceVocab",
)
_DEFAULT_FILES = {
    "handler": "handler.py",
    "modelFile": "model.py",
    "configFile": "model-config.yaml",
    "requirementsFile": "requirements.txt",
}


def read_model(
    folder: Path, url: str, *, name: str = "", fallback: str = "", defaults: Defaults | None = None
) -> ModelSpec:
    """Read the model in an unpacked folder. ``name`` wins over the manifest's own, ``fallback`` stands in for a missing one.

    The model's requirements are installed where the settings want it, which takes as long as pip does.
    Raises ``ModelLoadFailed``, which names ``url`` or the file in it that is at fault.
    """
    defaults = defaults or Defaults()
    manifest = read_manifest(folder, url, defaults.handler)
    model = manifest["model"]
    model["modelName"] = check_name(name or model.get("modelName") or fallback, url, "name")
    model.setdefault("modelVersion", "1.0")
    version = check_name(model["modelVersion"], url, "version")
    config: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if model.get("configFile"):
        file = file_in_archive(folder, model["configFile"], url)
        config = read_model_config(file)
        check_machines(config, str(file))
        settings = server_settings(config, str(file))
    packages, venv = "", ""
    if requirements := model.get("requirementsFile"):
        packages, venv = _install_requirements(
            requirements, folder, model["modelName"], url, settings, defaults
        )
    options = archive_options(settings, defaults, defaults.settings.get(model["modelName"], {}).get(version))
    parallel = read_parallel(config)
    if parallel is not None and parallel.grouped and options.scaling.workers_by_default:
        workers = max(options.scaling.max_workers // parallel.level, 1)
        options = override(options, declare(Scaling, min_workers=workers, max_workers=workers))
    return ModelSpec(
        name=model["modelName"],
        version=version,
        backend="handler",
        location=str(folder),
        entry=model["handler"],
        url=url,
        options=options,
        parallel=parallel,
        warmup=_warmup_requests(settings, folder, url),
        packages=packages,
        venv=venv,
        manifest=manifest,
        config=config,
    )


def _install_requirements(
    requirements: str, folder: Path, model: str, url: str, settings: Mapping[str, Any], defaults: Defaults
) -> tuple[str, str]:
    """Install the requirements. Returns their folder and their virtual environment, each empty where there is none."""
    if not defaults.install_requirements:
        log.warning(
            "requirements not installed",
            model=model,
            file=requirements,
            install_with="install_py_dep_per_model=true",
        )
        return "", ""
    file = file_in_archive(folder, requirements, url)
    if settings.get("useVenv", False):
        environment = install_in_venv(file, folder, model)
        return str(packages_of(environment)), str(environment)
    return str(install_requirements(file, folder, model)), ""


def read_manifest(folder: Path, url: str, handler: str = "") -> dict[str, Any]:
    """Read the manifest as handlers see it, with ``runtime``, ``model`` and a handler in it, and its texts checked.

    ``handler`` stands in where the manifest names none. Raises ``ModelLoadFailed``.
    """
    file = folder / MANIFEST
    if not file.is_file() and (folder / "WAR-INF").is_dir():
        raise ModelLoadFailed(
            f"'{url}' is a workflow: register it with POST /workflows, or name it in --models (load_models)"
        )
    manifest = _parse_manifest(file, url) if file.is_file() else _guess_manifest(folder)
    runtime = manifest.setdefault("runtime", "python")
    if not isinstance(runtime, str) or not runtime.startswith("python"):
        raise ModelLoadFailed(f"model '{url}': runtime {runtime!r} cannot run here; expected python")
    model = manifest.setdefault("model", {})
    if not isinstance(model, dict):
        raise ModelLoadFailed(f"model '{url}': 'model' in {MANIFEST} must be an object")
    for key in _TEXT_KEYS:
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


def check_name(name: str, where: str, what: str) -> str:
    """Return a name or version that can stand in a URL; raise ``ModelLoadFailed`` for any other."""
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


def model_name_of(path: Path) -> str:
    """The name of a model without a name: its file without the ending, and ``_`` for signs that are no letters."""
    name = path.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return re.sub(r"\W", "_", name)


def file_in_archive(folder: Path, name: str, url: str) -> Path:
    """Find a file of the model by its relative name. Raises ``ModelLoadFailed`` where it is missing or lies elsewhere."""
    file = folder / name
    try:
        if file.resolve().is_relative_to(folder.resolve()) and file.is_file():
            return file
    except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a NUL
        pass
    raise ModelLoadFailed(f"model '{url}' names a file {name[:255]!r} that is not in it")


def _parse_manifest(file: Path, url: str) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ModelLoadFailed(f"model '{url}': {MANIFEST} is larger than {_MAX_BYTES} bytes")
        return msgspec.json.decode(file.read_bytes().removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (OSError, RecursionError, ValueError) as error:
        raise ModelLoadFailed(f"model '{url}': {MANIFEST} cannot be read: {error}") from error


def _guess_manifest(folder: Path) -> dict[str, Any]:
    """Make the manifest of a folder that has none, from the usual names of its files."""
    model = {key: name for key, name in _DEFAULT_FILES.items() if (folder / name).is_file()}
    weights = [entry.name for entry in folder.iterdir() if entry.name.endswith(WEIGHTS) and entry.is_file()]
    if len(weights) == 1:
        model["serializedFile"] = weights[0]
    return {"runtime": "python", "model": model}


def archive_options(
    settings: Mapping[str, Any], defaults: Defaults, by_operator: ModelSettings | None = None
) -> ModelOptions:
    """The options of an archive; ``settings`` are the server's keys of its model-config.yaml.

    ``by_operator`` is the version's entry in the server's ``models`` setting. It stands between the defaults and the
    archive's own config, and its numbers of workers count only where the config has neither.
    """
    layers: list[OptionGroup] = [declare(Batching, max_delay=_MAX_DELAY)]
    if by_operator is not None:
        layers += _setting_layers(by_operator, sized=bool({"minWorkers", "maxWorkers"} & settings.keys()))
    options = resolve_options(defaults.options, *layers, *_config_layers(settings))
    if not settings.get("sequenceBatching"):
        return options
    # As in TorchServe, every row of every worker's batch may be a sequence.
    rows = options.scaling.max_workers * options.batching.max_batch_size
    return resolve_options(
        options,
        declare(
            SequenceOptions,
            enabled=True,
            max_sequences=max(settings.get("maxNumSequence", 1), rows),
            max_queued_steps=settings.get("maxSequenceJobQueueSize", 1),
            max_idle=settings.get("sequenceMaxIdleMSec", 0) / 1000,
            timeout=settings.get("sequenceTimeoutMSec", 0) / 1000,
        ),
    )


def _setting_layers(setting: ModelSettings, *, sized: bool) -> list[OptionGroup]:
    """The layers of the ``models`` setting; ``sized`` leaves its numbers of workers out."""
    rows, delay = setting.batch_size, setting.max_batch_delay
    layers: list[OptionGroup] = [
        declare(
            Batching,
            max_batch_size=or_undeclared(None if rows is None else max(rows, 1)),
            max_delay=or_undeclared(None if delay is None else max(delay, 0) / 1000),
        ),
        declare(
            Timeouts,
            response_timeout=or_undeclared(setting.response_timeout),
            startup_timeout=or_undeclared(setting.startup_timeout),
        ),
    ]
    if not sized:
        layers.append(
            declare(
                Scaling,
                min_workers=or_undeclared(setting.min_workers),
                max_workers=or_undeclared(setting.max_workers),
            )
        )
    return layers


def _config_layers(settings: Mapping[str, Any]) -> list[OptionGroup]:
    """The layers of an archive's own config, from TorchServe's keys and units."""

    def seconds(key: str, units: int = 1) -> float:
        value = settings.get(key)
        return or_undeclared(None if value is None else float(value) / units)

    return [
        declare(
            Batching,
            max_batch_size=or_undeclared(settings.get("batchSize")),
            max_delay=seconds("maxBatchDelay", 1000),
            exact_delay=or_undeclared(settings.get("exactBatchDelay")),
            stepwise=or_undeclared(settings.get("continuousBatching")),
            concurrency=or_undeclared(settings.get("maxConcurrentRequests")),
        ),
        declare(
            Scaling,
            min_workers=or_undeclared(settings.get("minWorkers")),
            max_workers=or_undeclared(settings.get("maxWorkers")),
            max_requests=or_undeclared(settings.get("maxRequestsPerWorker")),
            memory_limit=or_undeclared(settings.get("workerMemoryLimit")),
            target_queue=seconds("targetQueueMs", 1000),
            scaling_window=seconds("scalingWindowInSec"),
            cool_down=seconds("scalingCoolDownInSec"),
        ),
        placement_layer(read_placement(settings.get("placement", {}))),
        declare(
            Timeouts,
            response_timeout=seconds("responseTimeout"),
            startup_timeout=seconds("startupTimeout"),
            retry_timeout=seconds("maxRetryTimeoutInSec"),
            client_timeout=seconds("clientTimeoutInMills", 1000),
        ),
        declare(
            ModelLimits,
            queue_size=or_undeclared(settings.get("jobQueueSize")),
            job_ticket=or_undeclared(settings.get("useJobTicket")),
            retry=or_undeclared(settings.get("retryRequests")),
        ),
        declare(HandlerOptions, client_errors=_client_errors(settings)),
    ]


def _client_errors(settings: Mapping[str, Any]) -> tuple[str, ...]:
    listed = settings.get("clientErrors")
    return or_undeclared(None if listed is None else tuple(listed))


def _warmup_requests(settings: dict[str, Any], folder: Path, url: str) -> list[Warmup]:
    requests = msgspec.convert(settings.get("warmupRequests", []), list[WarmupRequest])
    return [
        Warmup(
            name=each.name or str(number),
            count=each.count,
            body=str(file_in_archive(folder, each.body, url).resolve()),
            content_type=each.content_type,
        )
        for number, each in enumerate(requests, 1)
    ]
