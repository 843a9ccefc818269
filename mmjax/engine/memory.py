"""The least memory that a training takes, told before anything is built where this machine has less."""

import math
import os
from typing import Any

import jax

from mmjax.config import Config
from mmjax.engine.setup import is_on_codes
from mmjax.parallel import Placement
from mmjax.train.state import State
from mmjax.types import UserError


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


def check_state(shapes: State, placement: Placement) -> None:
    """Raises UserError where the state and the gradients exceed the memory of a device.

    Args:
        shapes: of the state, with its shardings.
    """
    size = sum(map(_bytes, [*jax.tree.leaves(shapes), *jax.tree.leaves(shapes.params)]))
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
