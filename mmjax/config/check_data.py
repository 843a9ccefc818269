"""Combinations of the fields of a config's data, and of each component of a mixture, that no type can rule out."""

from mmjax import registry
from mmjax.config.data_fields import DataConfig
from mmjax.config.schema import require


def check_data(data: DataConfig, name: str = "data") -> None:
    """Raises UserError for the first that is impossible; `name` is that of the data in its config.

    What is impossible for one source alone, its spec checks (see mmjax.data.source.SourceSpec).
    """
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
