"""Which function of which file is the handler, and what is said when there is none (2.2)."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from mooring.core.errors import ModelLoadFailed

ECHO = """
class Echo:
    def initialize(self, context):
        self.seen = context.system_properties["model_dir"]

    def handle(self, data, context):
        return [row["body"] for row in data]
"""


@pytest.mark.parametrize("entry", ["handler.py", "handler", "folder/handler.py", "/home/somebody/handler.py"])
def test_a_class_is_found_whatever_way_its_file_is_written(load, entry):
    assert load(ECHO, entry).body(b"hello") == b"hello"


def test_imported_classes_do_not_count(load):
    source = (
        f"from collections import OrderedDict\nfrom ts.torch_handler.base_handler import BaseHandler\n{ECHO}"
    )
    assert load(source).body(b"x") == b"x"


def test_a_function_is_called_once_with_no_data_and_then_with_every_batch(load):
    source = """
        calls = []
        def handle(data, context):
            calls.append(data is None)
            return [len(calls)] if data is not None else None
    """
    model = load(source)
    assert model.body() == b"2"
    assert model.body() == b"3"


def test_a_function_of_another_name_is_named_after_a_colon(load):
    source = """
        class NotThis: ...
        class NorThis: ...
        def answer(data, context):
            return None if data is None else ["yes"]
    """
    assert load(source, "handler.py:answer").body() == b"yes"


def test_a_function_named_handle_goes_before_classes(load):
    source = ECHO + "\ndef handle(data, context):\n    return data and ['function']\n"
    assert load(source).body() == b"function"


def test_a_class_needs_no_initialize(load):
    assert load("class H:\n    def handle(self, data, context):\n        return ['bare']\n").body() == b"bare"


@pytest.mark.parametrize(
    ("source", "entry", "message"),
    [
        (ECHO + "class Other: ...", "handler.py", "exactly one class of its own; it has Echo, Other"),
        ("x = 1", "handler.py", "it has none"),
        ("class H: ...", "handler.py", "class 'H' of handler 'handler.py' has no method 'handle'"),
        (ECHO, "handler.py:nothing", "has no function 'nothing'"),
        (ECHO, "missing.py", "no handler 'missing'"),
        (ECHO, "", "the manifest names no handler"),
        ("import nosuchmodule", "handler.py", "ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("raise RuntimeError('no weights')", "handler.py", "RuntimeError: no weights"),
        ("def handle(data, context): raise KeyError('x')", "handler.py", "KeyError: 'x'"),
        ("def handle(:", "handler.py", "SyntaxError"),
    ],
)
def test_a_handler_that_cannot_be_had_is_said_with_its_reason(load, source, entry, message):
    with pytest.raises(ModelLoadFailed) as caught:
        load(source, entry)
    assert message in caught.value.message


def test_the_traceback_of_a_failed_load_is_kept(load):
    with pytest.raises(ModelLoadFailed) as caught:
        load(
            "class H:\n    def initialize(self, c):\n        return self.missing\n    def handle(self, d, c): ..."
        )
    assert "handler.py" in caught.value.detail
    assert "return self.missing" in caught.value.detail


def test_the_end_of_the_process_is_not_swallowed(load):
    with pytest.raises(SystemExit):
        load("import sys\nsys.exit(3)")


def test_a_missing_folder_is_said(load, tmp_path, monkeypatch):
    tmp_path.rename(tmp_path.with_name("gone"))
    with pytest.raises(ModelLoadFailed, match="is not there"):
        load({})


def test_the_working_directory_is_the_models_folder(load, tmp_path):
    source = "import os\ndef handle(data, context):\n    return [os.getcwd()] if data else None\n"
    assert load(source).body(b"x") == str(tmp_path.resolve()).encode()
    assert Path.cwd() == tmp_path.resolve()


def test_files_beside_the_handler_are_importable(load):
    files = {
        "handler.py": "from neighbor import WORD\ndef handle(data, context):\n    return data and [WORD]\n"
    }
    assert load({**files, "neighbor.py": "WORD = 'near'"}).body() == b"near"


def test_a_handler_may_have_the_name_of_a_module_that_is_loaded_already_and_leaves_it_alone(load):
    source = """
        import json
        def handle(data, context):
            import json as later
            return data and [json.dumps([later is json, "mine"])]
    """
    assert load({"json.py": source}, "json.py").body() == b'[true, "mine"]'
    assert importlib.import_module("json") is json


def test_a_handler_of_a_loaded_name_that_fails_leaves_nothing_behind(load, tmp_path):
    before = set(sys.modules)
    with pytest.raises(ModelLoadFailed, match="no weights"):
        load({"json.py": "raise RuntimeError('no weights')"}, "json.py")
    assert not [name for name in set(sys.modules) - before if str(tmp_path) in name]


def test_another_installed_ts_does_not_win(load, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("site")
    (elsewhere / "ts.py").write_text("__version__ = 'real'")
    for name in [each for each in sys.modules if each.partition(".")[0] == "ts"]:  # of a test before this one
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(elsewhere))
    import ts

    assert ts.__version__ == "real"
    try:
        source = "import ts\ndef handle(data, context):\n    return data and [ts.__version__]\n"
        assert load(source).body() == b"0.12.0"
    finally:
        sys.modules.pop("ts", None)


def test_the_manifest_names_the_handler_where_the_spec_does_not(load):
    assert load(ECHO, "", manifest={"model": {"handler": "handler.py"}}).body(b"x") == b"x"


def test_an_unknown_envelope_is_refused_with_the_known_ones(load):
    with pytest.raises(ModelLoadFailed, match="known are body, json, kserve, kservev2"):
        load(ECHO, envelope="paper")
