"""Make a virtual environment for every peer, each with its own pinned packages; a peer that is there stays.

    python benchmarks/peers/install.py [NAME ...]

They go to `PEERS`, by default `.peers` beside this repository's `.venv`, and need some ten gigabytes.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(os.environ.get("PEERS", Path(__file__).parents[2] / ".peers"))
TORCH = "torch==2.13.0"

# TorchServe also needs Java 17. The server of Triton is the one that PyTriton brings.
PACKAGES = {
    "fastapi": ["fastapi==0.165.0", "uvicorn[standard]==0.54.0", "python-multipart==0.0.34", "numpy==2.4.6"],
    "pytriton": ["nvidia-pytriton==0.7.0"],
    "torchserve": ["torchserve==0.12.0", "torch-model-archiver==0.12.0", "numpy==2.4.6", "psutil", "pyyaml"],
    "kserve": ["kserve==0.21.0", "numpy==2.4.6"],
    # Its workers do not start with a newer uvloop.
    "mlserver": ["mlserver==1.7.1", "uvloop==0.21.0", "numpy==2.4.6"],
    "litserve": ["litserve==0.2.19", "python-multipart==0.0.34", "numpy==2.4.6"],
    "bentoml": ["bentoml==1.4.39", "numpy==2.4.6"],
    "ray_serve": ["ray[serve]==2.60.0"],
}
# Those of which no model needs torch.
WITHOUT_TORCH = {"ray_serve"}


def python(peer: str) -> Path:
    """Return the interpreter of a peer's environment."""
    return PEERS / peer / "bin" / "python"


def installed(peer: str) -> bool:
    """Return whether the environment of a peer is complete."""
    return (PEERS / peer / ".complete").exists()


def install(peer: str) -> None:
    """Make the environment of a peer. Raises ``CalledProcessError`` when pip fails."""
    folder = PEERS / peer
    venv.create(folder, clear=True, with_pip=True)
    for packages in ([] if peer in WITHOUT_TORCH else [TORCH], PACKAGES[peer]):
        if not packages:
            continue
        subprocess.run([python(peer), "-m", "pip", "install", "--quiet", *packages], check=True)
    (folder / ".complete").touch()


def versions(peer: str) -> dict[str, str]:
    """Return the installed packages of a peer with their versions."""
    lines = subprocess.run(
        [python(peer), "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    ).stdout.split()
    return dict(line.split("==", 1) for line in lines if "==" in line)


if __name__ == "__main__":
    for name in sys.argv[1:] or PACKAGES:
        if installed(name):
            print(f"{name}: there already")
        else:
            print(f"{name}: installing into {PEERS / name}", flush=True)
            install(name)
