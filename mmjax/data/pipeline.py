"""Batches for training and for evaluation: plain NumPy, prefetched."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mmjax.config import Config, DataConfig
from mmjax.data.prefetch import prefetch
from mmjax.data.questions import most_frequent
from mmjax.data.source import Examples, ReadSpec, Source, process_shards
from mmjax.data.text import Tokenizer
from mmjax.types import PADDING, Batch, InputStats, UserError

MAX_LOGGED = 10  # images that could not be read that are named in the log
MIN_READ = 100  # images read before a fraction of them means something
NOT_IN_BATCH = ("key", "epoch", "component", "problem", "read_seconds")  # fields of Examples

logger = logging.getLogger(__name__)


def training_batches(
    source: Source,
    tokenizer: Tokenizer,
    config: Config,
    start_step: int = 0,
    process: int = 0,
    processes: int = 1,
    position: int | None = None,
) -> Iterator[Batch]:
    """Endless training batches, one a step, from `start_step` on.

    The global batch of step k holds the positions from k * train.batch on of the stream of epochs, each epoch another
    order of all examples; it is a pure function of the config and k. `text` is one of the captions and `answer` one of
    the answers, drawn again each epoch.

    Args:
        process, processes: which of the equal parts of each global batch to make.
        position: of the first example, where it is not start_step * train.batch: earlier steps had other batch sizes.

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
            texts = _draw_texts(seed, examples, "captions")
            answers = _draw_texts(seed, examples, "answers", 5) if "answers" in examples else []
            begin = time.perf_counter()
            encoded = _encode_texts(source, examples, texts, answers, encode)
            source.input_stats.spend("tokenizing", time.perf_counter() - begin)
            yield _make_batch(source, examples, texts, encoded)

    return prefetch(batches, source.input_stats)


def evaluation_batches(
    source: Source, tokenizer: Tokenizer, config: Config, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """One pass over the examples in order, each exactly once; `text` is the first caption, `answer` the most frequent.

    The last batch is padded with examples of mask False, id "" and an empty text. Every process gets equally many
    batches.

    Args:
        process, processes: which of the equal parts of each global batch to make.

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
            answers = [most_frequent(given) for given in examples.get("answers", [])]
            encoded = _encode_texts(source, examples, texts, answers, encode)
            yield _pad_batch(_make_batch(source, examples, texts, encoded), count, empty)

    return prefetch(batches)


def evaluation_size(source: Source, config: Config) -> int:
    """How many examples of the source an evaluation takes: all, or the first data.evaluation_examples."""
    if config.data.mixture:  # each has its own, which the mixture keeps to
        return source.size
    return min(source.size, config.data.evaluation_examples or source.size)


def make_read_spec(
    data: DataConfig, start: int, stop: int | None, batch: int, first: int, count: int, training: bool, seed: int
) -> ReadSpec:
    """What one process reads (see source.process_shards), of images prepared as the config's data says."""
    shards = functools.partial(process_shards, start, stop, batch, first, count)
    return ReadSpec(shards, training, seed, data.size, data.resize, training and data.flip)


def _process_batch_slice(field: str, batch: int, process: int, processes: int) -> tuple[int, int]:
    """The first example of a process in each global batch, and how many it has."""
    if batch % processes:
        raise UserError(f"{field}: {batch} cannot be shared equally by {processes} processes; take a multiple")
    return process * (batch // processes), batch // processes


def _draw_texts(seed: int, examples: Examples, name: str, *apart: int) -> list[str]:
    """One text of each example's `name`, "" where it has none; `apart` keeps the draws from those of others."""
    drawn = []
    for epoch, key, texts in zip(examples["epoch"].tolist(), examples["key"].tolist(), examples[name], strict=True):
        place = 0
        if len(texts) > 1:
            place = int(np.random.default_rng((seed, epoch, key % 2**63, *apart)).integers(len(texts)))
        drawn.append(texts[place] if texts else "")
    return drawn


def _encode_texts(
    source: Source,
    examples: Examples,
    texts: Sequence[str],
    answers: Sequence[str],
    encode: Callable[[Sequence[str]], np.ndarray],
) -> Batch:
    """Token ids of what is drawn; all padding in examples that have no such text."""
    fields: Batch = {"text": encode(texts)}
    if source.captions_optional:
        fields["text"][[not captions for captions in examples["captions"]]] = PADDING
    if "questions" in examples:
        fields |= {"question": encode(examples["questions"]), "answer": encode(answers)}
        fields["question"][[not question for question in examples["questions"]]] = PADDING
        fields["answer"][[not given for given in examples["answers"]]] = PADDING
    return fields


def _make_batch(source: Source, examples: Examples, texts: Sequence[str], encoded: Batch) -> Batch:
    report_corrupt(source, examples)
    batch = dict(encoded)
    if source.text_features:
        begin = time.perf_counter()
        batch["text_features"] = source.text_features(texts)
        source.input_stats.spend("reading text features", time.perf_counter() - begin)
    batch |= {name: values for name, values in examples.items() if name not in NOT_IN_BATCH}
    if "label" in batch:
        batch["label"] = batch["label"].astype(np.int32)
    return batch


def report_corrupt(source: Source, examples: Examples) -> None:
    """Counts the images and clips that could not be read, and names the first of them in the log.

    Raises:
        UserError: where they are more than the source's max_corrupt_fraction.
    """
    if source.components:
        _report_components(source, examples)
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


def _report_components(source: Source, examples: Examples) -> None:
    """Reports what each component of a mixture could not read as its own."""
    for number, component in enumerate(source.components):
        chosen = np.flatnonzero(examples["component"] == number)
        own: Examples = {name: [examples[name][i] for i in chosen] for name in ("id", "problem")}
        report_corrupt(component, own | {"mask": examples["mask"][chosen]})
    source.num_read = sum(component.num_read for component in source.components)
    source.num_corrupt = sum(component.num_corrupt for component in source.components)


def _timed(stream: Iterator[Examples], stats: InputStats) -> Iterator[Examples]:
    """Passes on what a source gives, and notes the time it took."""
    while True:
        begin = time.perf_counter()
        examples = next(stream, None)
        seconds = time.perf_counter() - begin
        if examples is None:
            return
        waited = min(examples.get("read_seconds", 0.0), seconds)
        stats.spend("reading", waited)
        stats.spend("preparing images", seconds - waited)
        yield examples


def _no_examples(source: Source, spec: ReadSpec, last: Examples | None) -> Examples:
    """No examples, with the fields of those before; a process that never had any reads one to know them."""
    if last is None:
        first = dataclasses.replace(spec, shards=lambda: process_shards(0, 1, 1, 0, 1))
        last = next(source.read(first))
    return {name: values[:0] for name, values in last.items() if name != "read_seconds"}


def _pad_batch(batch: Batch, count: int, empty: np.ndarray) -> Batch:
    """A batch of `count` examples: those missing are blank, with `empty` [1, t] as their text."""
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
