"""Checks of combinations of data fields."""

from mmjax import registry
from mmjax.config.data_fields import DataConfig
from mmjax.config.schema import require


def check_data(data: DataConfig, name: str = "data") -> None:
    """Raises UserError for the first invalid combination; `name` is the field of the data in its config."""
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
