"""``mooring archive``: packs a model as torch-model-archiver does, or a workflow as torch-workflow-archiver; their flags."""

from pathlib import Path
from typing import Any

import click

from mooring.core.errors import MooringError

_FILE = click.Path(path_type=Path)
# The required and the optional options of each kind of archive.
_MODEL = (
    ("model_name", "version", "handler"),
    ("serialized_file", "model_file", "requirements_file", "config_file"),
)
_WORKFLOW = (("workflow_name", "spec_file"), ("handler",))
_BOTH = ("extra_files", "export_path", "force")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model-name", help="name of the model and of the archive")
@click.option("-v", "--version", help="version of the model")
@click.option(
    "--handler", help="a handler's file, or the name of a default handler; of a workflow, its functions"
)
@click.option("--workflow", is_flag=True, help="pack a workflow (.war); without it, a model")
@click.option("--workflow-name", help="name of the workflow and of the archive")
@click.option("--spec-file", type=_FILE, help="YAML file with the workflow's models and graph")
@click.option("--serialized-file", type=_FILE, help="weights, TorchScript or ONNX file")
@click.option("--model-file", type=_FILE, help="Python file with the one class of the model")
@click.option("--extra-files", default="", metavar="FILES", help="files, folders and globs, comma-separated")
@click.option("-r", "--requirements-file", type=_FILE, help="requirements.txt of the model")
@click.option("-c", "--config-file", type=_FILE, help="model-config.yaml")
@click.option(
    "--runtime", type=click.Choice(["python", "python3", "LSP"]), default="python", show_default=True
)
@click.option(
    "--export-path",
    type=_FILE,
    default=Path(),
    help="folder for the archive; the working directory by default",
)
@click.option(
    "--archive-format",
    type=click.Choice(["default", "tgz", "no-archive", "zip-store"]),
    default="default",
    show_default=True,
    help="default and zip-store make a .mar, tgz a .tar.gz, no-archive a folder",
)
@click.option("-f", "--force", is_flag=True, help="replace an archive of the same name")
@click.pass_context
def archive(context: click.Context, /, *, workflow: bool, **options: Any) -> None:
    """Pack a model, its handler and its files, or a workflow, as `mooring serve` and TorchServe load it."""
    from mooring.archiver import Options, WorkflowOptions, archive_model, archive_workflow

    selected = _select_options(context, options, workflow=workflow)
    try:
        if workflow:
            handler = selected.pop("handler")
            handler_path = Path(handler) if handler else None
            path = archive_workflow(WorkflowOptions(**selected, handler=handler_path))
        else:
            path = archive_model(Options(**selected))
    except (MooringError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"made {path}")


def _select_options(context: click.Context, options: dict[str, Any], *, workflow: bool) -> dict[str, Any]:
    """Return the options of one kind of archive. Raises ``UsageError`` for one of the other kind or a missing one."""
    needed, optional = _WORKFLOW if workflow else _MODEL
    own = {*needed, *optional, *_BOTH, *(() if workflow else ("runtime", "archive_format"))}
    parameters = {parameter.name: parameter for parameter in context.command.params}
    for name, value in options.items():
        if name in needed and value is None:
            raise click.MissingParameter(ctx=context, param=parameters[name])
        from_command_line = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if from_command_line and name not in own:
            kind = "a workflow" if workflow else "a model; give --workflow"
            raise click.UsageError(f"--{name.replace('_', '-')} is not for {kind}", context)
    return {name: value for name, value in options.items() if name in own}
