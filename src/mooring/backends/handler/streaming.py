"""Answers in pieces, sent while the handler is still at work."""

from typing import Any

from mooring.backends.handler.context import Context
from mooring.backends.handler.faults import PredictionException


def send_intermediate_predict_response(
    ret: Any, req_id_map: dict[int, str], message: str, code: int, context: Context | None = None
) -> None:
    """Send every row of ``ret`` to its client now; what ``handle`` returns in the end is the last piece.

    Any ``code`` but 200 ends the batch with ``message``, as TorchServe has it.
    """
    if code != 200:
        raise PredictionException(message, code)
    if context is None:
        raise ValueError("a piece of an answer needs the context of its request")
    for row in req_id_map:
        context.send_piece(row, ret[row])
