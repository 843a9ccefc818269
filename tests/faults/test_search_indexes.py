"""Kept indexes of `mmjax search`: shards that are none are written again, and what is not finite is not searched."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mmjax.commands import index as index_module
from mmjax.commands.index import nearest, update
from mmjax.data import shard_cache

KEY = {"of": "images"}
NAMES = dict.fromkeys("abcde", (1, 7))
ROWS = np.eye(5, 7, dtype=np.float32)


def embed(names: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    yield list(names), ROWS[["abcde".index(name) for name in names]]


def damage(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Rewrites the only shard with other arrays, with their checksums in the index."""
    cache = shard_cache.read_cache(folder, index_module.KIND, KEY)
    assert cache is not None
    (shard,) = cache.shards
    arrays = load_file(folder / shard.file)
    change(arrays)
    cache.shards = []
    shard_cache.write_arrays(cache, shard.start, shard.size, arrays)


def without_last(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays.update({name: arrays[name][:-1]})


def names(text: bytes) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays.update(names=np.frombuffer(text, np.uint8))


DAMAGES: dict[str, Callable[[dict[str, np.ndarray]], Any]] = {
    "rows": without_last("embeddings"),
    "all rows": lambda arrays: arrays.update({name: arrays[name][:2] for name in ("embeddings", "stamps")}),
    "stamps": without_last("stamps"),
    "width": lambda arrays: arrays.update(embeddings=arrays["embeddings"][:, :3]),
    "type": lambda arrays: arrays.update(embeddings=arrays["embeddings"].astype(np.int32)),
    "nan": lambda arrays: arrays.update(embeddings=arrays["embeddings"] * np.float32(np.nan)),
    "infinite": lambda arrays: arrays["embeddings"].__setitem__((0, 0), np.inf),
    "no names": lambda arrays: arrays.pop("names"),
    "numbers": names(b"1\n2\n3\n4\n5\n"),
    "one name": names(b'"abcde"\n'),
    "no JSON": names(b"\xff\n" * 5),
    "deep": names(b"[" * 100_000 + b"\n"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_shard_that_is_none_is_written_again(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    update(tmp_path, KEY, NAMES, embed, width=7)
    damage(tmp_path, DAMAGES[kind])
    found = update(tmp_path, KEY, NAMES, embed, width=7)
    assert found is not None and found.names == list(NAMES)
    np.testing.assert_array_equal(found.embeddings, ROWS)
    (told,) = caplog.messages
    assert told.startswith(str(next(tmp_path.glob("*.safetensors")))) and "\n" not in told
    assert nearest(found, ROWS[2], 1)[0].tolist() == [2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=40), width=st.integers(0, 9), count=st.integers(0, 6))
def test_any_shard_is_taken_or_written_again(text: bytes, width: int, count: int, tmp_path: Path) -> None:
    update(tmp_path, KEY, NAMES, embed, rebuild=True, width=7)
    damage(tmp_path, lambda arrays: arrays.update(embeddings=np.ones((count, width), np.float32)))
    damage(tmp_path, names(text))
    found = update(tmp_path, KEY, NAMES, embed, width=7)
    assert found is not None and found.embeddings.tolist() == ROWS.tolist()


def test_what_a_model_gives_that_is_not_finite_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def overflowing(names: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        for some, rows in embed(names):
            yield some, np.where(np.array(some)[:, None] == "b", np.float32(np.nan), rows)

    found = update(tmp_path, KEY, NAMES, overflowing, width=7)
    assert found is not None and found.names == list("acde") and np.isfinite(found.embeddings).all()
    (told,) = caplog.messages
    assert "left out: 1 " in told and told.endswith(": b")
