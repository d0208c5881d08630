"""Clients that ask over five protocols, and account for each request as those of ``accounting`` do.

A *puzzle* is what a model is asked, with its one right answer. Each protocol sends it in its own form, and finds the answer in what
comes back.
"""

import base64
import io
import itertools
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import grpc
import numpy as np
from accounting import PATIENCE, Account, Connection, Load, NoAnswer

from mooring.codecs.proto import inference_pb2 as v2
from mooring.codecs.proto import torchserve_inference_pb2 as torchserve

HTTP_PORT, GRPC_PORT = 8080, 7070
_BROKEN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@dataclass(frozen=True)
class Puzzle:
    """``given`` is an array for a model of tensors, else bytes for a handler, of the type ``kind``."""

    model: str
    given: np.ndarray | bytes
    kind: str
    is_right: Callable[[object], bool]

    @property
    def array(self) -> np.ndarray | None:
        """The array of a model of tensors."""
        return self.given if isinstance(self.given, np.ndarray) else None

    @property
    def body(self) -> bytes:
        """What is sent where a body is not wrapped."""
        if isinstance(self.given, bytes):
            return self.given
        file = io.BytesIO()
        np.save(file, self.given)
        return file.getvalue()

    @property
    def encoded(self) -> str:
        """The bytes for a handler, in JSON."""
        assert isinstance(self.given, bytes)
        return (
            base64.b64encode(self.given).decode() if self.kind != "application/json" else self.given.decode()
        )


class Rest(Connection):
    """TorchServe's ``/predictions``."""

    def puzzle(self, puzzle: Puzzle) -> tuple[int, object]:
        """The status, and the answer or why there is none. Raises ``NoAnswer``."""
        status, answer = self.ask(f"/predictions/{puzzle.model}", puzzle.body, kind=puzzle.kind)
        return status, self.found(puzzle, json.loads(answer)) if status == 200 else answer

    def found(self, puzzle: Puzzle, told: object) -> object:
        """What a model said."""
        return told


class V1(Rest):
    """``/v1/models/NAME:predict`` of KServe."""

    def puzzle(self, puzzle: Puzzle) -> tuple[int, object]:
        """As above."""
        if puzzle.array is not None:
            instances = puzzle.array.tolist()
        elif puzzle.kind == "application/json":
            instances = [{"data": json.loads(puzzle.body)}]
        else:
            instances = [{"data": puzzle.encoded}]
        body = json.dumps({"instances": instances}).encode()
        status, answer = self.ask(f"/v1/models/{puzzle.model}:predict", body)
        return status, json.loads(answer)["predictions"][0] if status == 200 else answer


class V2(Rest):
    """``/v2/models/NAME/infer`` of KServe, with what a model is given as binary data."""

    def puzzle(self, puzzle: Puzzle) -> tuple[int, object]:
        """As above."""
        if puzzle.array is not None:
            tensor, raw = (
                {"name": "x", "datatype": "FP32", "shape": puzzle.array.shape},
                puzzle.array.tobytes(),
            )
        else:
            tensor = {"name": "data", "datatype": "BYTES", "shape": [1]}
            raw = len(puzzle.body).to_bytes(4, "little") + puzzle.body
        tensor["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps({"inputs": [tensor]}).encode()
        kind = f"application/octet-stream\r\nInference-Header-Content-Length: {len(head)}"
        status, answer = self.ask(f"/v2/models/{puzzle.model}/infer", head + raw, kind=kind)
        if status != 200:
            return status, answer
        data = json.loads(answer)["outputs"][0]["data"]
        return status, data if puzzle.array is not None else json.loads(data[0])


class Rpc:
    """A gRPC channel. It is a connection to a server as the others are: where it breaks, it is made anew."""

    closing = False

    def __init__(self, host: str, patience: float) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(f"{host}:{GRPC_PORT}", options)
        try:
            grpc.channel_ready_future(self._channel).result(patience)
        except grpc.FutureTimeoutError:
            self._channel.close()
            raise ConnectionError("no channel") from None

    def call(self, method: str, message: bytes) -> tuple[int, bytes]:
        """What came, or the reason why nothing did. Raises ``NoAnswer``."""
        try:
            return 200, self._channel.unary_unary(method)(message, timeout=PATIENCE)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise NoAnswer("hung") from None
            if error.code() in _BROKEN:
                raise NoAnswer("lost") from None
            return 500, json.dumps({"error": f"{error.code()} {error.details()}"}).encode()
        except ValueError:  # it was closed meanwhile
            raise NoAnswer("lost") from None

    def stray(self) -> bytes:
        """A call has one answer."""
        return b""

    def close(self) -> None:
        """End it."""
        self._channel.close()

    cut = close


class TorchServeRpc(Rpc):
    """TorchServe's ``Predictions``."""

    def puzzle(self, puzzle: Puzzle) -> tuple[int, object]:
        """As above."""
        name = "data" if puzzle.array is None else "body"
        message = torchserve.PredictionsRequest(model_name=puzzle.model, input={name: puzzle.body})
        method = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
        status, answer = self.call(method, message.SerializeToString())
        if status != 200:
            return status, answer
        return status, json.loads(torchserve.PredictionResponse.FromString(answer).prediction)


class V2Rpc(Rpc):
    """KServe's ``ModelInfer``."""

    def puzzle(self, puzzle: Puzzle) -> tuple[int, object]:
        """As above."""
        message = v2.ModelInferRequest(model_name=puzzle.model)
        if puzzle.array is not None:
            message.inputs.add(name="x", datatype="FP32", shape=puzzle.array.shape)
            message.raw_input_contents.append(puzzle.array.tobytes())
        else:
            tensor = message.inputs.add(name="data", datatype="BYTES", shape=[1])
            tensor.contents.bytes_contents.append(puzzle.body)
        status, answer = self.call("/inference.GRPCInferenceService/ModelInfer", message.SerializeToString())
        if status != 200:
            return status, answer
        told = v2.ModelInferResponse.FromString(answer)
        raw = told.raw_output_contents[0] if told.raw_output_contents else b""
        if puzzle.array is not None:
            return status, np.frombuffer(raw, np.float32).tolist() if raw else list(
                told.outputs[0].contents.fp32_contents
            )
        return status, json.loads(raw[4:] if raw else told.outputs[0].contents.bytes_contents[0])


PROTOCOLS = {
    "TorchServe REST": Rest,
    "TorchServe gRPC": TorchServeRpc,
    "KServe v1": V1,
    "KServe v2 REST": V2,
    "KServe v2 gRPC": V2Rpc,
}


class ProtocolLoad(Load):
    """One client of one protocol, which asks a host for one puzzle after another, with a pause after each."""

    def __init__(
        self,
        protocol: str,
        host: str,
        puzzles: Sequence[Puzzle],
        *,
        mortal: bool = False,
        pause: float = 0.05,
    ) -> None:
        super().__init__(HTTP_PORT, puzzles[0].model, host=host, clients=1, mortal=mortal)
        self.protocol = protocol
        self._puzzles = itertools.cycle(puzzles)
        self._pause = pause

    def connect(self):
        """A new connection of this protocol. Raises ``OSError``."""
        made = PROTOCOLS[self.protocol]
        patience = 2.0 if self._mortal else PATIENCE
        return (
            made(self.host, patience)
            if issubclass(made, Rpc)
            else made(self.port, self.host, patience=patience)
        )

    def judge(self, connection) -> str:
        """Ask the next puzzle, and enter what became of it."""
        time.sleep(self._pause)
        return judge_puzzle(self.account, connection, next(self._puzzles))


def judge_puzzle(account: Account, connection, puzzle: Puzzle) -> str:
    """Ask a puzzle, and enter what became of it unless there was no answer. Returns the verdict."""
    began = time.monotonic()
    try:
        status, found = connection.puzzle(puzzle)
    except NoAnswer as error:
        return error.malady
    except (ValueError, KeyError, IndexError, TypeError) as error:
        status, found = 200, f"{type(error).__name__}: {error}"
    remark = ""
    if status == 200:
        verdict = "wrong"
        with suppress(KeyError, IndexError, TypeError, ValueError):
            verdict = "right" if puzzle.is_right(found) else "wrong"
        if verdict == "wrong":
            remark = f"{puzzle.model} over {type(connection).__name__} answered {str(found)[:200]}"
    else:
        verdict, remark = "honest", f"{puzzle.model} over {type(connection).__name__}: {str(found)[:200]}"
    account.enter(verdict, status=status, seconds=time.monotonic() - began, remark=remark)
    return verdict
