"""The id of a request in the body of its error: checked against the header, and left out of what tests compare."""

import re

_KEY = re.compile(rb',\n  "requestId": "([^"]+)"')


def without_request_id(body: bytes, header: str) -> bytes:
    """The body of an error in TorchServe's form without the request's id, which is that of the header x-request-id."""
    found = _KEY.search(body)
    if found is None:
        assert not body.startswith(b'{\n  "code":'), "an error that does not name its request"
        return body
    assert found[1].decode() == header, "another id in the body than in the header"
    return body[: found.start()] + body[found.end() :]
