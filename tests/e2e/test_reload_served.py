"""``mooring serve --reload``: edited files are loaded anew, and nobody who asks meanwhile notices but by the answers."""

import json
import shutil
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest
from e2e_kit import PATIENCE, Server, Wire, request, until

pytestmark = pytest.mark.processes

CLIENTS = 8
EDITS = 20
FUNCTION = (
    "import helper\n\n\ndef number(inputs):\n    return {{'number': inputs['x'] * 0 + {} + helper.ADDED}}\n"
)


class Clients:
    """Threads that ask all the time. ``failed`` has every answer that was none, and ``last`` the newest one."""

    def __init__(self, port):
        self.failed, self.asked, self.last = [], 0, None
        self._port, self._ended = port, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def _ask(self):
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        while not self._ended.wait(0.002):
            try:
                connection.request(
                    "POST", "/predictions/number", '{"x": [1]}', {"content-type": "application/json"}
                )
                response = connection.getresponse()
                body = response.read()
            except OSError as error:
                self.failed.append(repr(error))
                connection.close()
                continue
            self.asked += 1
            if response.status == 200:
                self.last = json.loads(body)["number"][0]
            else:
                self.failed.append((response.status, body))
        connection.close()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._ended.set()
        for thread in self._threads:
            thread.join()


def write(file, text, *, by_renaming=False):
    """Write as editors do: into the file, or into another that takes its place."""
    if by_renaming:
        other = file.with_name(f".{file.name}.new")
        other.write_text(text)
        other.rename(file)
    else:
        file.write_text(text)


@contextmanager
def reloading(folder, *more):
    (folder / "helper.py").write_text("ADDED = 0\n")
    write(folder / "number.py", FUNCTION.format(0))
    server = Server(folder, "number=number:number", "--reload", *more)
    try:
        yield server.started()
        assert server.stop() == 0
    finally:
        server.kill()


def number(server):
    return server.ask("POST", "/predictions/number", b'{"x": [1]}', "content-type: application/json").json()[
        "number"
    ][0]


def test_every_edit_is_served_and_no_request_fails(tmp_path):
    with reloading(tmp_path) as server, Clients(server.port) as clients:
        for edit in range(1, EDITS + 1):
            write(tmp_path / "number.py", FUNCTION.format(edit), by_renaming=bool(edit % 2))
            until(lambda edit=edit: clients.last == edit)
        assert clients.asked > 20 * CLIENTS
    assert clients.failed == []
    assert server.log.count(" reloaded model=number") == EDITS


def test_code_that_cannot_be_loaded_leaves_the_old_one_and_says_where_it_is_wrong(tmp_path):
    with reloading(tmp_path) as server:
        write(tmp_path / "helper.py", "# nothing here\nADDED = nowhere\n")
        until(lambda: "not reloaded model=number" in server.log)
        assert number(server) == 0
        (line,) = [line for line in server.log.splitlines() if "not reloaded" in line]
        assert f"{tmp_path}/helper.py, line 2: " in line
        assert "NameError: name 'nowhere' is not defined" in line
        write(tmp_path / "helper.py", "ADDED = 5\n")
        until(lambda: number(server) == 5)
        assert server.log.count(" reloading model=number changed=helper.py") == 2


def test_quick_saves_are_one_reload_and_what_is_no_source_is_none(tmp_path):
    with reloading(tmp_path, "--workers", "2") as server:
        for added in range(1, 6):
            write(tmp_path / "helper.py", f"ADDED = {added}\n")
            time.sleep(0.01)
        until(lambda: number(server) == 5)
        for name in ("__pycache__", ".venv"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "new.py").write_text("x = 1\n")
        (tmp_path / ".number.py.swp").write_text("x")
        (tmp_path / "data.csv").write_text("x")
        time.sleep(1.3)  # the files are looked at once a second, whatever the system tells
        assert server.log.count(" reloading ") == 1
        assert len(server.workers("number")) == 2


def test_a_package_beside_the_file_and_a_folder_that_comes_later_are_followed(tmp_path):
    with reloading(tmp_path) as server:
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / "__init__.py").write_text("VALUE = 1\n")
        until(lambda: " reloaded " in server.log)
        write(tmp_path / "helper.py", "from parts import VALUE as ADDED\n")
        until(lambda: number(server) == 1)
        write(tmp_path / "parts" / "__init__.py", "VALUE = 2\n")
        until(lambda: number(server) == 2)


def test_a_model_that_could_not_be_loaded_at_the_start_serves_once_its_file_is_mended(tmp_path):
    (tmp_path / "number.py").write_text(FUNCTION.format(1))  # and there is no helper
    server = Server(tmp_path, "number.py:number", "--reload")
    try:
        until(lambda: "model failed" in server.log)
        until(lambda: "Mooring is up." in server.log)
        (tmp_path / "helper.py").write_text("ADDED = 1\n")
        until(lambda: " reloaded model=number" in server.log)
        assert number(server) == 2
        assert server.stop() == 0
    finally:
        server.kill()


def test_workers_that_an_operator_has_set_stay_until_the_configuration_names_others(tmp_path):
    with reloading(tmp_path) as server:
        with Wire(server.ports[1]) as management:
            management.send(request("PUT", "/models/number?min_worker=2&synchronous=true"))
            assert management.answer().status == "200 OK"
        for added in (1, 2):
            write(tmp_path / "helper.py", f"ADDED = {added}\n")
            until(lambda added=added: number(server) == added)
            until(lambda: len(server.workers("number")) == 2)


def test_what_a_folder_does_not_say_any_more_is_not_served_any_more(tmp_path):
    folder = tmp_path / "model"
    (folder / "1").mkdir(parents=True)
    for place in ("2", "3"):
        (folder / place).mkdir()
        write(folder / place / "model.py", f"def infer(x: int) -> int:\n    return {place}\n")
    write(folder / "1" / "model.py", "def infer(x: int) -> int:\n    return 1\n")
    server = Server(tmp_path, "model", "taken=number.py:number", "--reload")
    write(
        tmp_path / "number.py", FUNCTION.format(0).replace("import helper", "").replace(" + helper.ADDED", "")
    )

    def answer(name):
        got = server.ask("POST", f"/predictions/{name}", b"1", "content-type: application/json")
        return got.json() if got.status == "200 OK" else int(got.status[:3])

    try:
        server.started()
        assert answer("model") == 3
        shutil.rmtree(folder / "3")
        until(lambda: answer("model") == 2)
        assert answer("model/3") == 404
        write(folder / "config.toml", 'name = "taken"\n')
        until(lambda: "as another model is called that is served already" in server.log)
        assert answer("model") == 2
        write(folder / "config.toml", 'name = "other"\n')
        until(lambda: answer("model") == 404)
        assert answer("other") == 2
        (folder / "config.toml").unlink()
        until(lambda: answer("other") == 404)
        assert answer("model") == 2
        assert server.stop() == 0
    finally:
        server.kill()


def test_code_that_hangs_keeps_nobody_from_mending_it_or_from_ending_the_server(tmp_path):
    with reloading(tmp_path) as server:
        write(tmp_path / "helper.py", "while True:\n    pass\n")
        until(lambda: " reloading model=number" in server.log)
        time.sleep(0.5)  # it is being loaded
        write(tmp_path / "helper.py", "ADDED = 1\n")
        until(lambda: number(server) == 1)
        write(tmp_path / "helper.py", "while True:\n    pass\n")
        until(lambda: server.log.count(" reloading model=number") == 3)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 20
