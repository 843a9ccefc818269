"""The cache of visual tokens: what is in it, going on after an end of any kind, damage, and the batches it gives."""

import dataclasses
import functools
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from made_data import jpeg, recipe, write_coco

from mmjax import data
from mmjax.config import Config, resolve
from mmjax.data.source import Reading, Rows, Source, share
from mmjax.types import Batch, UserError

SIZE, VIEWS, BATCH, POSITIONS = 23, 3, 4, 9  # 9 positions a shard become 8: two batches
UNREADABLE = 7
ADDRESS = {"format": 1, "data": {"size": 16}, "tokenizer": {"parameters": "12"}}
PROGRAM = "import sys; sys.path.insert(0, 'tests/data'); from test_tokens import *\n"


def key_of(epoch: int, place: int) -> int:
    """A permutation of the examples, another one each epoch, on keys with gaps."""
    return 10 + 3 * ((place * 5 + epoch * 7) % SIZE)


def picture(key: int, epoch: int) -> np.ndarray:
    """A picture that tells which example of which epoch it is."""
    return np.array([key / 1024, epoch / 8, 0], np.float32) + np.zeros((3, 2, 3), np.float32)


def made_source(size: int = SIZE) -> Source:
    """Pictures that say which view they are, one of them unreadable in every view, with 0, 1 or 2 captions."""

    def read(reading: Reading) -> Iterator[Rows]:
        for positions in reading.positions():
            epochs, places = np.divmod(positions, size)
            pairs = list(zip(epochs, places, strict=True))
            keys = np.array([key_of(int(e), int(p)) if reading.training else 10 + 3 * p for e, p in pairs])
            mask = keys != 10 + 3 * UNREADABLE
            image = np.stack([picture(int(k), int(e)) for k, e in zip(keys, epochs, strict=True)])
            image[~mask] = 0
            captions = [[f"picture {k} caption {i}, é\n" for i in range(k % 3 % size)] for k in keys.tolist()]
            rows = {"image": image, "mask": mask, "key": keys, "epoch": epochs, "captions": captions}
            yield {**rows, "id": [f"number {k}" for k in keys.tolist()]}

    return Source("made", size, ("image", "text"), lambda: iter([]), read)


def encode(image: np.ndarray) -> dict[str, np.ndarray]:
    """Codes [b, 2, 5] of the key and [b, 1] of the epoch."""
    assert image.shape == (BATCH, 3, 2, 3) and image.dtype == np.float32
    key = np.rint(image[:, 0, 0, 0] * 1024).astype(np.int32)
    codes = key[:, None, None] + np.arange(10, dtype=np.int32).reshape(2, 5)
    return {"codes": codes, "view": np.rint(image[:, 0, 0, 1] * 8).astype(np.int32)[:, None]}


def made_recipe(batch: int = 4, seed: int = 3, views: int = VIEWS, **fields: Any) -> Config:
    config = recipe("scenes", batch=batch, seed=seed, **fields)
    return dataclasses.replace(config, tokens=dataclasses.replace(config.tokens, views=views))


def write(folder: Path, split: str = "train", **changes: Any) -> Path:
    given = {"source": made_source(), "config": made_recipe(), "encode": encode, "address": ADDRESS, **changes}
    data.write_tokens(folder, split=split, batch=BATCH, positions=POSITIONS, **given)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cache") / "train")


@pytest.fixture
def copied(cache: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    for name, content in contents(cache).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> data.Tokenizer:
    texts = [f"picture {n} caption {i}, é" for n in range(50) for i in range(3)]
    return data.load_tokenizer(data.train_tokenizer(texts, 300))


def reading(start: int = 0, stop: int | None = None, training: bool = True, seed: int = 5, rows: int = 7) -> Reading:
    return Reading(functools.partial(share, start, stop, rows, 0, rows), training, seed, 16, 18, False)


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    equal = (np.array_equal(first[k], second[k]) for k in first if isinstance(first[k], np.ndarray))
    rest = (first[k] == second[k] for k in first if not isinstance(first[k], np.ndarray))
    return first.keys() == second.keys() and all(equal) and all(rest)


def test_each_row_is_the_encoding_of_one_view_of_its_picture(cache: Path) -> None:
    source = data.open_tokens(cache, ADDRESS)
    assert (source.name, source.size, source.provides) == ("made", SIZE, ("codes", "text"))
    count = 0
    for rows in itertools.islice(source.read(reading()), 4 * VIEWS):
        assert {n: rows[n].dtype for n in ("codes", "view", "key", "epoch", "mask")} == {
            "codes": np.int32, "view": np.int32, "key": np.int64, "epoch": np.int64, "mask": np.bool_
        }  # fmt: skip
        assert rows["codes"].shape == (7, 2, 5) and rows["view"].shape == (7, 1)
        for i, key in enumerate(rows["key"].tolist()):
            readable = key != 10 + 3 * UNREADABLE
            assert rows["mask"][i] == readable
            assert rows["codes"][i].ravel().tolist() == (list(range(key, key + 10)) if readable else [0] * 10)
            assert rows["id"][i] == f"number {key}"
            assert rows["captions"][i] == [f"picture {key} caption {n}, é\n" for n in range(key % 3)]
            count += 1
    assert count == 7 * 4 * VIEWS


def test_every_epoch_has_every_example_once_and_the_views_take_turns(cache: Path) -> None:
    source = data.open_tokens(cache, ADDRESS)
    parts = list(source.read(reading(stop=SIZE * 2 * VIEWS)))
    keys, views, epochs = (np.concatenate([part[n].ravel() for part in parts]) for n in ("key", "view", "epoch"))
    assert np.array_equal(epochs, np.repeat(np.arange(2 * VIEWS), SIZE))
    orders = keys.reshape(2 * VIEWS, SIZE)
    assert np.array_equal(np.sort(orders, axis=1), np.tile(10 + 3 * np.arange(SIZE), (2 * VIEWS, 1)))
    assert len({tuple(order) for order in orders.tolist()}) == 2 * VIEWS
    for key in set(keys.tolist()) - {10 + 3 * UNREADABLE}:
        seen = views[keys == key].tolist()
        assert sorted(seen[:VIEWS]) == sorted(seen[VIEWS:]) == list(range(VIEWS))
    assert len(set(views[:SIZE].tolist())) == VIEWS  # an epoch mixes them
    other = next(source.read(reading(seed=6)))
    assert not np.array_equal(other["key"], parts[0]["key"])


def test_in_order_it_is_the_first_view(cache: Path, tmp_path: Path) -> None:
    evaluation = data.open_tokens(write(tmp_path, "evaluation"), ADDRESS)
    parts = list(evaluation.read(reading(stop=SIZE, training=False)))
    assert [len(part["id"]) for part in parts] == [7, 7, 7, 2]
    assert np.concatenate([part["key"] for part in parts]).tolist() == [10 + 3 * n for n in range(SIZE)]
    (part,) = data.open_tokens(cache, ADDRESS).read(reading(stop=SIZE, training=False, rows=SIZE))
    assert np.all(part["view"] == 0) and len(set(part["id"])) == SIZE


def test_an_evaluation_may_take_the_first_examples_only(tmp_path: Path) -> None:
    write(tmp_path, "evaluation", config=made_recipe(evaluation_examples=5))
    source = data.open_tokens(tmp_path, ADDRESS)
    assert source.size == 5
    assert list(source.all_captions()) == [f"picture {k} caption {i}, é\n" for k in range(10, 25, 3) for i in range(1)]


def test_shards_hold_whole_batches_in_the_smallest_type_and_texts_once(cache: Path) -> None:
    from safetensors.numpy import load_file

    index = json.loads((cache / "index.json").read_text())
    assert index["address"] == ADDRESS and index["size"] == SIZE and index["views"] == VIEWS
    counts = [shard["positions"] for shard in index["shards"]]
    assert counts == [8] * 8 + [SIZE * VIEWS - 64]
    assert {path.name for path in cache.iterdir()} == {"index.json", *(shard["file"] for shard in index["shards"])}
    shards = [load_file(cache / shard["file"]) for shard in index["shards"]]
    assert all(s["codes"].dtype == s["view"].dtype == np.uint8 for s in shards)
    assert [len(s["text_ends"]) - 1 for s in shards] == [8, 8, 7, 0, 0, 0, 0, 0, 0]
    assert sum(len(s["texts"]) for s in shards[3:]) == 0


@pytest.mark.parametrize(("value", "kind"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)])
def test_the_type_of_codes_holds_the_largest(value: int, kind: type, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    write(tmp_path, encode=lambda image: {"codes": np.full((BATCH, 2), value, np.int32)})
    assert load_file(tmp_path / "000000000000.safetensors")["codes"].dtype == kind
    rows = next(data.open_tokens(tmp_path, ADDRESS).read(reading()))
    assert np.all(rows["codes"][rows["mask"]] == value) and rows["codes"].dtype == np.int32


@pytest.mark.parametrize("values", [np.full((BATCH, 2), -1), np.zeros((BATCH, 2), np.float32)])
def test_an_encoding_other_than_counts_is_refused(values: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="codes"):
        write(tmp_path, encode=lambda image: {"codes": values})
    assert not (tmp_path / "index.json").exists()


@pytest.mark.parametrize("batches", [1, 5, 18])
def test_killed_and_resumed_gives_the_same_bytes(batches: int, cache: Path, tmp_path: Path) -> None:
    program = f"""
import os, signal
calls = []
def killed(image):
    calls.append(1)
    if len(calls) == {batches}:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(image)
write(Path(sys.argv[1]), encode=killed)
"""
    done = run(program, tmp_path / "train")
    assert done.returncode == -9, done.stderr
    left = contents(tmp_path / "train")
    assert "index.json" not in left and len(left) == 1 + (batches - 1) // 2
    with pytest.raises(UserError, match="not finished; run mmjax prepare"):
        data.open_tokens(tmp_path / "train", ADDRESS)
    calls = []

    def counted(image: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(1)
        return encode(image)

    (tmp_path / "train" / ".000000000008.safetensors.1.tmp").write_bytes(b"half")
    (tmp_path / "train" / "000000000064.safetensors").write_bytes(b"named by no index")
    write(tmp_path / "train", encode=counted)
    assert len(calls) == 18 - (batches - 1) // 2 * 2
    assert contents(tmp_path / "train") == contents(cache)


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)


def never(image: np.ndarray) -> dict[str, np.ndarray]:
    raise AssertionError("encoded again")


def test_what_is_done_is_not_done_again(copied: Path, cache: Path) -> None:
    write(copied, encode=never)
    assert contents(copied) == contents(cache)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"holds [\d,]+ bytes instead of [\d,]+"),
    "flipped": (flip, "its bytes are not those that were written"),
    "missing": (lambda path: path.unlink(), "cannot be read: No such file"),
    "empty": (lambda path: path.write_bytes(b""), "holds 0 bytes instead of"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("number", [0, 24, 64])
def test_a_damaged_shard_is_one_line_and_prepared_again(kind: str, number: int, copied: Path, cache: Path) -> None:
    damage, message = DAMAGES[kind]
    path = copied / f"{number:012d}.safetensors"
    damage(path)
    with pytest.raises(UserError, match=f"^{path}: {message}.*; run mmjax prepare to encode it again$"):
        data.open_tokens(copied, ADDRESS)
    write(copied)
    assert contents(copied) == contents(cache)


def test_a_missing_cache_and_a_broken_index_are_one_line(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path / 'absent'}: the cached tokens are missing; run mmjax prepare"):
        data.open_tokens(tmp_path / "absent", ADDRESS)
    whole = json.loads((copied / "index.json").read_text())
    for broken in (b"", b"[]", b"{}", b'{"shards": 3}', json.dumps(whole)[:-2].encode()):
        (copied / "index.json").write_bytes(broken)
        for use in (lambda: data.open_tokens(copied, ADDRESS), lambda: write(copied)):
            with pytest.raises(UserError, match=r"index\.json: not an index of cached tokens; remove"):
                use()
    for wrong in (dict(whole, size=22), dict(whole, shards=[]), dict(whole, shards=whole["shards"][1:])):
        (copied / "index.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"its shards are not those of index\.json"):
            data.open_tokens(copied, ADDRESS)


def test_another_address_names_what_differs(copied: Path, tmp_path: Path) -> None:
    before = contents(copied)
    half = tmp_path / "half"
    half.mkdir()
    (half / "unfinished.json").write_bytes(before["index.json"])
    other = {"format": 1, "data": {"size": 32}, "tokenizer": {"parameters": "34"}, "seed": 5}
    message = (
        "holds other tokens: the tokenizer's parameters differ, data.size was 16 and now is 32, "
        "seed was not set and now is 5; remove the folder, or take another with --config.tokens.cache=DIR"
    )
    for folder, use in (
        (copied, lambda: data.open_tokens(copied, other)),
        (copied, lambda: write(copied, address=other)),
        (half, lambda: write(half, address=other)),
    ):
        with pytest.raises(UserError) as error:
            use()
        assert str(error.value) == f"{folder}: {message}"
    assert contents(copied) == before
    many = {"a": 1, "b": (2, 3), "c": 3, "d": "x", "e": ""}
    with pytest.raises(
        UserError,
        match=r"a was not set and now is 1, b was not set and now is \[2, 3\], c was not set and now is 3, 2 more",
    ):
        data.open_tokens(copied, ADDRESS | many)


def test_another_data_set_or_a_folder_of_something_else_is_one_line(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was made from 23 examples of made, and made now has 19"):
        write(copied, source=made_source(19))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="holds no cached tokens, but something else"):
        write(tmp_path / "pictures")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file")


def test_a_data_set_that_ends_or_changes_is_one_line(tmp_path: Path) -> None:
    source = made_source()

    def ending(reading: Reading) -> Iterator[Rows]:
        return itertools.islice(source.read(reading), 11)

    with pytest.raises(UserError, match="the data set ended after 44 of 69 pictures"):
        write(tmp_path / "a", source=dataclasses.replace(source, read=ending))

    def twice(reading: Reading) -> Iterator[Rows]:
        for rows in source.read(reading):
            yield rows | {"key": np.where(rows["key"] == 10, 13, rows["key"])}

    with pytest.raises(UserError, match="the data set changed while it was encoded"):
        write(tmp_path / "b", source=dataclasses.replace(source, read=twice))
    assert not (tmp_path / "b" / "index.json").exists()


def test_unreadable_pictures_are_named_while_they_are_encoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = made_source()
    write(tmp_path, source=source)
    assert source.rejected == VIEWS
    assert "made: picture number 31 cannot be read and is masked out" in caplog.text


def test_training_batches_are_the_same_for_any_number_of_processes_and_resumed(
    cache: Path, tokenizer: data.Tokenizer
) -> None:
    config = made_recipe(batch=8)
    source = data.open_tokens(cache, ADDRESS)
    whole = take(data.training_batches(source, tokenizer, config), 13)
    assert set(whole[0]) == {"codes", "view", "mask", "text", "id", "captions"}
    for processes in (1, 2, 4):
        shares = [
            take(data.training_batches(data.open_tokens(cache, ADDRESS), tokenizer, config, 9, p, processes), 4)
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
    config = made_recipe(batch=20)
    source = data.open_tokens(write(tmp_path, "evaluation"), ADDRESS)
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


def test_reading_needs_no_tensorflow(cache: Path) -> None:
    done = run(
        """
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None  # importing them raises ImportError
source = data.open_tokens(Path(sys.argv[1]), ADDRESS)
tokenizer = data.load_tokenizer(data.train_tokenizer([f"picture {n} caption {n}" for n in range(300)], 300))
print(next(data.training_batches(source, tokenizer, made_recipe()))["codes"].shape, len(list(source.all_captions())))
""",
        cache,
    )
    assert done.stdout.strip() == f"(4, 2, 5) {sum((10 + 3 * n) % 3 for n in range(SIZE))}", done.stderr


def test_views_are_the_crops_and_flips_of_the_training_stream(tmp_path: Path, tokenizer: data.Tokenizer) -> None:
    pytest.importorskip("tensorflow")
    content = {n: jpeg(n) for n in range(1, 12)} | {5: b"broken"}
    root = write_coco(tmp_path / "coco", "train2017", content)
    config = recipe("coco_folder", root, batch=11, seed=0, flip=True)  # a batch is an epoch
    source = data.open_source(config.data, True, 0)
    drawn = take(data.training_batches(source, tokenizer, config), 3)
    other = dataclasses.replace(config, seed=9, tokens=dataclasses.replace(config.tokens, views=3))

    def pixels(image: np.ndarray) -> dict[str, np.ndarray]:
        return {"codes": np.rint((image + 1) * 127.5).astype(np.int32)}

    data.write_tokens(tmp_path / "train", ADDRESS, source, other, "train", pixels, batch=4, positions=8)
    assert len(list((tmp_path / "train").glob("*.safetensors"))) == 5
    cached = data.open_tokens(tmp_path / "train", ADDRESS)
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


def tokenizer_recipe(**model: Any) -> Config:
    return resolve({"model": {"kind": "visual_tokenizer", **model}, "train": {"steps": 1}})


PARAMS = {"b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "a": np.ones(2, np.float32)}


def test_an_address_tells_what_the_tokens_follow_from() -> None:
    config, model = recipe("coco_folder", "/a", flip=True, train_split="train", shuffle_buffer=3), tokenizer_recipe()
    address = data.token_address(PARAMS, model, config, "train")
    assert json.loads(json.dumps(address)) == address
    assert address["data"] == {
        "source": "coco_folder", "train_split": "train", "size": 16, "frames": 1, "resize": 18, "flip": True
    }  # fmt: skip

    def of(params: Any = PARAMS, split: str = "train", model: Any = model, **changes: Any) -> dict[str, Any]:
        changed = {name: changes.pop(name) for name in ("tokens", "seed", "text") if name in changes}
        fields = dataclasses.replace(config, data=dataclasses.replace(config.data, **changes), **changed)
        return data.token_address(params, model, fields, split)

    as_before = [
        of(root="/b"),
        of(shuffle_buffer=5),
        of(evaluation_examples=7),
        of(evaluation_split="val2014"),
        of(frame_rate=3.0),
        of(seed=9),
        of(text=dataclasses.replace(config.text, length=5)),
        of(model=tokenizer_recipe(convolution="matmul")),
        of({"a": jnp.asarray(PARAMS["a"]), "b": {"kernel": jnp.asarray(PARAMS["b"]["kernel"])}}),
    ]
    assert all(other == address for other in as_before)
    kernel = PARAMS["b"]["kernel"]
    others = [
        of({"b": {"kernel": kernel}, "a": np.float32([1, np.nextafter(np.float32(1), 2)])}),
        of({"b": {"kernel": kernel.T.copy().reshape(3, 2)}, "a": PARAMS["a"]}),
        of({"b": {"kernel": kernel.reshape(3, 2)}, "a": PARAMS["a"]}),
        of({"c": {"kernel": kernel}, "a": PARAMS["a"]}),
        of({"b": {"kernel": kernel.view(np.int32)}, "a": PARAMS["a"]}),
        of(size=32),
        of(flip=False),
        of(resize=20),
        of(frames=5),
        of(train_split="val2017"),
        of(source="coco_tfds"),
        of(split="evaluation"),
        of(tokens=dataclasses.replace(config.tokens, views=2)),
        of(model=tokenizer_recipe(levels=[8, 8])),
    ]
    told = [json.dumps(other) for other in [address, *others]]
    assert len(set(told)) == len(told)


def test_an_address_of_scenes_has_the_seed_that_draws_them() -> None:
    model = tokenizer_recipe()
    first, second = (data.token_address(PARAMS, model, recipe("scenes", seed=s), "train") for s in (3, 4))
    assert (first["seed"], second["seed"]) == (3, 4) and first["data"] == second["data"]


def test_an_address_has_the_tokenizer_of_references(tmp_path: Path) -> None:
    config, model = recipe("coco_folder", "/a"), tokenizer_recipe()

    def of(params: Any, size: int = 16, **changes: Any) -> dict[str, Any]:
        theirs = tokenizer_recipe(**changes)
        theirs = dataclasses.replace(theirs, data=dataclasses.replace(theirs.data, size=size))
        return data.token_address(PARAMS, model, dataclasses.replace(config, reference=theirs), "train", params)

    without, address = data.token_address(PARAMS, model, config, "train"), of(PARAMS)
    assert "reference" not in without and of(PARAMS, convolution="matmul") == address
    assert {name: value for name, value in address.items() if name != "reference"} == without
    write(tmp_path, address=address)
    another = of({**PARAMS, "a": np.zeros(2, np.float32)})
    for wanted, told in [
        (another, "the reference tokenizer's parameters differ; remove"),
        (of(PARAMS, size=32), "reference.size was 16 and now is 32; remove"),
        (of(PARAMS, levels=[8, 8]), "reference.model.levels was [8, 5, 5, 5] and now is [8, 8]; remove"),
        (without, "they are with reference codes; remove"),
    ]:
        with pytest.raises(UserError, match=re.escape(f"{tmp_path}: holds other tokens: {told}")):
            data.open_tokens(tmp_path, wanted)
    write(tmp_path / "without", address=without)
    with pytest.raises(UserError, match="holds other tokens: they are without reference codes; remove"):
        data.open_tokens(tmp_path / "without", address)
