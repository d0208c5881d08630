"""Examines workflow archives (.war): whether they can be registered, and whether their models and functions exist."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mooring.core.errors import ModelLoadFailed
from mooring.doctor.findings import Finding, at, change, differs, line_of, runs
from mooring.repository.archives import find_model_root, unpack
from mooring.repository.python_source import SourceUnreadable, binds_name, read_source
from mooring.repository.workflow_spec import Workflow, read_workflow


def workflow_findings(archive: Path, shown: str, stores: Sequence[Path] = ()) -> Iterator[Finding]:
    """Return the findings about a .war whose models are beside it or in one of ``stores``."""
    with tempfile.TemporaryDirectory(prefix="mooring-doctor-") as temporary:
        try:
            unpack(archive, Path(temporary))
            folder = find_model_root(Path(temporary)).resolve()
            workflow = read_workflow(folder, shown, fallback=archive.stem)
        except ModelLoadFailed as error:
            hint = "mend what it says, and make the archive anew with mooring archive --workflow"
            yield change(shown, error.message, hint)
            return
        yield from _graph_findings(workflow, [archive.parent, *stores])


def _graph_findings(workflow: Workflow, stores: Sequence[Path]) -> Iterator[Finding]:
    shown, file = workflow.shown, workflow.spec_file
    missing = [*_model_findings(workflow, stores), *_function_findings(workflow)]
    what = f"workflow {workflow.name} of {', '.join(workflow.order)}"
    if missing:
        yield change(shown, f"{what} cannot be registered as it is", "mend what is named below")
    else:
        yield runs(shown, f"{what}: name it in --models or load_models, or register it after each start")
    yield from missing
    if workflow.unused:
        unused = f"{', '.join(workflow.unused)} of its models are on no path of the graph"
        yield differs(f"{shown}/{file}", unused, "nothing is loaded for them; remove them")


def _model_findings(workflow: Workflow, stores: Sequence[Path]) -> Iterator[Finding]:
    text = (workflow.folder / workflow.spec_file).read_text(errors="replace")
    for model, url in workflow.models.items():
        if "://" not in url and not any((store / url).exists() for store in stores):
            line = at(f"{workflow.shown}/{workflow.spec_file}", line_of(text, f"url: {url}", " \t#"))
            yield change(line, f"model {model} is {url}, which is not in the store", "put the archive there")


def _function_findings(workflow: Workflow) -> Iterator[Finding]:
    if not workflow.functions:
        return
    where = f"{workflow.shown}/{workflow.handler}"
    try:
        tree = read_source(workflow.folder / workflow.handler)
    except SourceUnreadable as error:
        yield change(at(where, error.line), f"is not Python: {error}", "mend the file")
        return
    for node in workflow.functions:
        if not binds_name(tree, node):
            yield change(where, f"has no function {node}, a node of the workflow", "define it")
