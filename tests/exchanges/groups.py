"""Which exchanges are played with which server, and where their recordings are."""

from pathlib import Path

from exchanges import connections, kserve, others, rpc, torchserve

RECORDED = Path(__file__).parent / "recorded"
GROUPS = {
    "every": {
        "connections": connections.EXCHANGES, "torchserve": torchserve.EXCHANGES, "kserve": kserve.EXCHANGES, "grpc": rpc.EXCHANGES,
        "late": torchserve.LATE,
    },
    "guarded": {"guarded": others.GUARDED},
    "amd": {"amd": others.AMD},
    **{f"envelope-{name}": {f"envelope-{name}": others.ENVELOPED} for name in ("body", "json", "kserve", "kservev2")},
}  # fmt: skip
