"""TorchServe's Predictions messages, by hand: a large input stays in the memory that it was received in."""

import msgspec

from mooring.codecs.protobuf_wire import CountingReader, Malformed, encode_nested, encode_varint
from mooring.core.buffers import Buffer, Payload, Share, view_of
from mooring.core.errors import InvalidInput

Part = bytes | memoryview

# As many as a form may have fields.
MAX_INPUTS = 1_000


class PredictionMessage(msgspec.Struct):
    """A PredictionsRequest. The sequence is None where the message names none."""

    model_name: str = ""
    model_version: str = ""
    inputs: dict[str, Payload] = {}
    sequence_id: str | None = None


def decode_prediction(payload: Payload) -> PredictionMessage:
    """What a PredictionsRequest says. Takes it over; inputs of a buffer are the caller's to release where they are large.

    Raises ``InvalidInput``, and holds nothing then.
    """
    view = view_of(payload)
    share = Share(payload) if isinstance(payload, Buffer) else None
    try:
        asked, places = _locate_inputs(view)
        if share is None:
            asked.inputs = {name: bytes(view[start:end]) for name, (start, end) in places.items()}
        else:
            asked.inputs = {name: share.part(start, end) for name, (start, end) in places.items()}
    except (Malformed, UnicodeDecodeError) as error:
        raise InvalidInput(f"the message is not a PredictionsRequest: {error}") from None
    finally:
        if share is not None:
            share.release()
    return asked


def _locate_inputs(message: memoryview) -> tuple[PredictionMessage, dict[str, tuple[int, int]]]:
    """The message, and where in it its inputs begin and end. Of those of one name the last counts."""
    asked, places = PredictionMessage(), {}
    walk = CountingReader().read_fields
    for tag, start, end in walk(message, 0, len(message)):
        if tag == 0x0A:
            asked.model_name = str(message[start:end], "utf-8")
        elif tag == 0x12:
            asked.model_version = str(message[start:end], "utf-8")
        elif tag == 0x1A:
            name, place = "", (end, end)
            for inner, begin, finish in walk(message, start, end):
                if inner == 0x0A:
                    name = str(message[begin:finish], "utf-8")
                elif inner == 0x12:
                    place = begin, finish
            places[name] = place
            if len(places) > MAX_INPUTS:
                raise InvalidInput(f"the message has more than {MAX_INPUTS} inputs")
        elif tag == 0x22:
            asked.sequence_id = str(message[start:end], "utf-8")
    return asked, places


def encode_prediction(pieces: list[Part], sequence_id: str | None) -> list[Part]:
    """A PredictionResponse in parts; its prediction is all the pieces together."""
    size = sum(map(len, pieces))
    parts: list[Part] = [b"\x0a" + encode_varint(size), *pieces] if size else []
    if sequence_id is not None:
        parts.append(encode_nested(b"\x12", sequence_id.encode()))
    return parts
