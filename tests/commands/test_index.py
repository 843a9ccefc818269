"""Indices of embeddings: what is embedded when, what is kept, and the nearest by a library and by hand."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mmjax.commands import index as index_module
from mmjax.commands.index import Index, nearest, read_index, update, write_index
from mmjax.types import UserError

BOUND = {"format": index_module.FORMAT, "of": "images", "model": "abc"}


def vector(name: str) -> np.ndarray:
    return np.array([len(name), sum(map(ord, name)), 1], np.float32)


class Embedding:
    """Embeds by hand, two at a time, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.written: list[Index] = []

    def __call__(self, names: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        self.asked.append(list(names))
        good = [name for name in names if name != "broken"]
        for start in range(0, len(good), 2):
            yield good[start : start + 2], np.stack([vector(name) for name in good[start : start + 2]])

    def update(self, old: Index | None, **wanted: int) -> Index | None:
        return update(old, {name: (time, 7) for name, time in wanted.items()}, self, self.written.append)


def test_only_what_is_new_or_changed_is_embedded() -> None:
    embed = Embedding()
    first = embed.update(None, a=1, broken=1, c=1, bb=1)
    assert first is not None and first.names == ["a", "c", "bb"] and embed.written == [first]
    np.testing.assert_array_equal(first.embeddings, np.stack([vector(name) for name in first.names]))
    again = embed.update(first, a=1, broken=1, c=1, bb=1)
    assert again is not None and again.names == first.names and len(embed.written) == 1  # nothing new to write
    later = embed.update(first, d=1, a=1, bb=2)  # c is gone, bb has changed
    assert later is not None and later.names == ["d", "a", "bb"] and later.stamps.tolist() == [[1, 7], [1, 7], [2, 7]]
    gone = embed.update(later, a=1)
    assert gone is not None and gone.names == ["a"] and embed.written[1:] == [later, gone]
    assert embed.asked == [["a", "broken", "c", "bb"], ["broken"], ["d", "bb"]]
    assert embed.update(None, broken=1) is None and len(embed.written) == 3


def test_an_index_that_takes_long_is_kept_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "WRITE_SECONDS", 0.0)
    embed = Embedding()
    embed.update(None, a=1, b=1, c=1)
    assert [index.names for index in embed.written] == [["a", "b"], ["a", "b", "c"], ["a", "b", "c"]]


def test_a_file_holds_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "index"
    assert read_index(path, BOUND) is None
    index = Index(["a b", "ü\n", "\udcff"], np.array([[2**62, 3], [0, 0], [1, 1]]), np.eye(3, 5, dtype=np.float32))
    write_index(path, index, BOUND)
    found = read_index(path, BOUND)
    assert found is not None and found.names == index.names
    np.testing.assert_array_equal(found.stamps, index.stamps)
    np.testing.assert_array_equal(found.embeddings, index.embeddings)

    def told(**changes: str) -> str:
        with pytest.raises(UserError) as error:
            read_index(path, BOUND | changes)
        return str(error.value)

    assert told(model="other") == (
        f"{path}: was made by another model; make it anew with --rebuild, or name another with --keep"
    )
    assert "is an index of images, not of texts" in told(of="texts")
    path.write_bytes(path.read_bytes()[:-1])
    assert "cannot be read" in told() and "--rebuild" in told()
    path.write_bytes(b"")
    assert "cannot be read" in told()
    with pytest.raises(UserError, match="name another file with --keep"):
        write_index(path / "below", index, BOUND)


def embeddings(count: int, seed: int) -> np.ndarray:
    """In crowds, as images are."""
    rng = np.random.default_rng(seed)
    found = np.random.default_rng(0).normal(size=(23, 17))[rng.integers(0, 23, count)]
    found += 0.3 * rng.normal(size=found.shape)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_the_nearest_are_those_with_the_largest_cosine(tmp_path: Path) -> None:
    index = Index(list("abcd"), np.zeros((4, 2), np.int64), np.eye(4, dtype=np.float32))
    query = np.array([0.6, 0, 0.8, 0])
    places, cosines = nearest(index, tmp_path / "index", query, 3)
    assert places.tolist() == [2, 0, 1] and cosines.tolist() == pytest.approx([0.8, 0.6, 0])
    assert len(nearest(index, tmp_path / "index", query, 9)[0]) == 4


def test_among_many_a_library_finds_nearly_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch")
    count, top, path = 3001, 10, tmp_path / "index"
    index = Index([str(i) for i in range(count)], np.zeros((count, 2), np.int64), embeddings(count, 1))
    queries = embeddings(29, 2)
    exact = [nearest(index, path, query, top) for query in queries]
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(index_module, "MAX_COMPARED", 1000)
    write_index(path, index, BOUND)
    found = [nearest(index, path, query, top) for query in queries]
    assert (tmp_path / "index.usearch").exists()
    shared = [len(set(one[0].tolist()) & set(two[0].tolist())) / top for one, two in zip(exact, found, strict=True)]
    assert np.mean(shared) > 0.97
    for (places, cosines), query in zip(found, queries, strict=True):
        np.testing.assert_allclose(cosines, index.embeddings[places] @ query, rtol=1e-5)
        assert (np.diff(cosines) <= 0).all()
    written = (tmp_path / "index.usearch").stat().st_mtime_ns
    nearest(index, path, queries[0], top)
    assert (tmp_path / "index.usearch").stat().st_mtime_ns == written  # kept, not made anew
    (tmp_path / "index.usearch").write_bytes(b"broken")
    np.testing.assert_array_equal(nearest(index, path, queries[0], top)[0], found[0][0])
    write_index(path, index, BOUND)
    assert not (tmp_path / "index.usearch").exists()  # it would be that of other embeddings


def test_without_the_library_all_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index_module.logger.parent.propagate = True  # type: ignore[union-attr]
    monkeypatch.setattr(index_module, "MAX_COMPARED", 100)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    index = Index([str(i) for i in range(101)], np.zeros((101, 2), np.int64), embeddings(101, 1))
    places, _ = nearest(index, tmp_path / "index", index.embeddings[37], 3)
    assert places[0] == 37 and not list(tmp_path.iterdir())
    assert "pip install '.[search]'" in caplog.text
