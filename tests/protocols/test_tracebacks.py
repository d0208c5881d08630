"""The line of a model's own code that a traceback names."""

import traceback

import pytest

from mooring.protocols.tracebacks import find_own_line

OWN = '  File "/models/m/1/model.py", line 3, in infer\n    f()\n'
LIBRARY = '  File "/venv/lib/python3.11/site-packages/torch/nn.py", line 90, in f\n    g()\n'
STANDARD = '  File "/usr/lib/python3.11/json/decoder.py", line 1, in decode\n'


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        (OWN, "model.py, line 3, in infer"),
        (OWN + LIBRARY + STANDARD, "model.py, line 3, in infer"),
        (
            OWN + '  File "/models/m/1/parts.py", line 8, in Parts.__init__\n',
            "parts.py, line 8, in Parts.__init__",
        ),
        (LIBRARY, ""),
        ('  File "<frozen importlib._bootstrap>", line 241, in f\n', ""),
        ("", ""),
    ],
)
def test_the_last_line_of_the_models_own_code_is_found(trace, line):
    assert find_own_line(trace) == line


def test_frames_of_the_server_itself_are_passed_over():
    try:
        find_own_line(None)
    except TypeError:
        assert find_own_line(traceback.format_exc()).startswith("test_tracebacks.py, line ")
