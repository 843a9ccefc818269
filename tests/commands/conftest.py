"""Lets the tests here import runs, and gives them its fixtures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from runs import run_command, start_command, user_mistake

__all__ = ["run_command", "start_command", "user_mistake"]
