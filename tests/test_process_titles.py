"""Processes say in ps what they are, whatever a model is called, and keep what else the kernel says of them."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.process_titles import format_title


@given(st.lists(st.text(st.characters()), max_size=3))
def test_no_name_of_a_model_acts_on_a_terminal_or_grows_the_title(words):
    title = format_title(*words)
    assert title.isprintable()
    assert len(title) <= len("mooring:") + 41 * len(words)
    title.encode()


def test_a_long_name_is_cut_where_one_sees_it():
    assert format_title("worker", "m" * 41, "1") == f"mooring: worker {'m' * 37}... 1"
    assert format_title("worker", "m" * 40, "1") == f"mooring: worker {'m' * 40} 1"


@pytest.mark.skipif(sys.platform != "linux", reason="processes have titles on Linux")
def test_a_process_shows_its_title_and_still_its_environment():
    code = (
        "import os, time; from mooring.process_titles import set_process_title; set_process_title('worker', 'm', '1');"
        "title = lambda: (time.perf_counter(), set_process_title('worker', 'm', '2'), time.perf_counter());"
        "took = min(ended - begun for begun, _, ended in (title() for _ in range(20)));"
        "print(took, 'SPT_NOENV' in os.environ);"
        "print(open('/proc/self/cmdline').read().rstrip(chr(0)));"
        "print('SEEN=here' in open('/proc/self/environ').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"SEEN": "here"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, title, environment = done.stdout.splitlines()
    assert (title.strip(), environment) == ("mooring: worker m 2", "True")
    took, left = first.split()
    assert (float(took) < 0.001, left) == (True, "False")
