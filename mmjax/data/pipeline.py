"""Batches for training and for evaluation: plain NumPy, prepared in the background."""

import atexit
import dataclasses
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mmjax.config import Config, DataConfig
from mmjax.data.caption_cache import CaptionCache
from mmjax.data.questions import most_frequent
from mmjax.data.source import Reading, Rows, Source, share
from mmjax.data.text import Tokenizer
from mmjax.types import PADDING, Batch, InputStats, UserError

PREPARED = 2  # batches made ahead
LOGGED = 10  # images that could not be read are named up to so many
AT_LEAST = 100  # images read before a share of them means something
NOT_OF_A_BATCH = ("key", "epoch", "part", "problem", "reading")  # fields of rows

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
    the answers, drawn anew each epoch.

    Args:
        process, processes: which of the equal parts of each global batch to make.
        position: where the first batch begins, if it is not there: behind the examples of steps with other batches.

    Raises:
        UserError: where the processes cannot share a batch equally.
    """
    first, rows = _part("train.batch", config.train.batch, process, processes)
    seed = config.seed % 2**32
    start = start_step * config.train.batch if position is None else position
    reading = make_reading(config.data, start, None, config.train.batch, first, rows, True, seed)

    def batches() -> Iterator[Batch]:
        known = CaptionCache(tokenizer, config.text.length)
        for part in _timed(source.read(reading), source.feed):
            texts = _drawn(seed, part, "captions")
            answers = _drawn(seed, part, "answers", 5) if "answers" in part else []
            begin = time.perf_counter()
            encoded = _encoded(source, part, texts, answers, known.encode)
            source.feed.spend("tokenizing", time.perf_counter() - begin)
            yield _batch(source, part, texts, encoded)

    return in_background(batches, source.feed)


def evaluation_batches(
    source: Source, tokenizer: Tokenizer, config: Config, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """One pass over the examples in order, each exactly once; `text` is the first caption, `answer` the most frequent.

    The last batch is filled up with rows of mask False, id "" and an empty text. Every process gets equally many
    batches.

    Args:
        process, processes: which of the equal parts of each global batch to make.

    Raises:
        UserError: where the processes cannot share a batch equally.
    """
    first, rows = _part("evaluate.batch", config.evaluate.batch, process, processes)
    stop = evaluation_size(source, config)
    reading = make_reading(config.data, 0, stop, config.evaluate.batch, first, rows, False, 0)

    def encode(texts: Sequence[str]) -> np.ndarray:
        return tokenizer.encode(texts, config.text.length)

    empty = np.full_like(encode([""]), PADDING) if source.lacks_captions else encode([""])

    def batches() -> Iterator[Batch]:
        parts, part = source.read(reading), None
        for _ in range(0, stop, config.evaluate.batch):
            part = next(parts, None) or _nothing(source, reading, part)
            texts = [captions[0] if captions else "" for captions in part["captions"]]
            answers = [most_frequent(given) for given in part.get("answers", [])]
            yield _filled(_batch(source, part, texts, _encoded(source, part, texts, answers, encode)), rows, empty)

    return in_background(batches)


def evaluation_size(source: Source, config: Config) -> int:
    """How many examples of the source an evaluation takes: all, or the first data.evaluation_examples."""
    if config.data.mixture:  # each has its own, which the mixture keeps to
        return source.size
    return min(source.size, config.data.evaluation_examples or source.size)


def make_reading(
    data: DataConfig, start: int, stop: int | None, batch: int, first: int, rows: int, training: bool, seed: int
) -> Reading:
    """A Reading of one process's share (see source.share) of images prepared as the config's data says."""
    shares = functools.partial(share, start, stop, batch, first, rows)
    return Reading(shares, training, seed, data.size, data.resize, training and data.flip)


def _part(field: str, batch: int, process: int, processes: int) -> tuple[int, int]:
    if batch % processes:
        raise UserError(f"{field}: {batch} cannot be shared equally by {processes} processes; take a multiple")
    rows = batch // processes
    return process * rows, rows


def _drawn(seed: int, part: Rows, name: str, *apart: int) -> list[str]:
    """One of each row's texts of that name, "" where there is none; `apart` keeps the draws from those of others."""
    drawn = []
    for epoch, key, texts in zip(part["epoch"].tolist(), part["key"].tolist(), part[name], strict=True):
        place = 0
        if len(texts) > 1:
            place = int(np.random.default_rng((seed, epoch, key % 2**63, *apart)).integers(len(texts)))
        drawn.append(texts[place] if texts else "")
    return drawn


def _encoded(
    source: Source, part: Rows, texts: Sequence[str], answers: Sequence[str], encode: Callable[[Sequence[str]], Any]
) -> Batch:
    """Token ids of what is drawn; all padding in rows that have no such text."""
    fields: Batch = {"text": encode(texts)}
    if source.lacks_captions:
        fields["text"][[not captions for captions in part["captions"]]] = PADDING
    if "questions" in part:
        fields |= {"question": encode(part["questions"]), "answer": encode(answers)}
        fields["question"][[not question for question in part["questions"]]] = PADDING
        fields["answer"][[not given for given in part["answers"]]] = PADDING
    return fields


def _batch(source: Source, part: Rows, texts: Sequence[str], encoded: Batch) -> Batch:
    report_rejected(source, part)
    batch = dict(encoded)
    if source.text_features:
        begin = time.perf_counter()
        batch["text_features"] = source.text_features(texts)
        source.feed.spend("reading text features", time.perf_counter() - begin)
    batch |= {name: values for name, values in part.items() if name not in NOT_OF_A_BATCH}
    if "label" in batch:
        batch["label"] = batch["label"].astype(np.int32)
    return batch


def report_rejected(source: Source, part: Rows) -> None:
    """Counts the images and clips that could not be read, and names the first of them in the log.

    Raises:
        UserError: where they are more than the source's max_corrupt_fraction.
    """
    if source.parts:
        _report_parts(source, part)
        return
    label = source.name if source.field == "data" else source.field
    source.examined += len(part["mask"])
    for i in np.flatnonzero(~part["mask"]):
        source.rejected += 1
        if len(source.named) < LOGGED and part["id"][i] not in source.named:
            source.named.append(part["id"][i])
        if source.rejected <= LOGGED:
            last = "; further ones are only counted" if source.rejected == LOGGED else ""
            problem = part["problem"][i] if "problem" in part else f"image {part['id'][i]} cannot be read"
            logger.warning("%s: %s and is masked out%s", label, problem, last)
    if source.rejected > source.max_corrupt_fraction * max(source.examined, AT_LEAST):
        raise UserError(
            f"{source.field}.source {source.name}: {source.rejected:,} of the first {source.examined:,} could not be "
            f"read, more than {source.field}.max_corrupt_fraction={source.max_corrupt_fraction:g} of them; the first: "
            f"{', '.join(source.named)}; mend them, or raise {source.field}.max_corrupt_fraction"
        )


def _report_parts(source: Source, rows: Rows) -> None:
    """Reports what each part of a mixture could not read as its own."""
    for number, part in enumerate(source.parts):
        chosen = np.flatnonzero(rows["part"] == number)
        theirs: Rows = {name: [rows[name][i] for i in chosen] for name in ("id", "problem")}
        report_rejected(part, theirs | {"mask": rows["mask"][chosen]})
    source.examined = sum(part.examined for part in source.parts)
    source.rejected = sum(part.rejected for part in source.parts)


def _timed(parts: Iterator[Rows], feed: InputStats) -> Iterator[Rows]:
    """Passes on what a source gives, and notes what it took."""
    while True:
        begin = time.perf_counter()
        part = next(parts, None)
        seconds = time.perf_counter() - begin
        if part is None:
            return
        reading = min(part.get("reading", 0.0), seconds)
        feed.spend("reading", reading)
        feed.spend("preparing images", seconds - reading)
        yield part


def _nothing(source: Source, reading: Reading, last: Rows | None) -> Rows:
    """No rows, with the fields of those before; a process that never had any reads one example to know them."""
    if last is None:
        first = dataclasses.replace(reading, shares=lambda: share(0, 1, 1, 0, 1))
        last = next(source.read(first))
    return {name: values[:0] for name, values in last.items() if name != "reading"}


def _filled(batch: Batch, rows: int, empty: np.ndarray) -> Batch:
    missing = rows - len(batch["id"])
    if not missing:
        return batch
    blank: Batch = {"id": "", "captions": [], "questions": "", "answers": []}
    filled: Batch = {name: [*values, *[blank[name]] * missing] for name, values in batch.items() if name in blank}
    for name in batch.keys() - filled.keys():
        values = batch[name]
        none = np.full((missing, *values.shape[1:]), -1 if name == "label" else 0, values.dtype)
        filled[name] = np.concatenate([values, empty.repeat(missing, axis=0) if name == "text" else none])
    return filled


def in_background(batches: Callable[[], Iterator[Batch]], feed: InputStats | None = None) -> Iterator[Batch]:
    """Runs the iterator in a thread, which starts with the first batch asked for.

    The thread ends when the returned generator is closed or collected, and before the interpreter is torn down.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(PREPARED)
    stop = threading.Event()
    thread = threading.Thread(target=_work, args=(batches, ready, stop), name="mmjax-data", daemon=True)
    finish = functools.partial(_finish, thread, stop)
    thread.start()
    atexit.register(finish)
    try:
        while True:
            if feed:
                feed.ready = ready.qsize()
            item = ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        finish()
        atexit.unregister(finish)


def _work(batches: Callable[[], Iterator[Batch]], ready: queue.Queue, stop: threading.Event) -> None:
    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    try:
        for batch in batches():
            put(batch)
            if stop.is_set():
                return
        put(None)
    except BaseException as error:  # whatever it is, it belongs to whoever waits for the batch
        put(error)


def _finish(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread is not threading.current_thread():  # which may be where the garbage collector runs
        thread.join()
