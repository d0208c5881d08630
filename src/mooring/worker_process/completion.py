"""The process of a completion: it imports a Triton Python model, has it complete its configuration, reports it, and ends.

The model's code never runs in the server, and Triton promises it as well that no object made here is there later.
"""

import json
import socket
import traceback
from contextlib import suppress
from pathlib import Path

import msgspec

from mooring.backends.triton_python.completion import complete_config
from mooring.core.errors import ErrorRecord, ModelLoadFailed, MooringError
from mooring.ipc.messages import CompleteConfig
from mooring.worker_process.model_logging import show_debug
from mooring.worker_process.outcomes import line_of


def run_completion(control: socket.socket, order: CompleteConfig) -> None:
    """Send the keys of the configuration that the model changes as JSON text, or an ``ErrorRecord``."""
    if order.load.context.debug:
        show_debug()
    answer: str | ErrorRecord
    try:
        answer = json.dumps(complete_config(order.load.spec))
    except MooringError as error:
        answer = ErrorRecord.of(error)
    except Exception as error:  # the model's own code may raise anything
        path = Path(order.load.spec.location, order.load.spec.entry)
        text = f"{path}: auto_complete_config: {line_of(error)}"
        answer = ErrorRecord.of(ModelLoadFailed(text, detail=traceback.format_exc()))
    with suppress(BrokenPipeError, ConnectionResetError):
        control.sendall(msgspec.msgpack.encode(answer))
