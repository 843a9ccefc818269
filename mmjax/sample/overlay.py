"""Where a model looked, laid over the images that it looked at."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

LEAST_SIDE = 160  # pixels of an image, so that small ones can be seen
COLUMNS = 10  # images of a line
LABEL = 26  # pixels below an image
STRENGTH = 0.75  # of the color where it looked most
COLORS = "inferno"


def overlay(image: UInt8[np.ndarray, "y x 3"], looked: Float[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "y x 3"]:
    """The image in gray, and over it the color of how much of the most that was looked at any place it got."""
    y, x, _ = image.shape
    relative = Image.fromarray((looked / max(float(looked.max()), 1e-12)).astype(np.float32))
    share = np.asarray(relative.resize((x, y), Image.Resampling.BILINEAR))[..., None]
    colors = matplotlib.colormaps[COLORS](share[..., 0])[..., :3] * 255
    gray = image.mean(axis=-1, keepdims=True)
    return np.rint(gray + STRENGTH * share * (colors - gray)).astype(np.uint8)


def draw_attention_maps(
    images: Sequence[UInt8[np.ndarray, "y x 3"]],
    titles: Sequence[str],
    words: Sequence[Sequence[str]],
    maps: Sequence[Float[np.ndarray, "_ rows columns"]],
) -> UInt8[np.ndarray, "height width 3"]:
    """One image of all: each image with its title, followed by what was looked at for each word, the word below.

    Args:
        images: of one size; they are drawn several times as large where they are small.
        titles: below the images.
        words, maps: of each image.
    """
    tiles: list[list[tuple[np.ndarray, str]]] = []
    for image, title, written, looked in zip(images, titles, words, maps, strict=True):
        times = max(1, round(LEAST_SIDE / min(image.shape[:2])))
        large = image.repeat(times, axis=0).repeat(times, axis=1)
        row = [(large, title), *((overlay(large, m), word) for m, word in zip(looked, written, strict=True))]
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
    """The text, or its beginning and three dots where it is wider."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
