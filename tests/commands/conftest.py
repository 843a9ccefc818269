"""Lets the tests here import runs, and gives them its fixtures."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from runs import (
    made_once,
    run_command,
    start_command,
    trained_in_two_stages,
    user_mistake,
    workdir_that_describes,
)

__all__ = [
    "made_once",
    "run_command",
    "start_command",
    "trained_in_two_stages",
    "user_mistake",
    "workdir_that_describes",
]
