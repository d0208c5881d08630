"""Functions of ``ts.handler_utils`` and ``ts.utils`` that call libraries of others, which they import when called."""

from pathlib import Path
from typing import Any


def get_ds_engine(model: Any, ctx: Any) -> Any:
    """The inference engine of DeepSpeed for a model, as ``deepspeed`` of its model-config.yaml says.

    Raises ``ValueError`` without those settings, or where a file that they name is not in the archive.
    """
    settings = _settings_of(ctx, "deepspeed")
    import deepspeed  # type: ignore[import-not-found]

    files = {key: _archived_file(ctx, "deepspeed", key, settings) for key in ("config", "checkpoint")}
    return deepspeed.init_inference(model, **files)


def get_dali_pipeline(ctx: Any) -> Any:
    """The pipeline of NVIDIA DALI that ``dali`` of a model's model-config.yaml describes.

    Raises ``ValueError`` without those settings, or where the file of the pipeline is not in the archive.
    """
    settings = _settings_of(ctx, "dali")
    from nvidia.dali.pipeline import Pipeline  # type: ignore[import-not-found]

    if "pipeline_file" not in settings:
        raise ValueError("dali of model-config.yaml names no pipeline_file, and TorchServe's own is not here")
    options = {key: settings[key] for key in ("batch_size", "num_threads", "device_id", "seed")}
    file = _archived_file(ctx, "dali", "pipeline_file", settings)
    return Pipeline.deserialize(filename=file, prefetch_queue_depth=1, **options)


def download_model(
    model_id: str = "meta-llama/Meta-Llama-3.1-8B-Instruct",
    revision: str = "main",
    model_path: str = ".cache",
    use_auth_token: bool = True,
) -> str:
    """Fetch a model of the Hugging Face hub to ``model_path``, and return the folder that it is in."""
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", "*.pt", "*.pth", "*.bin", "*.safetensors"]
    folder: str = snapshot_download(
        repo_id=model_id,
        revision=revision,
        allow_patterns=patterns,
        cache_dir=model_path,
        token=use_auth_token,
    )
    return folder


def _settings_of(ctx: Any, key: str) -> dict[str, Any]:
    settings = (getattr(ctx, "model_yaml_config", None) or {}).get(key)
    if not isinstance(settings, dict):
        raise ValueError(f"model '{ctx.model_name}' has no settings under '{key}' in its model-config.yaml")  # noqa: TRY004 - a file is wrong
    return settings


def _archived_file(ctx: Any, table: str, key: str, settings: dict[str, Any]) -> str | None:
    if key not in settings:
        return None
    path = Path(ctx.system_properties["model_dir"]) / settings[key]
    if not path.exists():
        raise ValueError(
            f"{table}.{key} of model '{ctx.model_name}' names '{settings[key]}', which is not in its archive"
        )
    return str(path)
