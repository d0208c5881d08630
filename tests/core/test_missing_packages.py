"""A package that is not installed is named in one sentence, with the command that installs it."""

import sys
from pathlib import Path

import pytest

from mooring.core import missing_packages
from mooring.core.missing_packages import (
    explain_missing_module,
    install_command,
    install_hint,
    missing_package,
    package_of,
)


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("torch.nn", 'pip install "mooring[torch]"'),
        ("onnxruntime", 'pip install "mooring[onnx]"'),
        ("cryptography", 'pip install "mooring[tls]"'),
        ("sklearn.linear_model", "pip install scikit-learn"),
        ("cv2", "pip install opencv-python"),
        ("PIL.Image", "pip install pillow"),
        ("yaml", "pip install pyyaml"),
        ("torchvision", "pip install torchvision"),
    ],
)
def test_the_command_names_our_extra_or_the_package(module, command):
    assert install_command(module) == command
    assert package_of("google.protobuf") == "protobuf"
    assert (
        missing_package("x", "torch")
        == 'x needs PyTorch, which is not installed: pip install "mooring[torch]"'
    )


def failure_of(folder, source, **beside):
    """What a file of a model raises when it is imported."""
    for name, text in beside.items():
        (folder / f"{name}.py").write_text(text)
    path = folder / "live.py"
    path.write_text(source)
    try:
        exec(compile(source, str(path), "exec"), {"__name__": "live"})
    except ModuleNotFoundError as error:
        return error
    raise AssertionError("nothing was missing")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os\n\nimport sklern", "live.py:3 imports 'sklern', which is not installed: pip install sklern"),
        (
            "def f():\n    import nowhere_to_be_found.deep\nf()",
            "live.py:2 imports 'nowhere_to_be_found', which is not installed: pip install nowhere_to_be_found",
        ),
        (
            "import numpy.nonsense",
            "live.py:1 imports 'numpy.nonsense', which the installed numpy does not have: another version of it may, or the name is misspelt",
        ),
        ("import helpr", "live.py:1 imports 'helpr', and there is no such module; did you mean helper?"),
    ],
)  # fmt: skip
def test_the_line_that_imports_is_named(tmp_path, source, said):
    assert explain_missing_module(failure_of(tmp_path, source, helper=""), tmp_path) == said


def test_a_missing_part_of_python_is_not_looked_for_on_pypi(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", None)
    said = explain_missing_module(failure_of(tmp_path, "import tkinter"), tmp_path)
    assert said == "live.py:1 imports 'tkinter', a part of Python that this installation of it lacks"


def test_the_models_line_is_named_where_a_file_beside_it_imports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    error = failure_of(tmp_path, "import beside_it", beside_it="\nimport gone_for_good\n")
    assert explain_missing_module(error, tmp_path).startswith("beside_it.py:2 imports 'gone_for_good'")


def test_of_a_handler_of_ours_no_line_is_named(tmp_path):
    ours = Path(missing_packages.__file__).with_name("handler_of_ours.py")
    with pytest.raises(ModuleNotFoundError) as raised:
        exec(compile("import gone_for_good", str(ours), "exec"), {})
    said = explain_missing_module(raised.value, tmp_path)
    assert said == "the model needs gone_for_good, which is not installed: pip install gone_for_good"


def test_a_call_whose_import_is_not_found_is_told_how_it_is_installed():
    assert (
        install_hint(ModuleNotFoundError("No module named 'cv2'", name="cv2"))
        == "; pip install opencv-python"
    )
    assert install_hint(ModuleNotFoundError("No module named 'tkinter'", name="tkinter")) == ""
    assert install_hint(ModuleNotFoundError("raised by hand")) == ""
    assert install_hint(ImportError("cannot import name 'x'", name="cv2")) == ""
