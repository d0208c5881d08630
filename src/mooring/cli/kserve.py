"""``mooring kserve``: serves what KServe puts into /mnt/models, at KServe's ports. Runs in the command's process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import click

from mooring.cli.kserve_pod import EVERYWHERE, GRPC_PORT, HTTP_PORT, MODELS, POD_DEFAULTS, wait_for_folder
from mooring.cli.launch import drop_unset, launch
from mooring.config.settings import Address
from mooring.config.sources.origins import Origins

_PORT = click.IntRange(0, 65_535)
_CONFIG_FILE = Path("config", "config.properties")
_STORE = "model-store"
_MOST_LISTED = 12
# Files of other formats, and which runtimes of KServe's serve them.
_OTHERS: Mapping[str, str] = {
    "model.joblib": "kserve-sklearnserver",
    "model.pkl": "kserve-sklearnserver",
    "model.bst": "kserve-xgbserver",
    "model.json": "kserve-xgbserver",
    "MLmodel": "kserve-mlserver",
    "model-settings.json": "kserve-mlserver",
    "saved_model.pb": "kserve-tensorflow-serving",
    "config.json": "kserve-huggingfaceserver",
}


@click.command(context_settings={"help_option_names": ["--help", "-h"]})
@click.option("--model-name", "--model_name", metavar="NAME", help="the name of a single model, {{.Name}}")
@click.option(
    "--model-dir",
    "--model_dir",
    metavar="FOLDER",
    default=MODELS,
    show_default=True,
    help="folder of the model, or of models",
)
@click.option(
    "--http-port", "--http_port", type=_PORT, default=HTTP_PORT, show_default=True, help="port for v1 and v2"
)
@click.option(
    "--grpc-port",
    "--grpc_port",
    type=_PORT,
    default=GRPC_PORT,
    show_default=True,
    help="port for v2 over gRPC",
)
@click.option("--insecure", is_flag=True, help="let anybody who reaches the ports load and unload models")
def kserve(
    *, model_name: str | None, model_dir: str, http_port: int, grpc_port: int, insecure: bool
) -> NoReturn:
    """Serve what KServe has put into a folder, as a runtime of KServe's.

    The folder holds one model (a file of ONNX or PyTorch, such a file in a folder for its version, an archive, a function or a
    class in model.py or app.py, a handler, or a model with a configuration), or models in folders of their own, as Triton has them. Settings come
    from the environment, as MOORING_JOB_QUEUE_SIZE=200. The server is ready when the models are.
    """
    folder = Path(model_dir)
    wait_for_folder(folder)
    flags = {
        "inference_address": str(Address(EVERYWHERE, http_port)),
        "grpc_address": str(Address(EVERYWHERE, grpc_port)),
        "insecure": insecure or None,
        "token_authorization": "off" if insecure else None,
        **find_models(folder, model_name or ""),
    }
    defaults = {
        "management_address": POD_DEFAULTS["management_address"],
        "metrics_address": Address(EVERYWHERE, 8082),
        "token_authorization": POD_DEFAULTS["token_authorization"],
        "exit_on_error": True,
    }
    launch(drop_unset(flags), None, defaults=defaults, origins=Origins("mooring kserve"))


def find_models(folder: Path, name: str) -> dict[str, Sequence[str]]:
    """Return the settings that serve what is in a folder: a target called ``name``, or a repository.

    Raises ``ClickException``, which lists what is there and what would be served.
    """
    from mooring.core.errors import MooringError
    from mooring.repository.layout import find_declaration, list_entries, model_folders, version_folders
    from mooring.repository.store import is_archive
    from mooring.repository.targets import find_model_in_folder

    label = f"{name}=" if name else ""
    try:
        if (folder / _CONFIG_FILE).is_file() and (folder / _STORE).is_dir():
            raise click.ClickException(_explain_torchserve(folder))
        declaration = find_declaration(folder)
        if version_folders(folder) or (declaration is not None and declaration.parent == folder):
            return {"targets": [f"{label}{folder}"]}
        archives = [each for each in list_entries(folder) if is_archive(each)]
        if len(archives) == 1:
            return {"targets": [f"{label}{archives[0]}"]}
        if (folder / "handler.py").is_file() or find_model_in_folder(folder) is not None:
            return {"targets": [f"{label}{folder}"]}
        models = [each for each in model_folders(folder) if _is_model(folder / each)]
    except (MooringError, OSError) as error:
        raise click.ClickException(f"{folder}: {error}") from error
    if len(models) == 1 and name:
        return {"targets": [f"{label}{folder / models[0]}"]}
    if models:
        return {"model_repository": [str(folder)]}
    raise click.ClickException(_explain_unknown(folder))


def _is_model(folder: Path) -> bool:
    """Whether a folder of a repository is a model's."""
    from mooring.repository.layout import find_declaration, find_flat_file, version_folders

    declared = find_declaration(folder) is not None or bool(version_folders(folder))
    return declared or bool(find_flat_file(folder, ""))


def _explain_torchserve(folder: Path) -> str:
    return (
        f"{folder} is laid out for TorchServe: start it as torchserve --start --model-store={folder / _STORE}"
        f" --ts-config={folder / _CONFIG_FILE}, or take the runtime mooring-pytorch"
    )


def _explain_unknown(folder: Path) -> str:
    """Say what is in a folder that nothing here serves, and what would be."""
    names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    there = ", ".join(names[:_MOST_LISTED]) + (" ..." if len(names) > _MOST_LISTED else "")
    runtimes = {_OTHERS[name] for name in names if name in _OTHERS}
    other = f"; KServe's runtime {' or '.join(sorted(runtimes))} serves that" if runtimes else ""
    return (
        f"{folder} holds no model that is served here: there is {there or 'nothing'}{other}. Served are model.onnx,"
        " model.pt2, model.pt (TorchScript), the same in 1/, an archive (.mar), model.py or app.py with a function or a"
        " class, handler.py, a folder with config.toml or config.pbtxt, and a Triton repository (NAME/1/model.onnx)"
    )
