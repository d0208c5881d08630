"""Workflow archives (.war): which models and functions they join, and whether those are there."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mooring.core.errors import ModelLoadFailed
from mooring.doctor.findings import Finding, at, change, line_of, runs
from mooring.doctor.python_source import SourceUnreadable, binds, read_source
from mooring.doctor.settings import has_effect
from mooring.repository.archives import model_root, unpack
from mooring.repository.mar import inside
from mooring.repository.model_config import read_model_config

_MANIFESTS = ("WAR-INF/MANIFEST.json", "MAR-INF/MANIFEST.json")
# Keys of a spec's models that are settings of all of them.
_SETTINGS = frozenset(
    {"min-workers", "max-workers", "batch-size", "max-batch-delay", "retry-attempts", "timeout-ms"}
)


def workflow_findings(archive: Path, shown: str) -> Iterator[Finding]:
    """What is to be said of a .war."""
    with tempfile.TemporaryDirectory(prefix="mooring-doctor-") as temporary:
        try:
            unpack(archive, Path(temporary))
            yield from _findings(model_root(Path(temporary)).resolve(), shown, archive.parent)
        except ModelLoadFailed as error:
            yield change(shown, error.message, "make the workflow's archive anew")


def _findings(folder: Path, shown: str, store: Path) -> Iterator[Finding]:
    manifest = next((folder / name for name in _MANIFESTS if (folder / name).is_file()), None)
    if manifest is None:
        yield change(shown, f"is no workflow archive: it has no {_MANIFESTS[0]}", "make it anew")
        return
    said = _said(manifest, shown)
    file = inside(folder, str(said.get("specFile", "")), shown)
    spec = read_model_config(file)
    nodes = _nodes(spec)
    name = said.get("workflowName") or archive_name(shown)
    if has_effect("workflow_store", str(store))[0]:
        yield runs(shown, f"workflow {name} of {', '.join(nodes) or 'no nodes'}")
    else:
        hint = "call its models one after another from the client, or from a handler"
        yield change(shown, f"workflow {name} of {', '.join(nodes)}: workflows are not served here", hint)
    text = file.read_text(errors="replace")
    models = spec.get("models") if isinstance(spec.get("models"), dict) else {}
    assert isinstance(models, dict)
    where = f"{shown}/{file.name}"
    for model, settings in models.items():
        url = settings.get("url") if isinstance(settings, dict) else None
        if (
            model not in _SETTINGS
            and isinstance(url, str)
            and "://" not in url
            and not (store / url).exists()
        ):
            line = at(where, line_of(text, f"url: {url}", " \t#"))
            yield change(line, f"model {model} is {url}, which is not in the store", "put the archive there")
    yield from _functions(folder, shown, said, [node for node in nodes if node not in models])


def _functions(folder: Path, shown: str, said: dict[str, Any], wanted: list[str]) -> Iterator[Finding]:
    if not wanted:
        return
    handler = str(said.get("handler") or "")
    file = folder / Path(handler).name
    if not handler or not file.is_file():
        yield change(
            shown, f"names {', '.join(wanted)}, but holds no handler with functions", "add --handler"
        )
        return
    try:
        tree = read_source(file)
    except SourceUnreadable as error:
        yield change(at(f"{shown}/{file.name}", error.line), f"is no Python: {error}", "mend the file")
        return
    for node in wanted:
        if not binds(tree, node):
            yield change(
                f"{shown}/{file.name}", f"has no function {node}, a node of the workflow", "define it"
            )


def archive_name(shown: str) -> str:
    """What a workflow is called that does not say."""
    return Path(shown).stem


def _said(manifest: Path, shown: str) -> dict[str, Any]:
    try:
        whole = msgspec.json.decode(manifest.read_bytes()[: 1 << 20], type=dict[str, Any])
    except (RecursionError, ValueError) as error:
        raise ModelLoadFailed(f"workflow '{shown}': its manifest cannot be read: {error}") from error
    said = whole.get("workflow")
    return said if isinstance(said, dict) else {}


def _nodes(spec: dict[str, Any]) -> list[str]:
    """Every node of the graph, in the order they are written."""
    dag = spec.get("dag")
    found: dict[str, None] = {}
    for node, following in dag.items() if isinstance(dag, dict) else ():
        after = following if isinstance(following, list) else [following]
        found |= dict.fromkeys(str(each) for each in (node, *after) if each is not None)
    return list(found)
