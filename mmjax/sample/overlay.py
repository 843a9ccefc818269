"""Attention maps as overlays on images."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

MIN_SIDE = 160  # pixels; smaller images are enlarged
COLUMNS = 10  # images in a row
LABEL = 26  # pixels of a label below an image
STRENGTH = 0.75  # opacity at the maximum
COLORS = "inferno"


def overlay(
    image: UInt8[np.ndarray, "y x 3"], attention: Float[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "y x 3"]:
    """The image in gray, blended with the color map of the attention map relative to its maximum."""
    y, x, _ = image.shape
    relative = Image.fromarray((attention / max(float(attention.max()), 1e-12)).astype(np.float32))
    opacity = np.asarray(relative.resize((x, y), Image.Resampling.BILINEAR))[..., None]
    colors = matplotlib.colormaps[COLORS](opacity[..., 0])[..., :3] * 255
    gray = image.mean(axis=-1, keepdims=True)
    return np.rint(gray + STRENGTH * opacity * (colors - gray)).astype(np.uint8)


def _times(y: int, x: int) -> int:
    return max(1, round(MIN_SIDE / min(y, x)))


def largest_sheet(size: tuple[int, int], images: int, words: int) -> tuple[int, int]:
    """The height and width of draw_attention_maps for images of a size [y, x] with so many words each."""
    high, wide = (side * _times(*size) for side in size)
    return (high + LABEL) * images * -(-(words + 1) // COLUMNS), wide * min(words + 1, COLUMNS)


def draw_attention_maps(
    images: Sequence[UInt8[np.ndarray, "y x 3"]],
    titles: Sequence[str],
    words: Sequence[Sequence[str]],
    maps: Sequence[Float[np.ndarray, "_ rows columns"]],
) -> UInt8[np.ndarray, "height width 3"]:
    """One sheet of all images: each with its title, followed by the overlay of each word, labelled with the word.

    Args:
        images: of one size; small ones are enlarged.
        titles: below the images.
        words, maps: of each image.
    """
    tiles: list[list[tuple[np.ndarray, str]]] = []
    for image, title, labels, attention in zip(images, titles, words, maps, strict=True):
        times = _times(*image.shape[:2])
        large = image.repeat(times, axis=0).repeat(times, axis=1)
        row = [(large, title), *((overlay(large, m), word) for m, word in zip(attention, labels, strict=True))]
        tiles += [row[i : i + COLUMNS] for i in range(0, len(row), COLUMNS)]
    high, wide, _ = tiles[0][0][0].shape
    sheet = Image.new("RGB", (wide * max(map(len, tiles)), (high + LABEL) * len(tiles)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", LABEL // 2 + 2)
    for line, row in enumerate(tiles):
        for column, (tile, label) in enumerate(row):
            left, top = column * wide, line * (high + LABEL)
            sheet.paste(Image.fromarray(tile), (left, top))
            draw.text((left + wide // 2, top + high + 3), _fitting(label, font, wide - 6), "black", font, "ma")
    return np.asarray(sheet)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, truncated with an ellipsis to the width."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
