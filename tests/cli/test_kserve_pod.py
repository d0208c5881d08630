"""What a pod of KServe's gives a server: a folder that may come late, and variables that nobody may have filled in."""

import pytest
from click import ClickException

from mooring.cli import _is_server_start
from mooring.cli.kserve_pod import explain_envelope, read_pod_variables, wait_for_folder
from mooring.config.settings import Config


class Time:
    """A clock that only sleeping moves; ``arrive`` is called at a time."""

    def __init__(self, at=float("inf"), arrive=lambda: None):
        self.now, self._at, self._arrive = 1000.0, 1000.0 + at, arrive

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.now >= self._at:
            self._at = float("inf")
            self._arrive()


def test_a_folder_that_is_there_is_not_waited_for(tmp_path, capsys):
    wait_for_folder(tmp_path, sleep=lambda _seconds: pytest.fail("it slept"))
    assert capsys.readouterr().err == ""


def test_a_link_that_comes_later_is_waited_for_and_the_log_says_so(tmp_path, capsys):
    (tmp_path / "image").mkdir()
    folder = tmp_path / "models"
    time = Time(40, lambda: folder.symlink_to(tmp_path / "image"))
    wait_for_folder(folder, limit=600, clock=time.clock, sleep=time.sleep)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"Waiting for {folder}, for 600 seconds at most"
    assert len(lines) == 3  # every 15 seconds


def test_a_folder_that_never_comes_ends_the_start_and_is_named(tmp_path):
    folder = tmp_path / "models"
    folder.symlink_to("/proc/0/models")
    time = Time()
    with pytest.raises(ClickException) as ended:
        wait_for_folder(folder, limit=20, clock=time.clock, sleep=time.sleep)
    text = ended.value.message
    assert text.startswith(
        f"{folder} is not there after 20 seconds (it is a link to /proc/0/models, which is not): "
    )


def test_a_folder_that_this_user_may_not_look_at_yet_is_waited_for(tmp_path):
    class Closed(type(tmp_path)):
        def is_dir(self):
            raise PermissionError(13, "Permission denied")

    time = Time()
    with pytest.raises(ClickException, match=r"after 20 seconds \(Permission denied\)"):
        wait_for_folder(Closed(tmp_path), limit=20, clock=time.clock, sleep=time.sleep)


@pytest.mark.parametrize(
    "text", ["", " ", "{{.Labels.serviceEnvelope}}", "{{ .Labels.serviceEnvelope }}", "<no value>"]
)
def test_an_envelope_that_nobody_filled_in_is_none(text):
    environ = {"TS_SERVICE_ENVELOPE": text, "PROTOCOL_VERSION": "v2"}
    assert read_pod_variables(environ) == []
    assert "TS_SERVICE_ENVELOPE" not in environ


@pytest.mark.parametrize("text", ["kserve", "kservev2"])
def test_an_envelope_that_is_filled_in_stays(text):
    environ = {"TS_SERVICE_ENVELOPE": text, "PROTOCOL_VERSION": "grpc-v2"}
    assert read_pod_variables(environ) == []
    assert environ["TS_SERVICE_ENVELOPE"] == text


def test_what_means_nothing_is_named():
    named = {"MODEL_LOAD_DELAY": "30", "MODEL_LOAD_CUSTOMIZED": "true", "PROTOCOL_VERSION": "v3"}
    protocol, loading = read_pod_variables(named)
    assert protocol == "PROTOCOL_VERSION=v3 is none of v1, v2, grpc-v2; all of them are served"
    assert loading.startswith("not applicable here: MODEL_LOAD_CUSTOMIZED, MODEL_LOAD_DELAY (")


def test_an_envelope_that_does_not_count_is_named():
    given = {"TS_SERVICE_ENVELOPE": "kserve"}
    (line,) = explain_envelope(given, Config())
    assert (
        line == "TS_SERVICE_ENVELOPE=kserve counts only with enable_envvars_config=true; the envelope is none"
    )
    assert explain_envelope(given, Config(enable_envvars_config=True)) == []
    assert explain_envelope(given, Config(service_envelope="kserve")) == []
    assert explain_envelope({}, Config()) == []


@pytest.mark.parametrize(
    ("arguments", "here"),
    [
        ("torchserve --start", False),
        ("torchserve --start --foreground", True),
        ("torchserve --start --model-store=/mnt/models/model-store", True),
        ("torchserve --start --model-store /mnt/models/model-store", True),
        ("torchserve --stop --model-store=/mnt/models/model-store", False),
        ("torchserve --install-aliases=/mnt/models", False),
        ("serve app.py", True),
        ("serve --help", False),
    ],
)
def test_a_start_of_kserves_stays_in_the_foreground(arguments, here):
    assert _is_server_start(arguments.split()) is here


def test_process_1_stays_in_the_foreground(monkeypatch):
    monkeypatch.setattr("os.getpid", lambda: 1)
    assert _is_server_start(["torchserve", "--start"])
    assert not _is_server_start(["torchserve", "--stop"])
