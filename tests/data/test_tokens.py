"""Reading the cache of visual tokens: the rows, their order, and the batches they give."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import config_dict, jpeg, write_coco
from made_tokens import BATCH, KEY, SIZE, UNREADABLE, VIEWS, encode, made_config, make_image, run, write

from mmjax import data
from mmjax.data.source import ReadSpec, process_shards
from mmjax.types import Batch, UserError


@pytest.fixture(scope="module")
def tokenizer() -> data.Tokenizer:
    texts = [f"image {n} caption {i}, é" for n in range(50) for i in range(3)]
    return data.load_tokenizer(data.train_tokenizer(texts, 300))


def read_spec(start: int = 0, stop: int | None = None, training: bool = True, seed: int = 5, rows: int = 7) -> ReadSpec:
    return ReadSpec(functools.partial(process_shards, start, stop, rows, 0, rows), training, seed, 16, 18, False)


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    equal = (np.array_equal(first[k], second[k]) for k in first if isinstance(first[k], np.ndarray))
    rest = (first[k] == second[k] for k in first if not isinstance(first[k], np.ndarray))
    return first.keys() == second.keys() and all(equal) and all(rest)


def test_each_row_is_the_encoding_of_one_view_of_its_image(cached_tokens: Path) -> None:
    source = data.open_tokens(cached_tokens, KEY)
    assert (source.name, source.size, tuple(source.features)) == ("made", SIZE, ("codes", "text"))
    count = 0
    for rows in itertools.islice(source.read(read_spec()), 4 * VIEWS):
        assert {n: rows[n].dtype for n in ("codes", "view", "key", "epoch", "mask")} == {
            "codes": np.int32, "view": np.int32, "key": np.int64, "epoch": np.int64, "mask": np.bool_
        }  # fmt: skip
        assert rows["codes"].shape == (7, 2, 5) and rows["view"].shape == (7, 1)
        for i, key in enumerate(rows["key"].tolist()):
            readable = key != 10 + 3 * UNREADABLE
            assert rows["mask"][i] == readable
            assert rows["codes"][i].ravel().tolist() == (list(range(key, key + 10)) if readable else [0] * 10)
            assert rows["id"][i] == f"number {key}"
            assert rows["captions"][i] == [f"image {key} caption {n}, é\n" for n in range(key % 3)]
            count += 1
    assert count == 7 * 4 * VIEWS


def test_every_epoch_has_every_example_once_and_the_views_take_turns(cached_tokens: Path) -> None:
    source = data.open_tokens(cached_tokens, KEY)
    parts = list(source.read(read_spec(stop=SIZE * 2 * VIEWS)))
    keys, views, epochs = (np.concatenate([part[n].ravel() for part in parts]) for n in ("key", "view", "epoch"))
    assert np.array_equal(epochs, np.repeat(np.arange(2 * VIEWS), SIZE))
    orders = keys.reshape(2 * VIEWS, SIZE)
    assert np.array_equal(np.sort(orders, axis=1), np.tile(10 + 3 * np.arange(SIZE), (2 * VIEWS, 1)))
    assert len({tuple(order) for order in orders.tolist()}) == 2 * VIEWS
    for key in set(keys.tolist()) - {10 + 3 * UNREADABLE}:
        seen = views[keys == key].tolist()
        assert sorted(seen[:VIEWS]) == sorted(seen[VIEWS:]) == list(range(VIEWS))
    assert len(set(views[:SIZE].tolist())) == VIEWS  # an epoch mixes them
    other = next(source.read(read_spec(seed=6)))
    assert not np.array_equal(other["key"], parts[0]["key"])


def test_in_order_it_is_the_first_view(cached_tokens: Path, tmp_path: Path) -> None:
    evaluation = data.open_tokens(write(tmp_path, "evaluation"), KEY)
    parts = list(evaluation.read(read_spec(stop=SIZE, training=False)))
    assert [len(part["id"]) for part in parts] == [7, 7, 7, 2]
    assert np.concatenate([part["key"] for part in parts]).tolist() == [10 + 3 * n for n in range(SIZE)]
    (part,) = data.open_tokens(cached_tokens, KEY).read(read_spec(stop=SIZE, training=False, rows=SIZE))
    assert np.all(part["view"] == 0) and len(set(part["id"])) == SIZE


def test_an_evaluation_may_take_the_first_examples_only(tmp_path: Path) -> None:
    write(tmp_path, "evaluation", config=made_config(evaluation_examples=5))
    source = data.open_tokens(tmp_path, KEY)
    assert source.size == 5
    assert list(source.all_captions()) == [f"image {k} caption {i}, é\n" for k in range(10, 25, 3) for i in range(1)]


@pytest.mark.parametrize(("value", "kind"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)])
def test_the_type_of_codes_holds_the_largest(value: int, kind: type, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    write(tmp_path, encode=lambda image: {"codes": np.full((BATCH, 2), value, np.int32)})
    assert load_file(tmp_path / "000000000000.safetensors")["codes"].dtype == kind
    rows = next(data.open_tokens(tmp_path, KEY).read(read_spec()))
    assert np.all(rows["codes"][rows["mask"]] == value) and rows["codes"].dtype == np.int32


def test_floats_beside_the_codes_stay_as_they_are(tmp_path: Path) -> None:
    def with_latents(image: np.ndarray) -> dict[str, np.ndarray]:
        return encode(image) | {"latents": np.float16(image[:, :, 0] / 7)}

    write(tmp_path, encode=with_latents)
    rows = next(data.open_tokens(tmp_path, KEY).read(read_spec(stop=SIZE, training=False, rows=SIZE)))
    images = [make_image(key, 0) for key in rows["key"].tolist()]
    expected = np.float16(np.stack(images)[:, :, 0] / 7) * rows["mask"][:, None, None]
    assert rows["latents"].dtype == np.float16
    np.testing.assert_array_equal(rows["latents"], expected)


def test_a_missing_cache_and_a_broken_index_are_one_line(copied_tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path / 'absent'}: no visual tokens; run mmjax prepare"):
        data.open_tokens(tmp_path / "absent", KEY)
    whole = json.loads((copied_tokens / "index.json").read_text())
    for broken in (b"[]", b"{}", b'{"shards": 3}', b"", json.dumps(whole)[:-2].encode()):
        (copied_tokens / "index.json").write_bytes(broken)
        with pytest.raises(UserError, match=r"index\.json: not an index of visual tokens, version 1; remove"):
            data.open_tokens(copied_tokens, KEY)
        if broken.endswith((b"]", b"3}", b"{}")):
            with pytest.raises(UserError, match=r"index\.json: not an index of visual tokens, version 1; remove"):
                write(copied_tokens)
    write(copied_tokens)  # one that is cut off, as where the machine went down
    assert json.loads((copied_tokens / "index.json").read_text()) == whole
    for other in (dict(whole, version=7), dict(whole, kind="text features")):
        (copied_tokens / "index.json").write_text(json.dumps(other))
        with pytest.raises(UserError, match="not an index of visual tokens, version 1"):
            data.open_tokens(copied_tokens, KEY)
    info = whole["info"] | {"size": 22}
    for wrong in (dict(whole, info=info), dict(whole, shards=[]), dict(whole, shards=whole["shards"][1:])):
        (copied_tokens / "index.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"its shards are not those of index\.json"):
            data.open_tokens(copied_tokens, KEY)


def test_training_batches_are_the_same_for_any_number_of_processes_and_resumed(
    cached_tokens: Path, tokenizer: data.Tokenizer
) -> None:
    config = made_config(batch=8)
    source = data.open_tokens(cached_tokens, KEY)
    whole = take(data.training_batches(source, tokenizer, config), 13)
    assert set(whole[0]) == {"codes", "view", "mask", "text", "id", "captions"}
    for processes in (1, 2, 4):
        shares = [
            take(data.training_batches(data.open_tokens(cached_tokens, KEY), tokenizer, config, 9, p, processes), 4)
            for p in range(processes)
        ]
        for batch, *parts in zip(whole[9:], *shares, strict=True):
            arrays = {k: np.concatenate([p[k] for p in parts]) for k in ("codes", "view", "mask", "text")}
            assert same(batch, arrays | {k: [x for p in parts for x in p[k]] for k in ("id", "captions")})
    for batch in whole:
        for text, captions in zip(batch["text"], batch["captions"], strict=True):
            assert text.tolist() in tokenizer.encode(captions or [""], 13).tolist()
    masked = {i for batch in whole for i, m in zip(batch["id"], batch["mask"], strict=True) if not m}
    assert masked == {"number 31"}


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_an_evaluation_has_each_example_once(processes: int, tmp_path: Path, tokenizer: data.Tokenizer) -> None:
    config = made_config(batch=20)
    source = data.open_tokens(write(tmp_path, "evaluation"), KEY)
    passes = [list(data.evaluation_batches(source, tokenizer, config, p, processes)) for p in range(processes)]
    assert {len(batches) for batches in passes} == {2}
    batches = [batch for parts in zip(*passes, strict=True) for batch in parts]
    assert all(batch["codes"].shape == (20 // processes, 2, 5) for batch in batches)
    assert all(batch["codes"].dtype == np.int32 for batch in batches)
    ids = [i for batch in batches for i in batch["id"]]
    mask, codes = (np.concatenate([batch[name] for batch in batches]) for name in ("mask", "codes"))
    assert ids == [f"number {10 + 3 * n}" for n in range(SIZE)] + [""] * 17
    assert mask.tolist() == [n < SIZE and n != UNREADABLE for n in range(40)]
    assert np.all(codes[~mask] == 0) and codes[mask, 0, 0].tolist() == [10 + 3 * n for n in range(SIZE) if n != 7]


def test_reading_needs_no_tensorflow(cached_tokens: Path) -> None:
    done = run(
        """
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None  # importing them raises ImportError
source = data.open_tokens(Path(sys.argv[1]), KEY)
tokenizer = data.load_tokenizer(data.train_tokenizer([f"image {n} caption {n}" for n in range(300)], 300))
print(next(data.training_batches(source, tokenizer, made_config()))["codes"].shape, len(list(source.all_captions())))
""",
        cached_tokens,
    )
    assert done.stdout.strip() == f"(4, 2, 5) {sum((10 + 3 * n) % 3 for n in range(SIZE))}", done.stderr


def test_views_are_the_crops_and_flips_of_the_training_stream(tmp_path: Path, tokenizer: data.Tokenizer) -> None:
    pytest.importorskip("tensorflow")
    content = {n: jpeg(n) for n in range(1, 12)} | {5: b"broken"}
    root = write_coco(tmp_path / "coco", "train2017", content)
    config = config_dict("coco_folder", root, batch=11, seed=0, flip=True)  # a batch is an epoch
    source = data.open_source(config.data, True, 0)
    drawn = take(data.training_batches(source, tokenizer, config), 3)
    other = dataclasses.replace(config, seed=9, tokens=dataclasses.replace(config.tokens, num_augmentations=3))

    def pixels(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"codes": np.rint((image + 1) * 127.5).astype(np.int32)}

    data.write_tokens(tmp_path / "train", KEY, source, other, "train", pixels, batch=4, positions=8)
    assert len(list((tmp_path / "train").glob("*.safetensors"))) == 5
    cached = data.open_tokens(tmp_path / "train", KEY)
    assert sorted(cached.all_captions()) == sorted(source.all_captions())
    seen = set()
    for batch in take(data.training_batches(cached, tokenizer, other), 6):
        for i, name in enumerate(batch["id"]):
            places = [b["id"].index(name) for b in drawn]
            views = [pixels(b["image"][place])["codes"] for b, place in zip(drawn, places, strict=True)]
            assert batch["captions"][i] == drawn[0]["captions"][places[0]]
            assert bool(batch["mask"][i]) == (name != "5")
            if name != "5":
                seen |= {(name, v) for v in range(3) if np.array_equal(views[v], batch["codes"][i])}
    assert len(seen) == 30
