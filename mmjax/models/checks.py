"""Checks of sizes that several kinds of models share."""

from mmjax.config import DataConfig
from mmjax.config.schema import require
from mmjax.types import Feature


def check_transformer(width: int, heads: int) -> None:
    """Raises UserError for a width that does not divide into heads, or that sin-cos positions do not divide."""
    require(width % heads == 0, f"model.heads: {heads} does not divide model.width, {width}")
    require(width % 4 == 0, f"model.width: must be a multiple of 4 (sin-cos positions in two directions), not {width}")


def check_widths(name: str, widths: tuple[int, ...], size: int) -> None:
    """Raises UserError where convolutions that halve the sides, one a width, do not fit an image."""
    require(len(widths) > 0, f"model.{name}: needs at least one width")
    cell = 2 ** len(widths)
    require(size % cell == 0, f"data.size: must be a multiple of {cell}, for {len(widths)} {name}, not {size}")


def image_field(name: str, data: DataConfig) -> Feature:
    """The image of a data set that a model takes as its reference, by its name.

    Raises:
        UserError: where the data has no such image.
    """
    images = {field: feature for field, feature in data.features.items() if feature.kind == "image"}
    require(
        name in images,
        f"model.reference: {name!r} is no image of data.source={data.source}, which gives {', '.join(images)}",
    )
    return images[name]
