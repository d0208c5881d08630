"""Whatever clients send, a server with well-behaved models answers with 2xx or 4xx, stays up and stays right."""

import json

from e2e_kit import DIGITS, JSON, Wire, answered, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SEVEN = (DIGITS / "samples/7.png").read_bytes()
V2 = json.dumps(
    {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}]}
).encode()
GOOD = [
    SEVEN,
    V2,
    b'{"x": [[1, 2, 3]]}',
    b'{"instances": [[1, 2, 3], [4, 5, 6]]}',
    b'{"instances": [{"data": "aGVsbG8=", "target": 3}, {"b64": "eA=="}]}',
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }".ljust(127) + b"\n" + b"\x00" * 12,
    b'--b\r\nContent-Disposition: form-data; name="data"; filename="a"\r\nContent-Type: application/json\r\n\r\n[1]\r\n--b--',
    b"data=1&target=2",
]  # fmt: skip
TYPES = [
    "", JSON, "text/plain", "image/png", "application/octet-stream", "application/x-npy", "application/x-npz",
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "multipart/form-data", "\u00ff/;;=",
]  # fmt: skip
# Models that refuse what they cannot use; none of them may fail.
MODELS = ["rows", "digits", "typed", "echo", "echo_multi", "negative", "fake"]
TARGETS = [
    *(f"/predictions/{model}" for model in MODELS),
    *(f"/v1/models/{model}:predict" for model in MODELS),
    "/v1/models/digits:explain",
    "/explanations/digits",
    "/invocations?model_name=rows&a=%ff",
    "/typed/1/predict?x=%5B1",
]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["x", "data", "instances", "inputs", "shape", "b64", "target", ""]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
documents = (
    values | st.builds(lambda rows: {"instances": rows}, st.lists(values, max_size=5)) | st.builds(lambda x: {"x": x}, values)
).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))  # fmt: skip


@st.composite
def spoiled(draw, originals):
    """One of these with some bytes replaced, cut out or put in."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 8)))
        data[at:end] = draw(
            st.binary(max_size=4) | st.sampled_from([b"\r\n", b"\x00", b"-1", b"1e999", b"[[[[", b"}", b":"])
        )
    return bytes(data)


fuzz = settings(max_examples=150, suppress_health_check=list(HealthCheck), print_blob=True)


class Client:
    """Asks on one connection for as long as the server keeps it, and on the next one then."""

    def __init__(self, port):
        self._port = port
        self._wire = None

    def __enter__(self):
        return self

    def ask(self, raw, *, head=False):
        if self._wire is None:
            self._wire = Wire(self._port)
        self._wire.send(raw)
        answer = self._wire.answer(head=head)
        if answer.headers["connection"] == "close":
            self.__exit__()
        return answer

    def __exit__(self, *exc):
        if self._wire is not None:
            self._wire.__exit__()
        self._wire = None


def still_right(server):
    assert server.ask("GET", "/ping").code == 200
    assert server.predict("rows", "x") == answered("{'body': bytearray(b'x')}")
    assert server.ask("PUT", "/predictions/digits", SEVEN).json()["class"] == "7"


def test_no_body_makes_a_model_that_behaves_answer_5xx(server):
    client = Client(server.port)

    @fuzz
    @given(
        st.sampled_from(TARGETS), st.sampled_from(TYPES), documents | spoiled(GOOD) | st.binary(max_size=200)
    )
    def check(target, kind, body):
        lines = [f"Content-Type: {kind}"] if kind else []
        answer = client.ask(request("POST", target, body, *lines))
        assert answer.code < 500, answer

    with client:
        check()
    still_right(server)


def test_no_path_leads_to_5xx(server):
    client = Client(server.port)
    parts = st.sampled_from(["predictions", "rows", "1.0", "v1", "models", "rows:predict", "explanations", "ping",
                             "invocations", "%2e%2e", "..", "%00", "%zz", "%ff", "", "{model_name}", ":predict", "*"])  # fmt: skip
    anything = st.text(
        st.characters(min_codepoint=33, max_codepoint=255, exclude_characters=" #?"), max_size=12
    )

    @fuzz
    @given(
        st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"]),
        st.lists(parts | anything, max_size=6).map(lambda found: "/" + "/".join(found)),
        st.sampled_from(["", "?", "?model_name=rows", "?a=%ff&&=", "?" + "x" * 300]),
    )
    def check(method, path, query):
        answer = client.ask(request(method, path + query), head=method == "HEAD")
        assert answer.code < 500, answer

    with client:
        check()
    still_right(server)


def test_no_bytes_on_a_connection_upset_the_server(server):
    wholes = [
        request("POST", "/predictions/rows", b"hello", "Content-Type: text/plain"),
        request(
            "POST",
            "/predictions/rows",
            b"5\r\nhello\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked",
            length=False,
        ),
        request("PUT", "/v1/models/typed:predict", b'{"instances": [[1, 2, 3]]}', "Expect: 100-continue"),
        request("GET", "/ping") * 3,
        request("POST", "/predictions/rows", b"a=1&b=2", "Content-Type: application/x-www-form-urlencoded"),
    ]

    @fuzz
    @given(spoiled(wholes) | st.binary(max_size=100))
    def check(raw):
        with Wire(server.port) as wire:
            wire.send(raw)
            wire.socket.shutdown(1)  # a body that is announced and never sent ends here
            said = wire.rest()
        statuses = [int(line[9:12]) for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        # 501 is HTTP's word for a transfer coding, 505 for a version that nobody knows.
        assert all(status < 500 or status in (501, 505) for status in statuses), said
        assert said in (b"", b"reset") or said.startswith(b"HTTP/1.1 "), said

    check()
    still_right(server)
