"""The tests of what stands in deploy/ may import the scripts that write it, and the kit of the end-to-end tests."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/e2e")]
