"""The cache itself: arrays of any type by position, keys, what is kept and what is repaired."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmjax.data.shard_cache import (
    ArrayReader,
    Cache,
    CacheKind,
    find_corrupt_shards,
    finish,
    gaps,
    key_digest,
    open_cache,
    ragged,
    read_cache,
    write_arrays,
    write_cache,
    write_shard,
)
from mmjax.types import UserError

KIND = CacheKind("latents", "mmjax prepare", "--cache=DIR")
KEY: dict[str, Any] = {"encoder": {"params": "a" * 64, "widths": (3, 5)}, "seed": 7}
TOTAL, SIZE = 17, 5
LATENTS = np.random.default_rng(0).normal(size=(TOTAL, 3, 2)).astype(np.float32)
WORDS = [bytes(range(n % 4)) for n in range(TOTAL)]


def arrays(start: int, stop: int) -> dict[str, np.ndarray]:
    rows = slice(start, stop)
    texts = ragged("words", WORDS[rows]) | ragged("rows", [LATENTS[n, : n % 3] for n in range(start, stop)])
    return {"latents": LATENTS[rows], "half": LATENTS[rows].astype(np.float16), "even": LATENTS[rows, 0, 0] > 0} | texts


def fill(folder: Path, key: dict[str, Any] = KEY, **options: Any) -> tuple[Cache, list[int]]:
    """A complete cache, and the positions at which shards were written."""
    written = []
    with write_cache(folder, KIND, key, {"of": "this"}, **options) as cache:
        for first, last in gaps(cache, TOTAL):
            for start in range(first, last, SIZE):
                write_arrays(cache, start, min(SIZE, last - start), arrays(start, min(start + SIZE, last)))
                written.append(start)
        finish(cache)
    return cache, written


def test_arrays_of_any_type_are_read_by_position(tmp_path: Path) -> None:
    assert fill(tmp_path)[1] == [0, 5, 10, 15]
    reader = ArrayReader(open_cache(tmp_path, KIND, KEY))
    order = np.random.default_rng(1).permutation(TOTAL)[:11]
    for name, expected in {
        "latents": LATENTS,
        "half": LATENTS.astype(np.float16),
        "even": LATENTS[:, 0, 0] > 0,
    }.items():
        found = reader.take(name, order)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected[order])
        np.testing.assert_array_equal(reader.all(name), expected)
    for position in order.tolist():
        assert reader.take_ragged("words", position).tobytes() == WORDS[position]
        np.testing.assert_array_equal(reader.take_ragged("rows", position), LATENTS[position, : position % 3])
    assert reader.positions.tolist() == list(range(TOTAL))


def test_just_the_corrupt_shards_are_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("mmjax").propagate = True
    fill(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    times = {path.name: path.stat().st_mtime_ns for path in before}
    first, third = (tmp_path / f"{start:012d}.safetensors" for start in (0, 10))
    first.write_bytes(before[first][:-1] + bytes([before[first][-1] ^ 1]))
    third.unlink()
    cache = read_cache(tmp_path, KIND, KEY)
    assert cache is not None
    problems = find_corrupt_shards(cache)
    assert list(problems) == [first.name, third.name] and find_corrupt_shards(cache, quick=True) == problems
    with pytest.raises(UserError, match=f"^{first}: its bytes are not those that were written; run mmjax prepare to"):
        open_cache(tmp_path, KIND, KEY)
    caplog.clear()
    assert fill(tmp_path)[1] == [0, 10]
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [str(first), str(third)]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    kept = {path.name for path in before if path.stat().st_mtime_ns == times[path.name]}
    assert kept == {"000000000005.safetensors", "000000000015.safetensors"}


def test_a_quick_check_leaves_the_middle_of_records_to_their_own_checksums(tmp_path: Path) -> None:
    content = bytes(200_000)

    def write(path: Path) -> dict[str, Any]:
        path.write_bytes(content)
        return {"examples": 3}

    with write_cache(tmp_path, KIND, KEY, {}) as cache:
        write_shard(cache, "a.array_record-0", 0, 5, write, "train")
        write_arrays(cache, 0, 2, {"x": np.zeros(50_000)}, part="captions")
    assert [(s.part, s.size, s.info) for s in cache.shards] == [("captions", 2, {}), ("train", 5, {"examples": 3})]
    assert (gaps(cache, 9, "train"), gaps(cache, 9, "captions"), gaps(cache, 9)) == ([(5, 9)], [(2, 9)], [(0, 9)])
    for shard, found in (("a.array_record-0", False), ("captions-000000000000.safetensors", True)):
        changed = bytearray((tmp_path / shard).read_bytes())
        changed[100_000] ^= 1
        (tmp_path / shard).write_bytes(changed)
        assert (shard in find_corrupt_shards(cache, quick=True)) == found
        assert shard in find_corrupt_shards(cache)


def test_what_is_interrupted_is_not_complete_and_resumes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), write_cache(tmp_path, KIND, KEY, {"of": "this"}) as cache:
        write_arrays(cache, 5, 4, arrays(5, 9))
        raise KeyboardInterrupt
    with pytest.raises(UserError, match=f"{tmp_path}: not complete: latents; run mmjax prepare, which resumes"):
        open_cache(tmp_path, KIND, KEY)
    assert fill(tmp_path)[1] == [0, 9, 14]
    np.testing.assert_array_equal(ArrayReader(open_cache(tmp_path, KIND)).all("latents"), LATENTS)
    assert fill(tmp_path)[1] == []
    assert fill(tmp_path, KEY | {"seed": 8}, rebuild=True)[1] == [0, 5, 10, 15]


def test_a_key_is_canonical_and_another_one_is_refused(tmp_path: Path) -> None:
    other_order = dict(reversed(list(KEY.items())))
    assert (
        key_digest(KEY)
        == key_digest(other_order)
        == hashlib.sha256(b'{"encoder":{"params":"%s","widths":[3,5]},"seed":7}' % (b"a" * 64)).hexdigest()
    )
    assert len({key_digest(key) for key in (KEY, KEY | {"seed": 8}, {"encoder": KEY["encoder"]})}) == 3
    fill(tmp_path)
    assert json.loads((tmp_path / "index.json").read_text())["digest"] == key_digest(KEY)
    open_cache(tmp_path, KIND, other_order)
    other = {"encoder": {"params": "b" * 64, "widths": [3]}, "more": {"x": 1}}
    told = (
        "encoder.params was aaaaaaaa... and now is bbbbbbbb..., encoder.widths was [3, 5] and now is [3], more was not"
    )
    for use in (lambda: open_cache(tmp_path, KIND, other), lambda: fill(tmp_path, other)):
        with pytest.raises(UserError) as error:
            use()
        assert str(error.value).startswith(f"{tmp_path}: holds other latents: {told} set and now is set, 1 more diff")
    with (
        pytest.raises(UserError, match="of was this and now is that"),
        write_cache(tmp_path, KIND, KEY, {"of": "that"}),
    ):
        pass


def test_two_cannot_write_at_the_same_time(tmp_path: Path) -> None:
    with (
        write_cache(tmp_path, KIND, KEY, {}),
        pytest.raises(UserError, match=f"{tmp_path}: is being written by process"),
        write_cache(tmp_path, KIND, KEY, {}),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]
