"""The launchers are scripts beside each other; tests import them the way they import each other."""

import sys
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"
sys.path.insert(0, str(LAUNCH))
