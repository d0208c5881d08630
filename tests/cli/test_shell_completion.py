"""The script of ``mooring completion``, run by the shells that are there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(sys.executable).parent


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_defines_the_completion_of_mooring_and_says_how_to_install_it(mooring, shell):
    script = mooring("completion", shell).output
    assert "_MOORING_COMPLETE" in script
    assert f"{shell}_complete" in script
    assert f"mooring completion {shell} >" in mooring("completion", "--help").output


def test_another_shell_is_told_which_there_are(mooring):
    done = mooring("completion", "tcsh")
    assert done.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("bash") is None, reason="this machine has no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["s"], {"serve"}),
        (["models", "l"], {"list", "load"}),
        (["serve", "--log-fo"], {"--log-format", "--log-folder"}),
        (["serve", "--log-format", ""], {"text", "json", "torchserve"}),
        (["serve", "--dev"], {"--device"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_commands_options_and_values(tmp_path, words, offered):
    line = " ".join(f"'{word}'" for word in ["mooring", *words])
    asked = (
        f'eval "$(mooring completion bash)"; COMP_WORDS=({line}); COMP_CWORD={len(words)};'
        ' _mooring_completion mooring; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", asked],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == offered, done.stderr
