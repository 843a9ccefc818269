"""What holds of the batches of every source: resuming, epochs, processes, captions, threads."""

import dataclasses
import gc
import itertools
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_source import EVALUATION, TOKENIZER, TRAINING, of, same, take
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import config_dict, jpeg, write_coco

from mmjax import data
from mmjax.config import ScenesConfig
from mmjax.data import evaluation_batches, open_source, training_batches
from mmjax.data.source import Examples, Source
from mmjax.scenes import draw
from mmjax.types import Feature, UserError

CAPTIONS = ["a", "b", "c"]
FEATURES = {"image": Feature("image", (1, 1, 3)), "text": Feature("text")}


SOURCES = pytest.mark.parametrize("name", ["scenes", "coco_folder", "coco_packed", "coco_tfds", "clips_folder"])


@SOURCES
def test_a_batch_is_what_the_types_say(name: str, roots: dict[str, Path]) -> None:
    source, config = of(name, roots)
    (batch,) = take(training_batches(source, TOKENIZER, config), 1)
    side = config.data.size
    shape = (5, 2, side, side, 3) if name == "clips_folder" else (5, side, side, 3)
    kinds = {k: (batch[k].dtype, batch[k].shape) for k in ("image", "text", "mask")}
    assert kinds == {"image": (np.float32, shape), "text": (np.int32, (5, 13)), "mask": (np.bool_, (5,))}
    assert set(batch) == {"image", "text", "mask", "id", "captions"}
    assert all(isinstance(i, str) for i in batch["id"]) and all(isinstance(c, list) for c in batch["captions"])
    assert -1 <= batch["image"].min() < 0 < batch["image"].max() <= 1
    texts = TOKENIZER.decode(batch["text"])
    known = [TOKENIZER.decode(TOKENIZER.encode(row, 13)) for row in batch["captions"]]
    assert all(text in row for text, row in zip(texts, known, strict=True))


@SOURCES
def test_resuming_gives_bitwise_the_same_batches(name: str, roots: dict[str, Path]) -> None:
    source, config = of(name, roots)
    whole = take(training_batches(source, TOKENIZER, config), 17)
    fresh, _ = of(name, roots)
    for step in (1, 4, 9):
        resumed = take(training_batches(fresh, TOKENIZER, config, step), 2)
        assert all(same(a, b) for a, b in zip(whole[step : step + 2], resumed, strict=True)), step
    assert not same(whole[0], whole[1])


@SOURCES
def test_every_epoch_is_another_permutation_of_all_examples(name: str, roots: dict[str, Path]) -> None:
    source, config = of(name, roots)
    ids = [i for batch in take(training_batches(source, TOKENIZER, config), 4 * TRAINING // 5 + 1) for i in batch["id"]]
    epochs = [tuple(ids[e * TRAINING : (e + 1) * TRAINING]) for e in range(4)]
    assert all(len(set(epoch)) == TRAINING for epoch in epochs) and len(set(map(frozenset, epochs))) == 1
    assert len(set(epochs)) == 4 and tuple(sorted(epochs[0], key=int if name != "scenes" else str)) not in epochs
    other, _ = of(name, roots)
    changed = dataclasses.replace(config, seed=4)
    reseeded = [i for batch in take(training_batches(other, TOKENIZER, changed), 5) for i in batch["id"]]
    assert sorted(reseeded[:TRAINING]) == sorted(epochs[0]) and tuple(reseeded[:TRAINING]) != epochs[0]


@SOURCES
def test_processes_share_the_same_global_batches(name: str, roots: dict[str, Path]) -> None:
    processes = 3
    source, config = of(name, roots, batch=6)
    whole = take(training_batches(source, TOKENIZER, config, 2), 4)
    shares = [take(training_batches(source, TOKENIZER, config, 2, p, processes), 4) for p in range(processes)]
    for batch, *parts in zip(whole, *shares, strict=True):
        joined = {k: np.concatenate([p[k] for p in parts]) for k in ("image", "text", "mask")}
        assert same(batch, joined | {k: [x for p in parts for x in p[k]] for k in ("id", "captions")})


@SOURCES
@pytest.mark.parametrize(("processes", "limit"), [(3, 0), (2, 5)])
def test_evaluation_covers_each_example_exactly_once(
    name: str, processes: int, limit: int, roots: dict[str, Path]
) -> None:
    limit = limit or (61 if name == "scenes" else 0)
    source, config = of(name, roots, training=False, batch=6, evaluation_examples=limit)
    count = config.data.evaluation_examples or EVALUATION
    passes = [list(evaluation_batches(source, TOKENIZER, config, p, processes)) for p in range(processes)]
    assert {len(batches) for batches in passes} == {-(-count // 6)}
    rows = [
        (i, mask, captions, text)
        for parts in zip(*passes, strict=True)
        for part in parts
        for i, mask, captions, text in zip(part["id"], part["mask"], part["captions"], part["text"], strict=True)
    ]
    assert len(rows) == -(-count // 6) * 6 and len({i for i, *_ in rows[:count]}) == count
    assert all(mask and captions for _, mask, captions, _ in rows[:count])
    assert all((i, bool(m), c, t.tolist()) == ("", False, [], [3] + [0] * 12) for i, m, c, t in rows[count:])
    for _, _, captions, text in rows[:count]:
        assert np.array_equal(text, TOKENIZER.encode(captions[:1], 13)[0])


@pytest.mark.parametrize("name", ["coco_folder", "coco_tfds"])
def test_the_broken_image_is_masked_in_its_place(name: str, roots: dict[str, Path]) -> None:
    source, config = of(name, roots)
    batches = take(training_batches(source, TOKENIZER, config), 9)
    assert {i for b in batches for i, m in zip(b["id"], b["mask"], strict=True) if not m} == {"5"}
    masked = sum(int((~b["mask"]).sum()) for b in batches)
    assert masked >= 1 and masked <= source.num_corrupt <= masked + 1  # some batches are made ahead


@pytest.mark.parametrize("name", ["coco_folder", "coco_tfds"])
def test_caption_draws_cover_all_alike_and_change_by_epoch(name: str, roots: dict[str, Path]) -> None:
    source, config = of(name, roots, batch=TRAINING)
    drawn: Counter[str] = Counter()
    for batch in take(training_batches(source, TOKENIZER, config), 19):
        drawn.update(TOKENIZER.decode(batch["text"]))
    assert len(drawn) > 0.95 * 5 * TRAINING
    by_place = Counter(text[-1] for text in drawn.elements())
    # 437 draws of one in five: 87 each, standard deviation 8.4.
    assert set(by_place) == set("01234") and all(57 < count < 117 for count in by_place.values())


def counting_source(read: Any = None, size: int = 7) -> Source:
    def rows(spec: Any) -> Iterator[Examples]:
        for n in spec.positions():
            image = np.zeros((len(n), 2, 2, 3), np.float32)
            fields = {"key": n % size, "epoch": n // size, "id": [str(i) for i in n], "captions": [CAPTIONS] * len(n)}
            yield {"image": image, "mask": np.ones(len(n), np.bool_), **fields}

    return Source("counting", size, FEATURES, lambda: iter(CAPTIONS), read or rows)


def test_an_example_without_captions_gets_an_empty_text() -> None:
    def read(spec: Any) -> Iterator[Examples]:
        yield next(counting_source().read(spec)) | {"captions": [[]] * 5}

    for make in (training_batches, evaluation_batches):
        assert (
            next(make(counting_source(read), TOKENIZER, config_dict("scenes")))["text"].tolist() == [[3] + [0] * 12] * 5
        )


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mmjax-data")]


def test_the_thread_ends_with_its_iterator() -> None:
    config = config_dict("scenes")
    unstarted = training_batches(counting_source(), TOKENIZER, config)
    assert not threads()
    closed, collected = (training_batches(counting_source(), TOKENIZER, config) for _ in range(2))
    next(closed), next(collected)
    assert len(threads()) == 2
    closed.close()  # type: ignore[attr-defined]
    assert len(threads()) == 1
    del collected
    gc.collect()
    assert not threads()
    assert next(unstarted)["id"] == ["0", "1", "2", "3", "4"]


def test_batches_are_made_ahead_but_not_without_bound() -> None:
    asked = []

    def read(spec: Any) -> Iterator[Examples]:
        for rows in counting_source().read(spec):
            asked.append(rows)
            yield rows

    batches = training_batches(counting_source(read), TOKENIZER, config_dict("scenes"))
    next(batches)
    deadline = time.monotonic() + 5
    while len(asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(asked) == 4  # one taken, two waiting, one in hand


def test_an_error_in_the_thread_reaches_the_caller() -> None:
    def read(spec: Any) -> Iterator[Examples]:
        yield next(counting_source().read(spec))
        raise UserError("the disk is gone")

    batches = training_batches(counting_source(read), TOKENIZER, config_dict("scenes"))
    next(batches)
    with pytest.raises(UserError, match="the disk is gone"):
        next(batches)
    assert not threads()


@settings(max_examples=17)
@given(seed=st.integers(0, 2**32 - 1), step=st.integers(0, 10**9))
def test_any_seed_and_step_will_do(seed: int, step: int) -> None:
    config = config_dict("scenes", seed=seed, scenes={"examples": 7})
    source = open_source(config.data, True, config.seed)
    first, second = (take(training_batches(source, TOKENIZER, config, step), 1)[0] for _ in range(2))
    assert same(first, second)


def test_a_batch_that_processes_cannot_share_is_one_line() -> None:
    source = counting_source()
    with pytest.raises(UserError, match=r"train\.batch: 5 cannot be shared equally by 3 processes"):
        training_batches(source, TOKENIZER, config_dict("scenes"), 0, 1, 3)
    with pytest.raises(UserError, match=r"evaluate\.batch: 5"):
        evaluation_batches(source, TOKENIZER, config_dict("scenes"), 1, 2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_does_not_grow_over_twenty_epochs(tmp_path: Path) -> None:
    write_coco(tmp_path, "train2017", {n: jpeg(n, height=600, width=800) for n in range(16)})
    config = config_dict(
        "coco_folder", tmp_path, batch=16, size=300, resize=300
    )  # 23 MB an epoch decoded, 17 MB of batches
    batches = training_batches(open_source(config.data, True, 0), TOKENIZER, config)

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    series = []
    for _ in range(20):
        assert next(batches)["mask"].all()
        series.append(resident())
    batches.close()  # type: ignore[attr-defined]
    assert max(series[10:]) - max(series[:10]) < 60, series  # what kept either of them would grow by 170 MB or more


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)


@pytest.mark.parametrize("name", ["scenes", "coco_folder", "coco_packed"])
def test_these_need_no_tensorflow(name: str, roots: dict[str, Path]) -> None:
    done = run(
        """
import sys
from importlib.machinery import PathFinder
absent = {"tensorflow"} | ({"tensorflow_datasets"} if sys.argv[1] != "coco_packed" else set())
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in absent else find(name, *rest)
sys.path.insert(0, "tests/data")
from made_data import config_dict
import mmjax.data as data
config = config_dict(*sys.argv[1:])
source = data.open_source(config.data, True, 0)
tokenizer = data.load_tokenizer(data.train_tokenizer(source.all_captions(), 300))
batch = next(data.training_batches(source, tokenizer, config))
evaluation = data.open_source(config.data, False, 0)
assert not absent & sys.modules.keys()
print(len(batch["image"]), sum(int(b["mask"].sum()) for b in data.evaluation_batches(evaluation, tokenizer, config)))
""",
        name,
        roots[name],
    )
    assert done.stdout.strip() == f"5 {512 if name == 'scenes' else EVALUATION}", done.stderr


def test_importing_opens_no_tensorflow_and_a_program_may_end_while_batches_are_made(roots: dict[str, Path]) -> None:
    done = run(
        """
import sys
sys.path.insert(0, "tests/data")
from made_data import config_dict
import mmjax.data as data
assert "tensorflow" not in sys.modules and "tensorflow_datasets" not in sys.modules
config = config_dict("coco_folder", sys.argv[1])
source = data.open_source(config.data, True, 0)
tokenizer = data.load_tokenizer(data.train_tokenizer(source.all_captions(), 300))
batches = data.training_batches(source, tokenizer, config)
print(len(next(batches)["id"]))
""",
        roots["coco_folder"],
    )
    assert (done.returncode, done.stdout.strip()) == (0, "5"), done.stderr


def test_tfds_that_is_not_prepared_is_one_line(roots: dict[str, Path], tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=f"{root}: no prepared coco_captions there; .*tfds build coco_captions"):
            open_source(config_dict("coco_tfds", root).data, True, 0)
    with pytest.raises(UserError, match="has no split training; it has train, val"):
        open_source(config_dict("coco_tfds", roots["coco_tfds"], train_split="training").data, True, 0)
    part, _ = of("coco_tfds", roots, train_split="train[:10]")
    assert part.size == 10 and len(list(part.all_captions())) == 50


def test_tfds_with_a_damaged_or_missing_file_is_one_line(roots: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    root = Path(shutil.copytree(roots["coco_tfds"], tmp_path / "copy"))
    files = sorted(root.rglob("*train.tfrecord*"))
    assert len(files) == 3
    source, config = of("coco_tfds", {"coco_tfds": root})
    files[1].write_bytes(files[1].read_bytes()[:-999])
    for use in (lambda: list(source.all_captions()), lambda: take(training_batches(source, TOKENIZER, config), 9)):
        with pytest.raises(UserError, match=r"coco_tfds: cannot be read: .*is the data set complete") as error:
            use()
        assert "\n" not in str(error.value)
    files[1].unlink()
    with pytest.raises(UserError, match="cannot be read"):
        list(source.all_captions())


def test_mirrored_scenes_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.flip"):
        open_source(config_dict("scenes", flip=True).data, True, 0)


def test_scenes_for_evaluation_are_held_out_and_drawn_as_training_goes() -> None:
    from mmjax.scenes.grammar import parse

    config = config_dict("scenes", scenes={"examples": 101})
    training, evaluation = (open_source(config.data, flag, 5) for flag in (True, False))
    assert (training.size, evaluation.size) == (101, 512)
    assert not any(parse(caption).held_out for caption in training.all_captions())
    assert all(parse(caption).held_out for caption in itertools.islice(evaluation.all_captions(), 101))
    assert list(training.all_captions()) == list(open_source(config.data, True, 5).all_captions())
    assert list(training.all_captions()) != list(open_source(config.data, True, 6).all_captions())
    assert config.data.scenes == ScenesConfig(examples=101)


@pytest.mark.parametrize("fully_specified", [True, False])
def test_captions_of_scenes_are_told_without_drawing(fully_specified: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_dict("scenes", scenes={"examples": 23, "fully_specified": fully_specified})
    drawn = [draw.example(i, 32, 5, fully_specified, False)[1] for i in range(23)]

    def no_image(*arguments: Any) -> None:
        raise AssertionError("an image was drawn")

    monkeypatch.setattr(draw, "draw", no_image)
    assert list(open_source(config.data, True, 5).all_captions()) == drawn


def test_an_evaluation_takes_all_examples_or_the_first_so_many() -> None:
    for wanted, size in ((0, 512), (7, 7), (513, 512)):
        config = config_dict("scenes", evaluation_examples=wanted)
        source = open_source(config.data, False, 5)
        assert data.evaluation_size(source, config) == size
        rows = [row for batch in evaluation_batches(source, TOKENIZER, config) for row in batch["mask"]]
        assert sum(rows) == size
