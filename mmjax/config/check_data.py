"""Combinations of the fields of a config's data, and of each component of a mixture, that no type can rule out."""

from collections.abc import Mapping
from typing import Any

from mmjax import registry
from mmjax.config.data_fields import DataConfig
from mmjax.config.schema import require
from mmjax.types import UserError


def check_data(data: DataConfig, name: str = "data") -> None:
    """Raises UserError for the first that is impossible; `name` is that of the data in its config.

    What is impossible for one source alone, its spec checks (see mmjax.data.source.SourceSpec).
    """
    for field in ("size", "frames", "frame_rate", "shuffle_buffer"):
        require(getattr(data, field) > 0, f"{name}.{field}: must be above 0, not {getattr(data, field)}")
    for field in ("evaluation_examples", "num_answer_classes"):
        require(getattr(data, field) >= 0, f"{name}.{field}: must not be below 0, not {getattr(data, field)}")
    fraction = data.max_corrupt_fraction
    require(0 <= fraction <= 1, f"{name}.max_corrupt_fraction: must be from 0 to 1, not {fraction}")
    require(data.resize >= data.size, f"{name}.resize: {data.resize} is smaller than {name}.size, {data.size}")
    source = registry.find("source", data.source, f"{name}.source")
    for field in ("mixture", "options"):
        require(
            not getattr(data, field) or field in source.settings,
            f"{name}.{field}: is not for {name}.source={data.source}",
        )
    require(
        bool(data.root) or not source.needs_root,
        f"{name}.root: {data.source} needs the folder of the data set, as in --config.{name}.root=DIR",
    )
    require(
        data.frames == 1 or source.gives_clips,
        f"{name}.frames: {data.source} gives no clips of {data.frames} frames; set it to 1",
    )
    source.check(data, name)


def above_0(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        need(value > 0, f"{name}: must be above 0, not {value}")


def not_below_0(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        need(value >= 0, f"{name}: must not be below 0, not {value}")


def need(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
