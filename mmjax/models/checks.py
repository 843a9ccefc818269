"""Config checks shared by models."""

from mmjax.config import DataConfig
from mmjax.config.schema import require
from mmjax.types import Feature


def check_transformer(width: int, heads: int) -> None:
    """Raises UserError for a width that is not a multiple of the heads, or of 4 for sin-cos positions."""
    require(width % heads == 0, f"model.heads: {heads} does not divide model.width, {width}")
    require(width % 4 == 0, f"model.width: must be a multiple of 4 (sin-cos positions in two directions), not {width}")


def check_widths(name: str, widths: tuple[int, ...], size: int) -> None:
    """Raises UserError where 2 ** len(widths), the total stride, does not divide the image size."""
    require(len(widths) > 0, f"model.{name}: needs at least one width")
    cell = 2 ** len(widths)
    require(size % cell == 0, f"data.size: must be a multiple of {cell}, for {len(widths)} {name}, not {size}")


def image_field(name: str, data: DataConfig) -> Feature:
    """The image field of the data that is the model's reference.

    Raises:
        UserError: for an unknown name.
    """
    images = {field: feature for field, feature in data.features.items() if feature.kind == "image"}
    require(
        name in images,
        f"model.reference: {name!r} is not an image of data.source={data.source}; it has {', '.join(images)}",
    )
    return images[name]
