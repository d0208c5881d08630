"""The documents say all there is: each setting, route, RPC, metric, error and key of a configuration, and no other."""

import re
import runpy
from contextlib import AsyncExitStack
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from mooring.config.settings import Config
from mooring.config.torchserve_keys import MILLISECONDS, SAME, is_effective, known_keys
from mooring.core.options import TORCHSERVE_HEADERS
from mooring.mount.grpc import inference_services, management_service
from mooring.observability.cluster_metrics import ClusterMetrics
from mooring.observability.metrics import Metrics
from mooring.observability.server_metrics import LAG
from mooring.protocols.amd.metrics import AmdMetrics
from mooring.protocols.grpc_reflection import Reflection
from mooring.protocols.kserve.settings import TraceSettings
from mooring.protocols.kserve.triton_metrics import TritonMetrics
from mooring.repository.catalog import WORKERS
from mooring.repository.declaration import (
    BatchingTable,
    Declaration,
    EnsembleTable,
    PlacementTable,
    QueuePolicyTable,
    ScalingTable,
    SequencesTable,
    WorkersTable,
)
from mooring.repository.model_config import _KEYS, _OF_GROUPS
from mooring.repository.platforms import BACKENDS
from mooring.server.server import Server
from mooring.tokens import Access

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
generated = runpy.run_path(str(ROOT / "scripts" / "generate_docs.py"))


def guide(name):
    return (DOCS / f"guide-{name}.md").read_text()


def quoted(text):
    """Everything in backquotes."""
    return set(re.findall(r"`([^`\n]+)`", text))


def first_cells(text):
    """Everything in backquotes in the first column of a table."""
    return {
        each for line in text.splitlines() if line.startswith("| `") for each in quoted(line.split("|")[1])
    }


@pytest.mark.parametrize("file", generated["TABLES"], ids=lambda file: file.stem)
def test_each_setting_and_each_error_is_documented_as_it_is(file):
    rows = generated["TABLES"][file]()
    assert file.read_text() == generated["with_table"](file.read_text(), rows), "run scripts/generate_docs.py"


def test_each_key_of_torchserves_file_is_documented_with_what_it_sets():
    text = guide("settings").partition("## TorchServe")[2]
    assert first_cells(text) == {key for key in known_keys() if is_effective(key)}
    assert [key for key, name in SAME.items() if f"| `{key}` | `{name}` |" not in text] == []
    assert [key for key, name in MILLISECONDS.items() if f"| `{key}` | `{name}`, in ms |" not in text] == []


def test_each_key_of_torchserves_without_effect_is_documented():
    text = guide("settings").partition("The others are accepted")[2].partition("\n\nA key")[0]
    named = {
        key for line in text.splitlines() if line.startswith("- ") for key in quoted(line.partition(":")[0])
    }
    assert named == {key for key in known_keys() if not is_effective(key)}


@pytest.mark.parametrize("dialect", ["v2", "amd"])
async def test_each_route_is_documented_and_no_other(dialect):
    async with AsyncExitStack() as stack:
        server = Server(Config(dialect=dialect, arena_size=65_536, token_authorization="on"), stack)
        mounted = {endpoint.pattern for mount in server.addresses.mounts() for endpoint in mount.endpoints}
    assert first_cells(guide("protocols").partition("## gRPC")[0]) == mounted


async def test_each_route_that_needs_no_token_is_documented_as_such_and_no_other():
    async with AsyncExitStack() as stack:
        server = Server(Config(arena_size=65_536, token_authorization="on"), stack)
        mounted = {
            endpoint.pattern for mount in server.addresses.mounts() for endpoint in mount.endpoints
            if endpoint.access in (Access.OPEN, Access.METRICS)
        }  # fmt: skip
    text = guide("tokens").partition("## What needs no token")[2].partition("##")[0]
    shown = {each for each in quoted(text) if each.startswith("/")}
    assert {
        pattern for pattern in mounted if "{rest*}" not in pattern and "/versions/" not in pattern
    } == shown


async def test_each_rpc_is_documented_and_no_other():
    services = inference_services(
        Mock(), Mock(trace_settings=TraceSettings()), Mock(), extensions=[], dialect=Mock(server=""), memory=None,
        sequence_headers=TORCHSERVE_HEADERS, further=[management_service(Mock(), Mock(), model_api=True)],
    )  # fmt: skip
    mounted = [*services, *Reflection(services).services()]
    methods = {name for service in mounted for name in (*service.unary, *service.streaming)}
    text = guide("protocols").partition("## gRPC")[2]
    assert first_cells(text) == methods
    assert {service.name for service in mounted} <= quoted(text)


def test_each_metric_is_documented_and_no_other():
    metrics = Metrics()
    AmdMetrics(metrics, lambda: 0)
    TritonMetrics(metrics, list)
    metrics.registry.register(ClusterMetrics())
    families = [*metrics.registry.collect(), *metrics.versions.families, LAG]
    assert first_cells(guide("metrics")) == {family.name for family in families}


def test_each_key_of_a_models_configuration_is_documented_and_no_other():
    fields = {field.name for field in msgspec.structs.fields(Declaration)} - {
        "batching",
        "workers",
        "placement",
        "scaling",
        "sequences",
        "queue_policy",
        "ensemble",
    }
    tables = {
        "batching": BatchingTable,
        "workers": WorkersTable,
        "placement": PlacementTable,
        "scaling": ScalingTable,
        "sequences": SequencesTable,
        "queue_policy": QueuePolicyTable,
        "ensemble": EnsembleTable,
    }
    for table, kind in tables.items():
        fields |= {f"{table}.{field.name}" for field in msgspec.structs.fields(kind)}
    text = guide("models")
    assert first_cells(text.partition("## Keys")[2].partition("## ")[0]) == fields


def test_each_platform_key_and_worker_is_documented():
    assert {*BACKENDS, *WORKERS, *_KEYS, *_OF_GROUPS} <= quoted(guide("models"))


@pytest.mark.parametrize(
    "file", sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]), ids=lambda file: file.name
)
def test_what_a_document_names_is_there(file):
    text = file.read_text()
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (file.parent / name).exists(), name
    for name in re.findall(
        r"(?:docs|tests|examples|benchmarks|scripts)/[\w./-]+\.(?:py|md|pt|png|onnx|toml)", text
    ):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\*\*([\w/]+\.py)\*\*", text):
        assert (ROOT / "src/mooring" / name).exists(), name


RECORDS = DOCS / "decisions"
HEAD = re.compile(r"# (\d+)\. (.+)\n\n- Status: (.+)\n- Date: (\d{4}-\d{2}-\d{2})\n")
STATUS = re.compile(r"accepted|(?:superseded|partly overturned) by \d{4}(?: and \d{4})*")
REFERENCE = re.compile(r"[Dd]ecisions?\s(\d+(?:(?:, | and )\d+)*)|decisions/(\d{4}-[\w-]+\.md)")


def decisions():
    """Number -> file, title, status and date of each record."""
    records = {}
    for file in sorted(RECORDS.glob("[0-9]*.md")):
        head = HEAD.match(file.read_text())
        assert head, f"{file.name} does not begin with number, title, status and date"
        number = int(head[1])
        assert file.name.startswith(f"{number:04}-"), file.name
        assert number not in records, f"{file.name}: there is another decision {number}"
        records[number] = (file.name, head[2], head[3], head[4])
    return records


def test_each_decision_has_a_status_that_names_later_ones():
    records = decisions()
    for number, (name, _, status, _) in records.items():
        assert STATUS.fullmatch(status), (name, status)
        for other in map(int, re.findall(r"\d{4}", status)):
            assert other in records, (name, status)
            assert other > number, (name, status)


def test_the_index_of_decisions_agrees_with_the_records():
    records = decisions()
    lines = [line for line in (RECORDS / "README.md").read_text().splitlines() if re.match(r"\| \d", line)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    numbers = [int(row[0]) for row in rows]
    assert numbers == sorted(set(numbers))
    assert set(numbers) >= set(records)
    for number, title, status, date, summary in rows:
        assert summary, number
        if int(number) in records:
            name, heading, its_status, its_date = records[int(number)]
            assert (title, status, date) == (f"[{heading}]({name})", its_status, its_date)
        else:
            assert (title, status, date) == ("", "not used", ""), f"decision {number}"


def test_each_decision_that_is_named_is_there():
    records = decisions()
    files = [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
    ]
    named = 0
    for file in files:
        for numbers, name in REFERENCE.findall(file.read_text()):
            named += 1
            assert set(map(int, re.findall(r"\d+", numbers))) <= set(records), (file, numbers)
            assert not name or (RECORDS / name).exists(), (file, name)
    assert named > len(records)


CITATION = re.compile(
    r"(?P<folder>docs/|\]\()?contracts/(?P<page>\w+\.md)(?:,?\s+(?:section|sections)\s+(?P<sections>[\d.]*\d(?:(?:,|\sand)\s[\d.]*\d)*))?"
)


def contract_citations():
    """Each place in sources, tests and documents that cites a contract: file, page, sections (None: the whole page)."""
    files = [
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *DOCS.rglob("*.md"),
        *ROOT.glob("*.md"),
    ]
    for file in files:
        if file != Path(__file__):
            for found in CITATION.finditer(file.read_text()):
                yield file, found


def test_each_citation_of_a_contract_leads_to_a_page_and_a_section():
    cited = list(contract_citations())
    assert {found["page"] for _, found in cited} >= {"torchserve.md", "open_inference_protocol.md"}
    assert any(found["sections"] for _, found in cited)
    for file, found in cited:
        assert found["folder"] or file.is_relative_to(DOCS), f"{file}: {found[0]} lacks docs/"
        page = DOCS / "contracts" / found["page"]
        assert page.exists(), (file, found[0])
        headings = set(re.findall(r"^#+ ([\d.]*\d)\.? ", page.read_text(), re.MULTILINE))
        assert set(re.findall(r"[\d.]*\d", found["sections"] or "")) <= headings, (file, found[0])


def test_each_fast_path_is_listed_with_files_and_a_test_that_are_there():
    section = (DOCS / "ARCHITECTURE.md").read_text().partition("## Fast paths\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    for path, assumes, otherwise, test in rows:
        files = {ROOT / "src/mooring" / each for each in quoted(path + otherwise) if each.endswith(".py")}
        (tests,) = quoted(test)
        assert files, path
        assert assumes
        assert [each for each in (*files, ROOT / tests) if not each.exists()] == []
        assert "def test_" in (ROOT / tests).read_text()
        named = {each.split(".")[-1] for each in quoted(path) if "/" not in each}
        text = "".join(file.read_text() for file in files)
        assert [each for each in named if each not in text] == []


def test_fast_paths_that_name_themselves_are_listed():
    section = (DOCS / "ARCHITECTURE.md").read_text().partition("## Fast paths\n")[2].partition("\n## ")[0]
    for file in (ROOT / "src" / "mooring").rglob("*.py"):
        if re.search(r"\bfast path\b", file.read_text(), re.IGNORECASE):
            assert str(file.relative_to(ROOT / "src" / "mooring")) in section, file
