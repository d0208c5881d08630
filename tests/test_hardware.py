"""Devices are read from what the kernel and the drivers show, in folders made up here."""

import os
import subprocess
import sys

import pytest

from mooring import hardware


def put(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """An ``nvidia-smi`` to order, and no other."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def make(script):
        put(tmp_path, "bin/nvidia-smi", f"#!{sys.executable}\n{script}\n")
        (tmp_path / "bin/nvidia-smi").chmod(0o755)

    return make


def test_the_cpu_is_counted_in_cores_this_process_may_use():
    assert hardware.find_devices()["CPU"] == len(os.sched_getaffinity(0))


def test_devices_are_looked_up_once():
    assert hardware.find_devices() is hardware.find_devices()


def test_nvidia_cards_are_read_from_their_driver(tmp_path, tool):
    tool("print('not asked')")
    for bus in ("0000:17:00.0", "0000:65:00.0"):
        put(
            tmp_path,
            f"proc/driver/nvidia/gpus/{bus}/information",
            "Model: \t\t NVIDIA H200\nIRQ:   \t\t 77\n",
        )
    assert list(hardware._find_accelerators(tmp_path)) == ["NVIDIA H200", "NVIDIA H200"]


def test_nvidia_cards_are_asked_of_the_tool_where_the_driver_shows_none(tmp_path, tool):
    tool("import sys; print('NVIDIA L4') if '--query-gpu=name' in sys.argv else sys.exit(2)")
    assert list(hardware._find_accelerators(tmp_path)) == ["NVIDIA L4"]


def test_a_tool_without_a_driver_is_no_card(tmp_path, tool):
    tool("import sys; print('NVIDIA-SMI has failed'); sys.exit(9)")
    assert list(hardware._find_accelerators(tmp_path)) == []


def test_a_tool_that_hangs_is_no_card(tmp_path, tool, monkeypatch):
    tool("import time; time.sleep(60)")
    monkeypatch.setattr(hardware, "_TOOL_TIMEOUT", 0.05)
    assert list(hardware._find_accelerators(tmp_path)) == []


def test_amd_cards_are_read_from_the_kernel_and_others_are_not_counted(tmp_path, tool):
    for card, vendor, product in (
        ("card0", "0x1002", "AMD Instinct MI300X"),
        ("card0-DP-1", "0x1002", "an output"),
        ("card1", "0x8086", "an Intel one"),
        ("card2", "0x1002", ""),
    ):
        put(tmp_path, f"sys/class/drm/{card}/device/vendor", f"{vendor}\n")
        put(tmp_path, f"sys/class/drm/{card}/device/device", "0x74a1\n")
        put(tmp_path, f"sys/class/drm/{card}/device/product_name", f"{product}\n")
    assert list(hardware._find_accelerators(tmp_path)) == ["AMD Instinct MI300X", "AMD GPU 0x74a1"]


def test_nothing_to_read_is_no_device(tmp_path, tool):
    assert list(hardware._find_accelerators(tmp_path)) == []


def test_looking_needs_no_library_of_the_devices():
    code = "import sys, mooring.hardware; mooring.hardware.find_devices(); print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
