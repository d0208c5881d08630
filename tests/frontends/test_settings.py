"""What a frontend process is told before it begins comes out as it went in."""

from pathlib import Path

from mooring.config.settings import Address, Config, Secret
from mooring.frontends.settings import FrontendSettings, RelayedEndpoint, SharedAddress
from mooring.tokens import Access, Token


def test_settings_come_out_as_they_went_in():
    config = Config(
        inference_address=Address.parse("unix:/tmp/http.sock", 0),
        model_store=Path("/models"),
        management_token=Secret("a-management-token"),
    )
    settings = FrontendSettings(
        config,
        [
            SharedAddress(Address.parse("unix:/tmp/http.sock", 0), 1),
            SharedAddress(Address("127.0.0.1", 7071), 0),
        ],
        "/tmp/relay",
        [
            RelayedEndpoint("/v2", Access.INFERENCE, frozenset({"GET", "HEAD"})),
            RelayedEndpoint("/ping", Access.OPEN, None),
        ],
        [("inference.GRPCInferenceService", "ModelConfig", Access.INFERENCE)],
        ["sequence"],
        tokens={
            Access.MANAGEMENT: Token(b"key"),
            Access.INFERENCE: Token(b"\xff", 12.5, "2026-11-30T00:00:00Z"),
        },
        renewable=(Access.INFERENCE,),
    )
    assert FrontendSettings.decoded(settings.encoded()) == settings
