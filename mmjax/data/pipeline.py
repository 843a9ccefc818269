"""Batches for training and evaluation, prefetched NumPy arrays."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmjax.config import Config, DataConfig
from mmjax.data.source import Examples, ReadSpec, Source, process_shards
from mmjax.data.text import TextTokenizer
from mmjax.data.vqa import most_frequent
from mmjax.types import PADDING, Batch, InputStats, UserError

AHEAD = 3  # batches made ahead
MAX_LOGGED = 10  # unreadable images named in the log
MIN_READ = 100  # images before their corrupt fraction is meaningful
NOT_IN_BATCH = ("key", "epoch", "component", "problem", "read_seconds")  # fields of Examples

logger = logging.getLogger(__name__)


def training_batches(
    source: Source,
    tokenizer: TextTokenizer,
    config: Config,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    position: int | None = None,
) -> Iterator[Batch]:
    """Yields training batches endlessly, from `start_step` on.

    The global batch of step k holds the positions from k * train.batch on, shuffled in each epoch; it is a function of
    the config and k. `text` is a random caption and `answer` a random answer of the example, resampled each epoch.

    Args:
        process, processes: the equal slice of each global batch to make.
        position: of the first example, if not start_step * train.batch, as after a change of the batch size.

    Raises:
        UserError: where the processes cannot share a batch equally.
    """
    first, count = _process_batch_slice("train.batch", config.train.batch, process, processes)
    seed = config.seed % 2**32
    start = start_step * config.train.batch if position is None else position
    spec = make_read_spec(config.data, start, None, config.train.batch, first, count, True, seed)

    def batches() -> Iterator[Batch]:
        encode = functools.partial(tokenizer.encode, length=config.text.length)
        for examples in _timed(source.read(spec), source.input_stats):
            texts = _sample_texts(seed, examples, "captions")
            answers = _sample_texts(seed, examples, "answers", 5) if "answers" in examples else []
            yield _make_batch(source, examples, texts, answers, encode)

    return prefetch(batches, source.input_stats)


def evaluation_batches(
    source: Source, tokenizer: TextTokenizer, config: Config, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """Yields each example once, in order; `text` is the first caption, `answer` the most frequent.

    The last batch is padded with examples of mask False, id "" and an empty text. Every process gets equally many
    batches.

    Args:
        process, processes: the equal slice of each global batch to make.

    Raises:
        UserError: where the processes cannot share a batch equally.
    """
    first, count = _process_batch_slice("evaluate.batch", config.evaluate.batch, process, processes)
    stop = evaluation_size(source, config)
    spec = make_read_spec(config.data, 0, stop, config.evaluate.batch, first, count, False, 0)

    encode = functools.partial(tokenizer.encode, length=config.text.length)
    empty = np.full_like(encode([""]), PADDING) if source.captions_optional else encode([""])

    def batches() -> Iterator[Batch]:
        stream, examples = source.read(spec), None
        for _ in range(0, stop, config.evaluate.batch):
            examples = next(stream, None) or _no_examples(source, spec, examples)
            texts = [captions[0] if captions else "" for captions in examples["captions"]]
            answers = [most_frequent(texts) for texts in examples.get("answers", [])]
            batch = _make_batch(source, examples, texts, answers, encode)
            yield _pad_batch(batch | {"key": _short_keys(examples["key"])}, count, empty)

    return prefetch(batches)


def prefetch(batches: Callable[[], Iterator[Batch]], stats: InputStats | None = None) -> Iterator[Batch]:
    """Runs an iterator in a thread, which starts with the first batch.

    The thread ends when the generator is closed or collected, and before the interpreter shuts down.
    """
    stream, pool = batches(), ThreadPoolExecutor(1, "mmjax-data")
    ahead = deque(pool.submit(next, stream, None) for _ in range(AHEAD))
    try:
        while True:
            if stats:
                stats.ready = sum(future.done() for future in ahead)
            batch = ahead.popleft().result()
            if batch is None:
                return
            ahead.append(pool.submit(next, stream, None))
            yield batch
    finally:
        with contextlib.suppress(RuntimeError):  # the garbage collector may run in the thread, which cannot join itself
            pool.shutdown(cancel_futures=True)


def evaluation_size(source: Source, config: Config) -> int:
    """Number of evaluation examples: all, or data.evaluation_examples."""
    if config.data.mixture:  # applied to each component by the mixture
        return source.size
    return min(source.size, config.data.evaluation_examples or source.size)


def make_read_spec(
    data: DataConfig, start: int, stop: int | None, batch: int, first: int, count: int, training: bool, seed: int
) -> ReadSpec:
    """The ReadSpec of a process; see source.process_shards."""
    shards = functools.partial(process_shards, start, stop, batch, first, count)
    return ReadSpec(shards, training, seed, data.size, data.resize, training and data.flip)


def _process_batch_slice(field: str, batch: int, process: int, processes: int) -> tuple[int, int]:
    """The first example and the number of examples of a process in each global batch."""
    if batch % processes:
        raise UserError(f"{field}: {batch} cannot be shared equally by {processes} processes; take a multiple")
    return process * (batch // processes), batch // processes


def _short_keys(keys: np.ndarray) -> np.ndarray:
    """The keys in 32 bits, which are all that random keys take."""
    wide = keys.astype(np.uint64)
    return ((wide ^ (wide >> np.uint64(32))) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def _sample_texts(seed: int, examples: Examples, name: str, *stream: int) -> list[str]:
    """Samples one text of each example's `name`, "" without any; `stream` distinguishes random streams."""

    def sample(epoch: int, key: int, texts: list[str]) -> str:
        if len(texts) < 2:
            return texts[0] if texts else ""
        return texts[np.random.default_rng((seed, epoch, key % 2**63, *stream)).integers(len(texts))]

    return list(map(sample, examples["epoch"].tolist(), examples["key"].tolist(), examples[name]))


def _make_batch(
    source: Source,
    examples: Examples,
    texts: Sequence[str],
    answers: Sequence[str],
    encode: Callable[[Sequence[str]], np.ndarray],
) -> Batch:
    """Makes a batch with the encoded texts, which are all padding in examples without one."""
    report_corrupt(source, examples)
    begin = time.perf_counter()
    batch: Batch = {"text": encode(texts)}
    if source.captions_optional:
        batch["text"][[not captions for captions in examples["captions"]]] = PADDING
    if "questions" in examples:
        batch |= {"question": encode(examples["questions"]), "answer": encode(answers)}
        batch["question"][[not question for question in examples["questions"]]] = PADDING
        batch["answer"][[not texts for texts in examples["answers"]]] = PADDING
    source.input_stats.spend("tokenizing", time.perf_counter() - begin)
    if source.text_features:
        begin = time.perf_counter()
        batch["text_features"] = source.text_features(texts)
        source.input_stats.spend("reading text features", time.perf_counter() - begin)
    batch |= {name: values for name, values in examples.items() if name not in NOT_IN_BATCH}
    if "label" in batch:
        batch["label"] = batch["label"].astype(np.int32)
    return batch


def report_corrupt(source: Source, examples: Examples) -> None:
    """Counts unreadable images and clips, and logs the first of them.

    Raises:
        UserError: where they exceed the source's max_corrupt_fraction.
    """
    if source.components:
        for number, component in enumerate(source.components):
            chosen = np.flatnonzero(examples["component"] == number)
            subset: Examples = {name: [examples[name][i] for i in chosen] for name in ("id", "problem")}
            report_corrupt(component, subset | {"mask": examples["mask"][chosen]})
        return
    label = source.name if source.field == "data" else source.field
    source.num_read += len(examples["mask"])
    for i in np.flatnonzero(~examples["mask"]):
        name = examples["id"][i]
        source.num_corrupt += 1
        if len(source.corrupt_ids) < MAX_LOGGED and name not in source.corrupt_ids:
            source.corrupt_ids.append(name)
        if source.num_corrupt <= MAX_LOGGED:
            last = "; further ones are only counted" if source.num_corrupt == MAX_LOGGED else ""
            problem = examples["problem"][i] if "problem" in examples else f"image {name} cannot be read"
            logger.warning("%s: %s and is masked out%s", label, problem, last)
    if source.num_corrupt > source.max_corrupt_fraction * max(source.num_read, MIN_READ):
        raise UserError(
            f"{source.field}.source {source.name}: {source.num_corrupt:,} of the first {source.num_read:,} could not "
            f"be read, more than {source.field}.max_corrupt_fraction={source.max_corrupt_fraction:g} of them; the "
            f"first: {', '.join(source.corrupt_ids)}; replace them, or raise {source.field}.max_corrupt_fraction"
        )


def _timed(stream: Iterator[Examples], stats: InputStats) -> Iterator[Examples]:
    """Measures the time of reading and preparing examples."""
    begin = time.perf_counter()
    for examples in stream:
        seconds = time.perf_counter() - begin
        waited = min(examples.get("read_seconds", 0.0), seconds)
        stats.spend("reading", waited)
        stats.spend("preparing images", seconds - waited)
        yield examples
        begin = time.perf_counter()


def _no_examples(source: Source, spec: ReadSpec, last: Examples | None) -> Examples:
    """An empty batch with the fields of the last one; without one, reads an example for them."""
    if last is None:
        first = dataclasses.replace(spec, shards=lambda: process_shards(0, 1, 1, 0, 1))
        last = next(source.read(first))
    return {name: values[:0] for name, values in last.items() if name != "read_seconds"}


def _pad_batch(batch: Batch, count: int, empty: np.ndarray) -> Batch:
    """Pads a batch to `count` examples with blank ones, whose text is `empty` [1, t]."""
    missing = count - len(batch["id"])
    if not missing:
        return batch
    blank: Batch = {"id": "", "captions": [], "questions": "", "answers": []}
    padded: Batch = {name: [*values, *[blank[name]] * missing] for name, values in batch.items() if name in blank}
    for name in batch.keys() - padded.keys():
        values = batch[name]
        none = np.full((missing, *values.shape[1:]), -1 if name == "label" else 0, values.dtype)
        padded[name] = np.concatenate([values, empty.repeat(missing, axis=0) if name == "text" else none])
    return padded
