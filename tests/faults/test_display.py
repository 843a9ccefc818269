"""Films are shown as their display matrix tells: turned, mirrored, or both."""

import struct
from pathlib import Path

import numpy as np
import pytest
from made_data import write_clip

from mmjax.data.clip import read_frames

pytest.importorskip("av")

STORED = np.kron([[0, 80], [160, 240]], np.ones((16, 24))).astype(np.uint8)  # gray levels of the quarters
MATRICES = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0), (0, 1, 1, 0),
            (0, -1, -1, 0)]  # fmt: skip


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_film_is_shown_by_its_matrix(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    """ISO/IEC 14496-12, 8.3.2: the pixel (x, y) is shown at (a x + c y, b x + d y), up to a shift."""
    path = write_clip(tmp_path / "film.mp4", np.repeat(np.repeat(STORED[None, :, :, None], 3, 3), 4, 0))
    content = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    (image,) = read_frames(path, 1, 8.0, 32, 0.0, lambda image: image)
    a, b, c, d = matrix
    expected = np.zeros((2, 2), int)
    for y, x in np.ndindex(2, 2):
        right, down = 2 * x - 1, 2 * y - 1  # from the center
        expected[int(b * right + d * down > 0), int(a * right + c * down > 0)] = STORED[16 * y, 24 * x]
    assert image.shape == ((32, 48, 3) if a else (48, 32, 3))
    height, width = image.shape[0] // 4, image.shape[1] // 4
    assert np.abs(image[height :: 2 * height, width :: 2 * width, 0].astype(int) - expected).max() < 9
