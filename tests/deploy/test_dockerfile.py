"""What the Dockerfile promises, as far as its text tells; test_image.py builds it and asks the server in it."""

import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from board_kit import ROOT

from mooring.config.settings import DEFAULTS
from mooring.config.sources.loading import load_config

DOCKERFILE = ROOT / "deploy/Dockerfile"
HEALTHCHECK = ROOT / "deploy/container/healthcheck.py"


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage: the word and what follows, on one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found: list[list[tuple[str, str]]] = [[]]
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            if word == "FROM":
                found.append([])
            found[-1].append((word, rest.strip()))
    return found


FINAL = stages()[-1]


def last(word: str) -> str:
    return [rest for each, rest in FINAL if each == word][-1]


def test_it_is_built_in_stages_from_a_base_that_can_be_chosen():
    before, base, build, final = stages()
    assert [word for word, _ in before] == ["ARG"]
    assert base[0] == ("FROM", "${BASE} AS base")
    assert build[0] == ("FROM", "base AS build")
    assert final[0] == ("FROM", "base")
    assert not [rest for word, rest in final if word == "RUN" and "pip" in rest]


def test_the_server_is_a_user_without_rights_and_its_number_is_given():
    """Kubernetes' runAsNonRoot knows only numbers."""
    assert last("USER") == "1000:1000"
    after = FINAL[FINAL.index(("USER", "1000:1000")) + 1 :]
    assert {word for word, _ in after} <= {"EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}


def test_models_can_be_added_by_an_image_made_from_it():
    volumes = [rest for word, rest in FINAL if word == "VOLUME"]
    assert volumes == ["/tmp"]


def test_every_file_that_is_copied_is_there_and_not_ignored():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source
        for stage in stages()
        for word, rest in stage
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert len(copied) >= 6
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == each or source.startswith(f"{each}/") for each in allowed), source


def test_the_versions_are_those_of_the_tests():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    (torch,) = [rest.partition("=")[2] for word, rest in stages()[2] if rest.startswith("TORCH=")]
    assert torch in pins


def test_the_ports_are_those_of_the_server_and_others_reach_what_they_may():
    config = load_config({}, {"MOORING_CONFIG": str(ROOT / "deploy/container/config.toml")})
    addresses = [
        getattr(config, f"{name}_address")
        for name in ("inference", "management", "metrics", "grpc", "grpc_management")
    ]
    assert last("EXPOSE").split() == [str(each.port) for each in addresses]
    assert [each.port for each in addresses] == [8080, 8081, 8082, 7070, 7071]
    open_ports = [each.port for each in addresses if not each.loopback]
    assert open_ports == [8080, 8082, 7070]
    assert DEFAULTS.inference_address.port == 8080


def test_the_health_check_is_a_file_of_the_image():
    command = last("HEALTHCHECK").partition("CMD ")[2]
    assert command == '["python3", "/opt/mooring/healthcheck.py"]'
    assert ("COPY", "deploy/container/healthcheck.py /opt/mooring/healthcheck.py") in FINAL


@pytest.mark.processes
@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_asks_whether_the_server_is_ready(status, code):
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/v2/health/ready" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        url = f"http://127.0.0.1:{server.server_port}/v2/health/ready"
        if status is None:
            server.server_close()
        else:
            Thread(target=server.handle_request).start()
        done = subprocess.run(
            [sys.executable, HEALTHCHECK], capture_output=True, text=True, check=False, timeout=30,
            env=os.environ | {"HEALTHCHECK_URL": url, "http_proxy": "http://127.0.0.1:9"},
        )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith(url) == bool(code)
    assert "Traceback" not in done.stderr
