"""Files written atomically, and JSON Lines read as far as they are complete."""

import contextlib
import errno
import json
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from mmjax.types import UserError

logger = logging.getLogger(__name__)


def read_regular(path: Path) -> bytes:
    """The content of a regular file; raises OSError for others: a FIFO would wait for ever, a device never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return path.read_bytes()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file atomically; makes its folder.

    Raises:
        UserError: where it cannot be written; a previous file is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    write_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


UNREADABLE = (OSError, ValueError, RecursionError)  # what json raises for a file that is damaged


def finite(value: Any) -> TypeGuard[float]:
    """Whether a value from a file is a number that a float can hold."""
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:
        return False


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file that only informs; empty where there is none or, with a warning, it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        return {}
    except UNREADABLE as error:
        logger.warning("%s: is damaged and left out: %s", path, " ".join(str(error).split()))
        return {}
    return value


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Yields the flat objects of a JSON Lines file. Other lines, such as a half-written one, are skipped."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except UNREADABLE:
                continue
            if isinstance(row, dict) and not any(isinstance(value, (dict, list)) for value in row.values()):
                yield row
