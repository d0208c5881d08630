"""Tests of the console talk to a listener as those of the protocols do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "protocols"))
