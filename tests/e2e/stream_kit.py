"""One streaming model, asked over every protocol: the pieces that came, in their order."""

import json
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import tritonclient.grpc as triton
from e2e_kit import JSON, PATIENCE, Server
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from mooring.codecs.proto import torchserve_inference_pb2 as inference

RPCS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"


def folder(place: Path, name: str, source: str, **settings) -> Path:
    """A model's folder, as it would be packed."""
    (place / name).mkdir()
    (place / name / "handler.py").write_text(source)
    (place / name / "model-config.yaml").write_text(json.dumps(settings))
    return place / name


class Asked:
    """Questions to a server whose gRPC address is ``server.grpc``. Every text is asked under the name "text"."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def torchserve_stream(self, model: str, text: str) -> list[bytes]:
        with grpc.insecure_channel(self.server.grpc) as channel:
            stream = channel.unary_stream(f"{RPCS}StreamPredictions")(_asked(model, text), timeout=PATIENCE)
            return [inference.PredictionResponse.FromString(each).prediction for each in stream]

    def torchserve_whole(self, model: str, text: str) -> bytes:
        with grpc.insecure_channel(self.server.grpc) as channel:
            answer = channel.unary_unary(f"{RPCS}Predictions")(_asked(model, text), timeout=PATIENCE)
        return inference.PredictionResponse.FromString(answer).prediction

    def generate_stream(self, model: str, text: str) -> list[str]:
        body = json.dumps({"text": text, "id": "same"}).encode()
        answer = self.server.ask("POST", f"/v2/models/{model}/generate_stream", body, f"Content-Type: {JSON}")
        assert answer.code == 200, answer
        events = [line for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
        return [json.loads(event[6:])["text"] for event in events]

    def model_stream_infer(self, model: str, *texts: str) -> list[bytes]:
        """The pieces of all the answers; of one request they are in order."""
        found: list[bytes] = []
        finals = 0
        with triton.InferenceServerClient(self.server.grpc) as client:
            import queue

            answers: queue.Queue = queue.Queue()
            client.start_stream(lambda result, error: answers.put((result, error)))
            for text in texts:
                given = triton.InferInput("text", [1], "BYTES")
                given.set_data_from_numpy(np.array([text.encode()], np.object_))
                client.async_stream_infer(model, [given], request_id="same")
            while finals < len(texts):
                result, error = answers.get(timeout=PATIENCE)
                assert error is None, error
                response = result.get_response()
                if response.outputs:
                    found += list(result.as_numpy("text"))
                finals += response.parameters["triton_final_response"].bool_param
            client.stop_stream()
        return found

    def websocket(self, model: str, text: str) -> list[bytes]:
        asked = {
            "model": model,
            "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}],
        }
        url = self.server.url.replace("http", "ws") + "/models/infer"
        found = []
        with connect(url) as socket:
            socket.send(json.dumps(asked))
            socket.send("no request")  # which ends the connection, when its turn comes
            with suppress(ConnectionClosed):
                while True:
                    reply = socket.recv(timeout=PATIENCE)
                    found.append(reply if isinstance(reply, bytes) else reply.encode())
        return found

    def instances(self, model: str, *texts: str) -> tuple[int, object]:
        """The status of a KServe v1 request, and its predictions or what was wrong."""
        body = json.dumps({"instances": [{"text": text} for text in texts]}).encode()
        answer = self.server.ask("POST", f"/v1/models/{model}:predict", body, f"Content-Type: {JSON}")
        return answer.code, answer.json()["predictions" if answer.code == 200 else "error"]


def _asked(model: str, text: str) -> bytes:
    return inference.PredictionsRequest(model_name=model, input={"text": text.encode()}).SerializeToString()
