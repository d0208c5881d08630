"""Archives from elsewhere: from where the allow-list says and from nowhere else, whole or not at all."""

import http.server
import re
import socket
import threading
import time
import zipfile
from contextlib import suppress

import pytest

from mooring.core.errors import FetchFailed, ModelLoadFailed, SourceRefused
from mooring.repository.fetch import Fetcher, FetchLimits
from mooring.repository.store import Store

CONTENT = bytes(range(256)) * 64


class Origin(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, and every way of not doing so."""

    def do_GET(self) -> None:
        kind = self.path.partition("?")[0].strip("/").partition("/")[0]
        if kind == "missing":
            self.send_error(404)
        elif kind == "moved":
            self.send_response(302)
            self.send_header("location", self.path.partition("?")[2])
            self.send_header("content-length", "0")
            self.end_headers()
        else:
            self._content(kind)

    def _content(self, kind: str) -> None:
        self.send_response(200)
        if kind != "unmeasured":
            self.send_header("content-length", str(len(CONTENT) * (2 if kind in ("short", "slow") else 1)))
        self.end_headers()
        self.wfile.write(self.server.content or CONTENT)
        if kind == "slow":
            with suppress(OSError):
                for _ in range(40):
                    time.sleep(0.05)
                    self.wfile.write(b"x")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def origin():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    server.daemon_threads = True
    server.content = b""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def url(origin, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return f"http://127.0.0.1:{origin.server_port}"


@pytest.mark.parametrize("kind", ["file", "unmeasured"])
def test_what_is_allowed_is_fetched_whole(url, tmp_path, kind):
    file = Fetcher([f"{url}/.*"]).fetch(f"{url}/{kind}/a%20model.mar?signature=secret", tmp_path)
    assert file == tmp_path / "a model.mar"
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "allowed", [(), ("https://models[.]example/.*",), ("http://127.0.0.1:1/.*",), ("http://127",)]
)
def test_what_no_pattern_matches_as_a_whole_is_refused(url, tmp_path, allowed):
    with pytest.raises(SourceRefused, match="matches none of the allowed URLs"):
        Fetcher(allowed).fetch(f"{url}/file", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "odd",
    [
        "http://user@127.0.0.1/x", "http://a/../x", "http://a/%2e%2e/x", "http://a/b\\c", "http://a/b c", "http://a/b\nc",
        "http://a/b%00c", "ftp://a/x", "data://a/x", "s3://a/x", "gopher://a/x", "://", "http://[a/x", "HTTP//x",
        "file:///models/../etc/passwd", "http://a/%5c..%5cx",
    ],
)  # fmt: skip
def test_what_may_mean_something_else_is_refused_even_where_everything_is_allowed(odd, tmp_path):
    with pytest.raises(SourceRefused):
        Fetcher([r"(?s).*"]).fetch(odd, tmp_path)


def test_a_redirect_within_the_list_is_followed(url, tmp_path):
    file = Fetcher([f"{url}/.*"]).fetch(f"{url}/moved/m.mar?{url}/file/other.mar", tmp_path)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "where", ["{url}/elsewhere/m.mar", "file:///etc/passwd", "ftp://127.0.0.1/x", "//evil.example/x"]
)
def test_no_redirect_leads_out_of_the_list(url, tmp_path, where):
    fetcher = Fetcher([f"{url}/moved/.*", "file://.*"])
    with pytest.raises(FetchFailed):
        fetcher.fetch(f"{url}/moved/m.mar?{where.format(url=url)}", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_circle_of_redirects_ends(url, tmp_path):
    with pytest.raises(FetchFailed):
        Fetcher([".*"]).fetch(f"{url}/moved/m.mar?/moved/m.mar", tmp_path)


@pytest.mark.parametrize(
    ("kind", "limits", "reason"),
    [
        ("missing", FetchLimits(), "404"),
        ("short", FetchLimits(), "broke off|more expected|IncompleteRead"),
        ("file", FetchLimits(total_bytes=1000), "more than 1000"),
        ("unmeasured", FetchLimits(total_bytes=1000), "more than 1000"),
        ("slow", FetchLimits(seconds=0.2), "longer than 0.2 s"),
    ],
)
def test_what_does_not_come_whole_and_in_time_has_failed(url, tmp_path, kind, limits, reason):
    with pytest.raises(FetchFailed, match=reason):
        Fetcher([f"{url}/.*"], limits).fetch(f"{url}/{kind}/m.mar", tmp_path)


def test_a_server_that_is_not_there_has_failed(tmp_path):
    with pytest.raises(FetchFailed, match=r"could not be fetched: Connection refused$"):
        Fetcher([".*"]).fetch("http://127.0.0.1:1/m.mar", tmp_path)


def test_a_signature_is_not_told(url, tmp_path):
    for fetcher in (Fetcher(), Fetcher([".*"])):
        with pytest.raises(ModelLoadFailed) as caught:
            fetcher.fetch(f"{url}/missing/m.mar?signature=secret", tmp_path)
        assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "secret",
    ["http://me:p4ssw0rd@{host}/file/m.mar", "http://me:p4ss/w0rd@{host}/x", "http://[p4ssw0rd@{host}/x"],
)
def test_a_password_in_a_url_is_refused_and_not_told(url, tmp_path, secret):
    with pytest.raises(SourceRefused) as caught:
        Fetcher([".*"]).fetch(secret.format(host=url.removeprefix("http://")), tmp_path)
    assert "w0rd" not in caught.value.message


CREDENTIALS = [
    "169.254.169.254",
    "fe80::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "::ffff:0:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "64:ff9b::6464:64c8",
    "224.0.0.1",
]


@pytest.mark.parametrize("address", CREDENTIALS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_where_clouds_keep_credentials_nothing_is_fetched_by_whichever_name(
    monkeypatch, tmp_path, address, scheme
):
    asked, found = [], socket.getaddrinfo

    def resolved(host, port, *more, **named):
        return found(address if host == "models.example" else host, port, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(socket, "create_connection", lambda *given, **_: asked.append(given))
    literal = f"[{address}]" if ":" in address else address
    for host, refusal in (("models.example", FetchFailed), (literal, SourceRefused)):
        with pytest.raises(refusal, match="nothing is fetched from there"):
            Fetcher([".*"]).fetch(f"{scheme}://{host}/m.mar", tmp_path)
    assert asked == []


def test_no_redirect_leads_there_either(url, monkeypatch, tmp_path):
    found = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **named: found(host.replace("inside.example", "169.254.1.1"), *more, **named),
    )
    with pytest.raises(FetchFailed, match="nothing is fetched from there"):
        Fetcher([".*"]).fetch(f"{url}/moved/m.mar?http://inside.example/latest/meta-data", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def proxied(origin, monkeypatch):
    """A proxy that would answer whatever it is asked."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{origin.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[64:ff9b::a9fe:a9fe]", "0xA9FEA9FE", "2852039166", "169.254.43518"]
)
@pytest.mark.usefixtures("proxied")
def test_behind_a_proxy_no_address_of_credentials_is_asked_for(tmp_path, host):
    with pytest.raises(SourceRefused, match="nothing is fetched from there"):
        Fetcher([".*"]).fetch(f"http://{host}/latest/m.mar", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("proxied")
def test_behind_a_proxy_no_name_of_such_an_address_is_asked_for(monkeypatch, tmp_path):
    found = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **named: found(
            "169.254.169.254" if host == "metadata.example" else host, *more, **named
        ),
    )
    with pytest.raises(SourceRefused, match="nothing is fetched from there"):
        Fetcher([".*"]).fetch("http://metadata.example/m.mar", tmp_path)


@pytest.mark.usefixtures("proxied")
def test_what_only_a_proxy_can_look_up_is_fetched_through_it(monkeypatch, tmp_path):
    """Where a network has no names but the proxy's, its archives come all the same."""
    found = socket.getaddrinfo

    def unknown(host, *more, **named):
        if host == "inside.example":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return found(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert Fetcher([".*"]).fetch("http://inside.example/m.mar", tmp_path).read_bytes() == CONTENT


def test_a_name_is_asked_for_once_and_what_was_looked_at_is_connected_to(url, origin, monkeypatch, tmp_path):
    """A name that stands for another address each time it is asked for must not get past the look."""
    answers = iter(["127.0.0.1", "169.254.169.254"])
    found = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *more, **named: found(
            next(answers) if host == "twice.example" else host, *more, **named
        ),
    )
    place = f"http://twice.example:{origin.server_port}/file/m.mar"
    assert Fetcher(["http://twice[.]example.*"]).fetch(place, tmp_path).read_bytes() == CONTENT


def test_a_file_of_this_machine_is_fetched_where_it_is_allowed(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "m.mar").write_bytes(CONTENT)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "ours" / "link.mar").symlink_to(tmp_path / "secret")
    fetcher = Fetcher([f"file://{re.escape(str(tmp_path))}/ours/.*"])
    (tmp_path / "in").mkdir()
    assert fetcher.fetch(f"file://{tmp_path}/ours/m.mar", tmp_path / "in").read_bytes() == CONTENT
    for refused in (f"file://{tmp_path}/secret", f"file://{tmp_path}/ours/link.mar"):
        with pytest.raises(SourceRefused):
            fetcher.fetch(refused, tmp_path / "in")
    with pytest.raises(FetchFailed):
        fetcher.fetch(f"file://{tmp_path}/ours/none.mar", tmp_path / "in")


def test_the_store_unpacks_what_was_fetched_and_keeps_nothing_else(origin, url, tmp_path):
    archive = tmp_path / "m.mar"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("MAR-INF/MANIFEST.json", '{"model": {"handler": "h.py"}}')
        made.writestr("h.py", "")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    store = Store(unpacked, fetcher=Fetcher([f"{url}/.*"]))
    origin.content = archive.read_bytes()
    try:
        spec = store.read_archive(tmp_path, f"{url}/unmeasured/fetched-model.mar?signature=secret")
    finally:
        origin.content = b""
    assert (spec.name, spec.url) == ("fetched_model", f"{url}/unmeasured/fetched-model.mar")
    assert len(list(unpacked.iterdir())) == 1
    store.release(spec)
    with pytest.raises(ModelLoadFailed):
        store.read_archive(tmp_path, f"{url}/file/no-archive.mar")
    assert list(unpacked.iterdir()) == []
