"""schemathesis asks a running server everything that its OpenAPI document describes, and finds no fault of the server's."""

import json
import re
import warnings
import zipfile
from contextlib import AsyncExitStack

import pytest
from e2e_kit import Wire, request
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from v2_kit import TensorServer

from mooring.config.settings import Config
from mooring.server.server import Server as Composition

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it and its dependencies deprecate is not ours to mend
    import schemathesis

EXAMPLES = 25
# Understood, and not offered here or by this model: these are answers, and no faults.
ANSWERS = {501}
_WORKERS = {"min_worker", "max_worker", "initial_workers"}
MODELS = ["digits", "digits_onnx", "sums", "mirror", "steps", "counted", "echo"]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A server of its own: what is asked of it loads and unloads its models."""
    folder = tmp_path_factory.mktemp("described")
    (folder / "store").mkdir()
    manifest = {"workflow": {"workflowName": "flow", "specFile": "spec.yaml", "handler": "functions.py"}}
    with zipfile.ZipFile(folder / "store/flow.war", "w") as war:
        war.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
        war.writestr("spec.yaml", "dag: {same: []}\n")
        war.writestr(
            "functions.py", "def same(data, context):\n    return None if data is None else ['ok']\n"
        )
    server = TensorServer(folder, "--model-store", folder / "store")
    try:
        server.started()
        with Wire(server.ports[1]) as wire:
            wire.send(request("POST", "/workflows?url=flow.war"))
            assert wire.answer().code == 200
        yield server
        assert server.ask("GET", "/ping").code in (200, 500)
        assert server.stop() == 0, server.log
        assert not server.faults()
    finally:
        server.kill()


def operations(url):
    schema = schemathesis.openapi.from_url(url)
    found = [each.ok() for each in schema.get_all_operations()]
    assert found
    # Those that unload models come last, so that the others have some to ask.
    return sorted(
        found, key=lambda each: ("unload" in each.path or each.method == "delete", each.path, each.method)
    )


def faults_of(operation):
    """Every 5xx that requests to one operation were answered with."""
    faults = []
    names = st.sampled_from(MODELS) | st.text(min_size=1, max_size=8)

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy(), name=names)
    def ask(case, name):
        if "model_name" in (case.path_parameters or {}):
            case.path_parameters["model_name"] = name
        if "workflow_name" in (case.path_parameters or {}) and case.operation.method == "post":
            case.path_parameters["workflow_name"] = name if len(name) > 4 else "flow"
        for each in _WORKERS & (case.query or {}).keys():
            case.query[each] = 1  # a thousand workers would be what was asked for, and no fault
        answer = case.call(timeout=30)
        if answer.status_code >= 500 and answer.status_code not in ANSWERS:
            faults.append((case.as_curl_command(), answer.status_code, answer.text[:300]))

    ask()
    return faults[:3]


NAMES = st.sampled_from(
    ["digits", "sums", "nobody", "1", "1.0", "%00", "..%2f", "a" * 300, "%c3%a9", "\u00e9"]
)
KINDS = ["Content-Type: application/json", "Content-Type: application/cloudevents+json", "Accept: */*"]
QUERIES = st.sampled_from(["", "?x", "?min_worker=1", "?url=%ff&limit=-1"])


async def mounted():
    """Everything that is mounted: of which address, a method, a pattern, and whether the document has it."""
    async with AsyncExitStack() as stack:
        sites = Composition(Config(arena_size=65_536), stack).addresses.mounts()
        return [
            (number, method, endpoint.pattern, endpoint.operation is not None)
            for number, site in enumerate(sites)
            for endpoint in site.endpoints
            for method in sorted(endpoint.methods or {"GET", "POST", "PUT", "DELETE", "PATCH"})
        ]


BODIES = st.binary(max_size=60) | st.sampled_from(
    [
        b"{}",
        b"[]",
        b'{"instances": [1]}',
        b'{"inputs": []}',
        b"null",
        b'{"parameters": {"x": 1}}',
        b'"\x80"',
        b'{"model": "\xff", "name": "\xff", "inputs": "\xff", "text_input": "\xff", "data": "\xff"}',
        b'{"key": "/x", "byte_size": 1}',
    ]
)


async def test_nothing_that_is_mounted_is_answered_with_5xx_described_or_not(described):
    """Before the document's own: what is taken away here goes by names that are nobody's."""
    every = await mounted()
    assert len([each for each in every if not each[3]]) > 10
    faults = []

    def ask(number, method, pattern, names, body, query, kind):
        target = re.sub(r"\{[^}]*\}", lambda _: next(names), pattern)
        with Wire(described.ports[number]) as wire:
            wire.send(request(method, f"{target}{query}", body, "Connection: close", kind))
            endless = pattern == "/console/api/events"
            answer = wire.answer(head=method == "HEAD" or endless)
        if answer.code >= 500 and answer.code not in ANSWERS:
            faults.append((method, target, body, answer))

    @settings(max_examples=12, deadline=None, derandomize=True)
    @example(name="digits", other="1", body=b'{"name": "\xff", "model": "\xff"}', query="", kind=KINDS[0])
    @example(name="digits", other="1", body=b'{"specversion": "\xff"}', query="", kind=KINDS[1])
    @given(name=NAMES, other=NAMES, body=BODIES, query=QUERIES, kind=st.sampled_from(KINDS))
    def ask_each(name, other, body, query, kind):
        for number, method, pattern, _ in every:
            changes = method in ("PUT", "DELETE") or "load" in pattern or "/console/api/models/" in pattern
            ask(
                number,
                method,
                pattern,
                iter(["nobody" if changes else name, other, other]),
                body,
                query,
                kind,
            )

    ask_each()
    assert not faults, faults[:5]


def test_no_request_that_the_document_allows_is_answered_with_5xx(described):
    inference, management, metrics = (f"http://127.0.0.1:{port}" for port in described.ports)
    # Management comes last: it takes models away.
    found = [
        *operations(f"{inference}/openapi.json"),
        *operations(f"{metrics}/api-description"),
        *operations(f"{management}/api-description"),
    ]
    assert {each.path for each in found} >= {
        "/wfpredict/{workflow_name}",
        "/workflows",
        "/explanations/{model_name}",
        "/metrics",
    }
    faults = [fault for operation in found for fault in faults_of(operation)]
    assert not faults, "\n".join(map(str, faults))
