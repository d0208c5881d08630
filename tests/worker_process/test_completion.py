"""The process in which a model completes its configuration, when that fails."""

import socket

import msgspec
from model_kit import model_spec

from mooring.core.errors import ErrorRecord
from mooring.core.service import LoadContext
from mooring.ipc.messages import CompleteConfig, Load
from mooring.worker_process import completion


def test_error_whose_text_no_message_can_hold_is_told(monkeypatch):
    def fail(spec):
        raise ValueError("half a \ud83d")

    monkeypatch.setattr(completion, "complete_config", fail)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        completion.run_completion(
            theirs, CompleteConfig(Load(model_spec(backend="triton_python"), LoadContext()))
        )
        record = msgspec.msgpack.decode(ours.recv(65_536), type=ErrorRecord)
    assert record.kind == "ModelLoadFailed"
    assert record.message.endswith(r"auto_complete_config: ValueError: half a \ud83d")
