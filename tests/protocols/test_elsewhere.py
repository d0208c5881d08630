"""What a path means that an address does not serve."""

import pytest

from mooring.protocols.elsewhere import Elsewhere
from mooring.protocols.endpoints import Endpoint
from mooring.tokens import Access


def endpoint(pattern, access=Access.INFERENCE):
    return Endpoint(pattern, lambda exchange, match: None, access)


ADDRESSES = Elsewhere(
    [
        ("inference is", "http://127.0.0.1:8080", [endpoint("/predictions/{model_name}")]),
        (
            "management is",
            "http://127.0.0.1:8081/behind",
            [endpoint("/models"), endpoint("/models/{model_name}")],
        ),
        (
            "metrics are",
            "unix:/run/metrics",
            [endpoint("/metrics"), endpoint("/v2/models/{model_name}/stats")],
        ),
    ]
)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (b"/models", "/models here; management is served at http://127.0.0.1:8081/behind/models"),
        (b"/models/m?x=1", "/models/m here; management is served at http://127.0.0.1:8081/behind/models/m"),
        (b"/metrics", "/metrics here; metrics are served at unix:/run/metrics/metrics"),
        (b"/docs/", "/docs/ here; /openapi.json describes this API"),
        (b"/Health", "/Health here; /ping tells whether the models are well, /v2/health/ready whether"),
        (b"/predict", "/predict here; /predictions/MODEL answers"),
        (b"/nowhere", "/nowhere here; /openapi.json describes this API"),
        (b"/" + b"x" * 900, "x... here; /openapi.json"),
    ],
)
def test_a_path_that_another_address_serves_is_told_with_that_address(target, text):
    refusal = ADDRESSES.refusal(target)
    assert refusal.status == 404
    assert refusal.message.startswith("nothing is served at /")
    assert text in refusal.message
    assert "error" not in refusal.document()


def test_under_v2_the_text_is_in_v2s_form():
    assert ADDRESSES.refusal(b"/v2/models/m/stats").document_for(b"/v2/models/m/stats", "id") == {
        "error": "nothing is served at /v2/models/m/stats here; metrics are served at unix:/run/metrics/v2/models/m/stats"
    }
