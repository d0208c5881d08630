"""schemathesis asks a running server everything that its OpenAPI document describes, and finds no fault of the server's."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from v2_kit import TensorServer

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
    server = TensorServer(tmp_path_factory.mktemp("described"))
    try:
        yield server.started()
        assert server.ask("GET", "/ping").code in (200, 500)
        assert server.stop() == 0, server.log
        assert not server.faults()
    finally:
        server.kill()


def operations(url):
    schema = schemathesis.openapi.from_url(url)
    found = [each.ok() for each in schema.get_all_operations()]
    assert len(found) > 5
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
        for each in _WORKERS & (case.query or {}).keys():
            case.query[each] = 1  # a thousand workers would be what was asked for, and no fault
        answer = case.call(timeout=30)
        if answer.status_code >= 500 and answer.status_code not in ANSWERS:
            faults.append((case.as_curl_command(), answer.status_code, answer.text[:300]))

    ask()
    return faults[:3]


def test_no_request_that_the_document_allows_is_answered_with_5xx(described):
    inference, management = (f"http://127.0.0.1:{port}" for port in described.ports[:2])
    # Management comes last: it takes models away.
    found = [*operations(f"{inference}/openapi.json"), *operations(f"{management}/api-description")]
    assert len(found) > 50
    faults = [fault for operation in found for fault in faults_of(operation)]
    assert not faults, "\n".join(map(str, faults))
