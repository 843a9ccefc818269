"""Drawing in one pass: each image follows from its own text and reference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.sample.chunks import CHUNK
from mmjax.sample.direct import make_draw


@pytest.mark.parametrize("referred", [True, False])
def test_an_image_for_each_text(referred: bool) -> None:
    def apply(params: Any, text: jax.Array, reference: jax.Array | None = None) -> dict[str, jax.Array]:
        value = params["brightness"] * text[:, :1, None, None].astype(jnp.float32)
        return {"image": jnp.broadcast_to(value, (len(text), 5, 5, 3)) if reference is None else reference + value}

    draw = make_draw(apply)
    for count in (1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3):
        text = np.arange(count * 7, dtype=np.int32).reshape(count, 7) % 2
        reference = np.linspace(-1, 0.4, count * 5 * 5 * 3, dtype=np.float32).reshape(count, 5, 5, 3)
        given = [reference] if referred else []
        images = draw({"brightness": np.float32(0.5)}, text, *given)
        expected = (text[:, :1, None, None] / 2 + (reference if referred else np.zeros((5, 5, 3)))) * 127.5 + 127.5
        assert images.shape == (count, 5, 5, 3) and images.dtype == np.uint8
        np.testing.assert_allclose(images, expected.clip(0, 255), atol=0.51)
