"""service_envelope is the whole server's: what an archive's manifest says of an envelope counts for nothing."""

import json

import pytest
from e2e_kit import JSON, Server

HANDLER = "def handle(data, context):\n    return None if data is None else [repr(row) for row in data]\n"
V2 = {"id": "7", "inputs": [{"name": "a", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}
ASKED = {
    "": ({"a": 1}, "{'body': {'a': 1}}"),
    "body": ({"a": 1}, "{'a': 1}"),
    "json": ({"instances": [1, {"b64": "aGk="}]}, {"predictions": ["1", "b'hi'"]}),
    "kserve": ({"instances": [1, {"a": 2}]}, {"predictions": ["1", "{'a': 2}"]}),
    "kservev2": (
        V2,
        {
            "id": "7", "model_name": "m", "model_version": "1.0",
            "outputs": [{"name": "a", "datatype": "BYTES", "shape": [1]}],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("envelope", ASKED)
def test_the_servers_envelope_counts_and_not_the_manifests(tmp_path, envelope):
    for name in ASKED.keys() - {""}:
        model = tmp_path / "store" / name
        (model / "MAR-INF").mkdir(parents=True)
        (model / "handler.py").write_text(HANDLER)
        manifest = {"modelName": name, "handler": "handler.py", "envelope": name}
        (model / "MAR-INF/MANIFEST.json").write_text(json.dumps({"model": manifest}))
    settings = f"model_store=store\nload_models=all\nservice_envelope={envelope}\n"
    (tmp_path / "config.properties").write_text(settings)
    server = Server(tmp_path, "--config", "config.properties").started()
    try:
        body, expected = ASKED[envelope]
        for name in ASKED.keys() - {""}:
            answer = server.predict(name, json.dumps(body), f"Content-Type: {JSON}")
            text = answer.body.decode()
            if envelope == "kservev2":
                got = answer.json()
                handed = got["outputs"][0].pop("data")
                assert "'name': 'a'" in handed[0]
                assert got == expected | {"model_name": name}
            elif envelope == "json":
                assert json.loads(text) == expected
                over_v1 = server.ask("POST", f"/v1/models/{name}:predict", json.dumps(body).encode())
                assert over_v1.json() == expected
            else:
                assert (text if isinstance(expected, str) else json.loads(text)) == expected
        assert server.stop() == 0
    finally:
        server.kill()
