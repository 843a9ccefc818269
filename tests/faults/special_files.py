"""Files that are none: without an end, larger than any memory, or nowhere."""

import os
from pathlib import Path


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(6 << 30)  # sparse


ENDLESS = [make_fifo, make_device, make_large]
