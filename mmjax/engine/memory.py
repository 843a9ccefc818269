"""What is told where the memory of a device, or of the host, is exhausted: what was asked for, and what would fit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import jax

from mmjax.config import Config
from mmjax.parallel import Placement
from mmjax.types import UserError


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
