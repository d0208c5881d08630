"""Records metrics, and answers slowly, in pieces or not at all, as its body says."""

import time

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    body = bytes(data[0].get("body") or data[0].get("data") or b"")
    context.metrics.add_counter("Rows", len(data))
    context.metrics.add_size("Payload", 3, None, "kB")
    context.metrics.add_error("Odd", 1)
    if body == b"fail":
        raise ValueError("as asked")
    if body == b"stream":
        for piece in ("a", "b"):
            send_intermediate_predict_response([piece], context.request_ids, "text/plain", 200, context)
            time.sleep(0.2)
    if body == b"slow":
        time.sleep(0.5)
    return ["end"] * len(data)
