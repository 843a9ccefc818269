"""Sampling in chunks of one size gives the same image for any number of prompts."""

from typing import Any

import numpy as np
import pytest

from mmjax.sample.chunks import CHUNK
from mmjax.sample.direct import draw


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_chunks_are_padded_and_padding_is_dropped(count: int) -> None:
    sizes = []

    def apply(params: Any, text: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append((len(text), len(reference)))
        return {"image": reference + np.float32(0.5) * text[:, :1, None, None].astype(np.float32)}

    text = np.arange(count * 7, dtype=np.int32).reshape(count, 7) % 2
    reference = np.linspace(-1, 0.4, count * 5 * 5 * 3, dtype=np.float32).reshape(count, 5, 5, 3)
    images = draw(apply, {}, text, reference)
    assert set(sizes) == {(CHUNK, CHUNK)} and len(sizes) == -(-count // CHUNK)
    expected = (reference + text[:, :1, None, None] / 2) * 127.5 + 127.5
    assert images.shape == (count, 5, 5, 3)
    np.testing.assert_allclose(images, expected.clip(0, 255), atol=0.51)
