"""The index of embeddings: what is embedded when, what is kept, and the nearest by a library and by hand."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmjax.commands import index as index_module
from mmjax.commands.index import Index, nearest, update
from mmjax.types import UserError

KEY = {"of": "images", "model": {"params": "abc"}}


def vector(name: str) -> np.ndarray:
    return np.array([len(name), sum(map(ord, name)), 1], np.float32)


class Embedding:
    """Embeds by hand, two at a time, and remembers what it was asked for; stops after so many batches."""

    def __init__(self, folder: Path, batches: int = 1000) -> None:
        self.folder, self.batches = folder, batches
        self.asked: list[list[str]] = []

    def __call__(self, names: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        self.asked.append(list(names))
        good = [name for name in names if name != "broken"]
        for start in range(0, len(good), 2):
            if not self.batches:
                raise KeyboardInterrupt
            self.batches -= 1
            yield good[start : start + 2], np.stack([vector(name) for name in good[start : start + 2]])

    def update(self, **wanted: int) -> Index | None:
        return update(self.folder, KEY, {name: (time, 7) for name, time in wanted.items()}, self)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def shard_sizes(folder: Path) -> list[int]:
    shards = json.loads((folder / "index.json").read_text())["shards"]
    assert {shard["file"] for shard in shards} == {path.name for path in folder.glob("*.safetensors")}
    return [shard["size"] for shard in shards]


def test_only_what_is_new_or_changed_is_embedded(tmp_path: Path) -> None:
    embed = Embedding(tmp_path)
    first = embed.update(a=1, broken=1, c=1, bb=1)
    assert first is not None and first.names == ["a", "c", "bb"]
    np.testing.assert_array_equal(first.embeddings, np.stack([vector(name) for name in first.names]))
    before = times(tmp_path)
    again = embed.update(a=1, broken=1, c=1, bb=1)
    assert again is not None and again.names == first.names and times(tmp_path) == before  # nothing new to write
    later = embed.update(d=1, a=1, bb=2)  # c is gone, bb has changed
    assert later is not None and later.names == ["d", "a", "bb"] and later.stamps.tolist() == [[1, 7], [1, 7], [2, 7]]
    np.testing.assert_array_equal(later.embeddings, np.stack([vector(name) for name in later.names]))
    gone = embed.update(a=1)
    assert gone is not None and gone.names == ["a"] and gone.key == first.key
    assert embed.asked == [["a", "broken", "c", "bb"], ["broken"], ["d", "bb"]]
    assert Embedding(tmp_path / "none").update(broken=1) is None


def test_an_index_that_takes_long_is_kept_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "WRITE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        Embedding(tmp_path, batches=2).update(a=1, b=1, c=1, d=1, e=1)
    assert shard_sizes(tmp_path) == [2, 2]
    embed = Embedding(tmp_path)
    index = embed.update(a=1, b=1, c=1, d=1, e=1)
    assert embed.asked == [["e"]] and index is not None and index.names == list("abcde")


def test_what_is_gone_and_many_small_shards_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = Embedding(tmp_path)
    for time in range(3):
        embed.update(a=time, b=0, c=0)
    assert shard_sizes(tmp_path) == [3, 1, 1]
    index = embed.update(a=3, b=0, c=0)  # of five rows two are still wanted
    assert shard_sizes(tmp_path) == [2, 1] and index is not None and index.stamps[:, 0].tolist() == [3, 0, 0]
    monkeypatch.setattr(index_module, "MAX_SHARDS", 1)
    index = embed.update(a=3, b=0, c=0, d=0)
    assert shard_sizes(tmp_path) == [3, 1] and index is not None and index.names == list("abcd")
    np.testing.assert_array_equal(index.embeddings, np.stack([vector(name) for name in index.names]))
    assert embed.asked[-2:] == [["a"], ["d"]]


def test_a_folder_holds_all_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("mmjax").propagate = True
    folder = tmp_path / "deep" / "index"
    wanted = {"a b": (2**62, 3), "ü\n": (0, 0), "\udcff": (1, 1)}
    rows = np.eye(3, 5, dtype=np.float32)

    def embed(names: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        yield list(names), rows[[list(wanted).index(name) for name in names]]

    def never(names: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        raise AssertionError("embedded again")

    def check(embed: Any) -> None:
        found = update(folder, KEY, wanted, embed)
        assert found is not None and found.names == list(wanted)
        np.testing.assert_array_equal(found.stamps, list(wanted.values()))
        np.testing.assert_array_equal(found.embeddings, rows)

    check(embed)
    check(never)

    def told(**changes: Any) -> str:
        with pytest.raises(UserError) as error:
            update(folder, KEY | changes, wanted, never)
        return str(error.value)

    assert told(model={"params": "other"}) == (
        f"{folder}: holds other embeddings: model.params was abc and now is other; remove the folder, or name another "
        "with --keep=DIR; --rebuild embeds everything again"
    )
    assert "of was images and now is texts" in told(of="texts")
    (shard,) = folder.glob("*.safetensors")
    for content in (shard.read_bytes()[:-1], b""):
        shard.write_bytes(content)
        caplog.clear()
        check(embed)
        assert [record.getMessage() for record in caplog.records] == [
            f"{shard}: holds {len(content):,} bytes instead of {shard.stat().st_size:,}; it is written again"
        ]
    with pytest.raises(UserError, match=r"cannot be written: .*; name another folder with --keep"):
        update(shard / "below", KEY, wanted, embed)
    other = update(folder, KEY | {"of": "texts"}, wanted, embed, rebuild=True)
    assert other is not None and other.names == list(wanted)


def embeddings(count: int, seed: int) -> np.ndarray:
    """In crowds, as images are."""
    rng = np.random.default_rng(seed)
    found = np.random.default_rng(0).normal(size=(23, 17))[rng.integers(0, 23, count)]
    found += 0.3 * rng.normal(size=found.shape)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def made_index(folder: Path, rows: np.ndarray, key: str = "") -> Index:
    return Index(folder, key, [str(i) for i in range(len(rows))], np.zeros((len(rows), 2), np.int64), rows)


def test_the_nearest_are_those_with_the_largest_cosine(tmp_path: Path) -> None:
    index = made_index(tmp_path, np.eye(4, dtype=np.float32))
    query = np.array([0.6, 0, 0.8, 0])
    places, cosines = nearest(index, query, 3)
    assert places.tolist() == [2, 0, 1] and cosines.tolist() == pytest.approx([0.8, 0.6, 0])
    assert len(nearest(index, query, 9)[0]) == 4


def test_among_many_a_library_finds_nearly_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch")
    count, top = 3001, 10
    index = made_index(tmp_path, embeddings(count, 1))
    queries = embeddings(29, 2)
    exact = [nearest(index, query, top) for query in queries]
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(index_module, "MAX_COMPARED", 1000)
    found = [nearest(index, query, top) for query in queries]
    (graph,) = tmp_path.glob("*.usearch")
    shared = [len(set(one[0].tolist()) & set(two[0].tolist())) / top for one, two in zip(exact, found, strict=True)]
    assert np.mean(shared) > 0.97
    for (places, cosines), query in zip(found, queries, strict=True):
        np.testing.assert_allclose(cosines, index.embeddings[places] @ query, rtol=1e-5)
        assert (np.diff(cosines) <= 0).all()
    written = graph.stat().st_mtime_ns
    nearest(index, queries[0], top)
    assert graph.stat().st_mtime_ns == written  # kept, not made anew
    graph.write_bytes(b"broken")
    np.testing.assert_array_equal(nearest(index, queries[0], top)[0], found[0][0])
    other = made_index(tmp_path, embeddings(count, 3), "another key")  # the same names
    best = [nearest(other, row, 1)[0][0] for row in other.embeddings[:5]]
    assert best == [0, 1, 2, 3, 4] and [path != graph for path in tmp_path.glob("*.usearch")] == [True]


def test_without_the_library_all_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index_module.logger.parent.propagate = True  # type: ignore[union-attr]
    monkeypatch.setattr(index_module, "MAX_COMPARED", 100)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    index = made_index(tmp_path, embeddings(101, 1))
    places, _ = nearest(index, index.embeddings[37], 3)
    assert places[0] == 37 and not list(tmp_path.iterdir())
    assert "pip install '.[search]'" in caplog.text
