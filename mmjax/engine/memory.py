"""Memory: what a training takes at least, told before anything is built, and what would fit where it is exhausted."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax

from mmjax.config import Config
from mmjax.engine.setup import is_on_codes
from mmjax.parallel import Placement
from mmjax.train.state import State
from mmjax.types import Params, UserError


def check_batches(config: Config) -> None:
    """Raises UserError where the images of one batch, which a process holds as float32, exceed the memory."""
    shape, most = config.data.image_shape, _host_memory()
    counts = {"evaluate.batch": config.evaluate.batch}  # each process reads all of it
    if not is_on_codes(config):
        counts["train.batch"] = config.train.batch // jax.process_count()
    for name, count in counts.items():
        if (size := 4 * count * math.prod(shape)) > most:
            raise UserError(
                f"{name}: {count:,} images of {list(shape)} take {_gib(size)}, and this machine has {_gib(most)}; "
                "take a smaller one, or smaller images"
            )


def check_state(shapes: State, placement: Placement, base: Params | None = None) -> None:
    """Raises UserError where the state and the gradients exceed the memory of a device.

    Args:
        shapes: of the state, with its shardings.
        base: of the model that a LoRA adds to; None: there is none.
    """
    size = sum(map(_bytes, jax.tree.leaves((shapes, shapes.params, base))))
    most, count = _device_memory(placement), sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    if size > most:
        raise UserError(
            f"model: {count:,} parameters with their gradients and the optimizer's state take {_gib(size)} of each "
            f"device, and it has {_gib(most)}; take a smaller model, or shard it over more devices with mesh.fsdp"
        )


def _bytes(leaf: Any) -> int:
    """Of a leaf's part on one device."""
    return int(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize)


def _device_memory(placement: Placement) -> float:
    """Bytes of one device of the mesh; infinite if unknown."""
    (device, *others) = [each for each in placement.mesh.devices.flat if each.process_index == jax.process_index()]
    if device.platform == "cpu":
        return _host_memory() / (1 + len(others))
    return float((device.memory_stats() or {}).get("bytes_limit", math.inf))


def _host_memory() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # not on Windows
        return math.inf


def _gib(size: int | float) -> str:
    return f"{size / 2**30:,.1f} GiB"


def out_of_memory(error: Exception) -> str:
    """What an error for lack of memory says, in a line; "" for other errors."""
    if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
        return ""
    return (str(error).strip() or "no memory left").splitlines()[0]


@contextmanager
def explained(advice: Callable[[], str]) -> Iterator[None]:
    """Raises UserError with advice where the block runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if what := out_of_memory(error):
            raise UserError(f"out of memory: {what}; {advice()}") from error
        raise


def halved(option: str, size: int, least: int = 1) -> str:
    """Advises half of a size, which is a multiple of `least`."""
    if size <= least:
        return "the model is too large for this device"
    return f"try {option}={max(size // 2 // least, 1) * least}"


def smaller_evaluation(config: Config, placement: Placement) -> str:
    """Advises half of evaluate.batch."""
    return halved("--config.evaluate.batch", config.evaluate.batch, placement.num_batch_shards)


def smaller_step(config: Config, placement: Placement) -> str:
    """Advises the largest batch of a train step, a half or a quarter and so on, that is estimated to fit.

    Where the size of the memory is not known, as on CPUs, that is a half. A step that is split by grad_accum_steps
    trains alike, unless its losses compare within a microbatch.
    """
    from mmjax.engine import aot_plan  # which training itself needs not

    parts, batch = placement.num_batch_shards * config.optimizer.grad_accum_steps, config.train.batch
    sizes = list(filter(None, ((batch >> n) // parts * parts for n in range(1, batch.bit_length()))))
    size = next(iter(sizes), 0)
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit:
        with suppress(Exception):  # of an estimate; what is to be told is the lack of memory
            size = next((size for size in sizes if aot_plan.step_bytes(config, placement, size) <= limit), 0)
    if not size:
        return "no smaller train.batch fits; take more devices, or a smaller model: mmjax plan estimates what it takes"
    accumulated = config.optimizer.grad_accum_steps * batch // size
    splits = batch % size == 0 and not aot_plan.compares(config)
    alike = f"--config.optimizer.grad_accum_steps={accumulated} or " if splits else ""
    return f"try {alike}--config.train.batch={size}{', which is estimated to fit' if limit else ''}"
