"""Lets the tests here import made_data and others beside it; the data sets that several of them read."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_tokens import cached_tokens, copied_tokens
from packed_data import coco, copy, packed, smaller

__all__ = ["cached_tokens", "coco", "copied_tokens", "copy", "packed", "roots", "smaller"]


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small data set for each source; see every_source."""
    pytest.importorskip("tensorflow")
    from every_source import make_roots

    return make_roots(tmp_path_factory.mktemp("roots"))
